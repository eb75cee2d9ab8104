//! An address space that a module runs in, as the platform gives it: the few things that need hardware.

use core::ops::Range;

/// Bytes in a page.
pub const PAGE: u64 = 0x1000;
/// One past the highest address a module may have. Above, the tables of a module hold what entering and leaving it needs.
pub const USER_END: u64 = 0x7F_FFFF_F000;
/// The lowest address a module may have: below, null pointers fault.
pub const USER_START: u64 = 0x1_0000;

/// What a module may do with a page. None is both writable and executable, because it cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing; the page keeps its content.
    None,
    /// Read.
    Read,
    /// Read and write.
    Write,
    /// Read and execute.
    Execute,
}

/// No page is left for the module or its tables, or they have as many as they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory is left for modules")]
pub struct OutOfMemory;

/// The module may not do this at this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the module has no such memory at {0:#x}")]
pub struct BadAddress(pub u64);

/// The general registers of a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the register of its name")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    /// Where thread-local storage is.
    pub fs_base: u64,
}

/// An exception a module raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// Its error code; that of #VC is the exit code.
    pub error: u64,
    /// Of page faults, the address.
    pub address: u64,
}

/// Why a module gave the processor back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// SYSCALL: RIP is behind it.
    Call,
    /// The host has signalled something to this processor.
    Interrupted,
    /// An exception: RIP is at the instruction.
    Exception(Exception),
}

/// An address space. Addresses of pages are multiples of [`PAGE`] from [`USER_START`] to [`USER_END`]; others are refused.
pub trait Space: Send {
    /// Gives the page this access. A page that is not there begins with zeros, or stays away if nothing may be done with it. What would make it
    /// more than `limit` pages, those of its tables included, is refused.
    fn map(&mut self, page: u64, access: Access, limit: usize) -> Result<(), OutOfMemory>;
    /// Takes away the pages in a range of whole pages, however long it is.
    fn unmap(&mut self, pages: Range<u64>);
    /// Moves what is at one page to another, where nothing is, within the same limit. To where there was a page before it can always be moved.
    fn shift(&mut self, from: u64, to: u64, limit: usize) -> Result<(), OutOfMemory>;
    /// Returns how many pages there are, those of the tables included.
    fn pages(&self) -> usize;
    /// Takes everything away, also what the processor's vector registers hold.
    fn clear(&mut self);
    /// Copies from memory the module may read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress>;
    /// Copies to memory the module may write.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAddress>;
    /// Copies to memory of the module, whatever it may do with it: for the loader.
    fn load(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAddress>;
    /// Runs the module until it gives the processor back.
    fn run(&mut self, registers: &mut Registers) -> Exit;
}
