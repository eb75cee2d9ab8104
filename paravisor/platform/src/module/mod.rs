//! Address spaces of modules at CPL-3: page tables of their own, and the way in and out.
//!
//! A [`ModuleSpace`] has frames of the memory accepted for modules ([`ModuleMemory`]): some are its pages, some its tables. The tables map
//! nothing of the paravisor but the gate (`stockade_entry::module`), by one entry of the top-level table that all share, and nothing of the
//! guest or of another module. A space runs on one processor at a time, and each entry loads CR3, so changes need no flush.

mod frames;
#[cfg(feature = "image")]
mod run;
mod tables;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::Range;

use spin::Mutex;

use frames::Frames;
use tables::Tables;

/// What a module may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageAccess {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    Write,
    /// Read and execute.
    Execute,
}

/// No frame is left, or the space has as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory is left for modules")]
pub struct NoFrames;

/// The module has no such memory, or may not do this with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a module has no such memory at {0:#x}")]
pub struct NoPage(pub u64);

/// The registers a module leaves with and is entered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModuleRegisters {
    /// RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
    pub general: [u64; 14],
    /// RAX.
    pub rax: u64,
    /// RSP.
    pub rsp: u64,
    /// RIP.
    pub rip: u64,
    /// RFLAGS; system flags in it do not count.
    pub rflags: u64,
    /// The base of FS.
    pub fs_base: u64,
}

/// Why a module gave the processor back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleExit {
    /// SYSCALL.
    Call,
    /// The host has signalled something.
    Interrupted,
    /// An exception: vector, error code, CR2.
    Exception(u8, u64, u64),
}

/// The memory of all modules.
#[derive(Clone, Debug)]
pub struct ModuleMemory {
    frames: Arc<Mutex<Frames>>,
    gate_entry: u64,
}

impl ModuleMemory {
    /// Returns the memory in `range`, whose spaces have `gate_entry` in their top-level tables.
    ///
    /// # Safety
    /// 1. The range is mapped one to one, writable, zero, and nothing else uses it, for ever.
    /// 2. Behind the entry nothing is mapped for users.
    #[cfg(any(test, feature = "image"))]
    pub(crate) unsafe fn new(range: Range<u64>, gate_entry: u64) -> Self {
        // SAFETY: 1. is the caller's promise.
        let frames = unsafe { Frames::new(range) };
        Self {
            frames: Arc::new(Mutex::new(frames)),
            gate_entry,
        }
    }

    /// Returns how many bytes modules have had at once, tables included, at most.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        self.frames.lock().most_bytes()
    }

    /// Returns a new, empty address space.
    pub fn space(&self) -> Result<ModuleSpace, NoFrames> {
        let tables = Tables::new(Arc::clone(&self.frames), self.gate_entry)?;
        Ok(ModuleSpace {
            tables,
            vectors: Vectors::initial(),
        })
    }
}

/// What XSAVE64 stores of x87, SSE and AVX in its standard form, which begins with what FXSAVE64 stores (APM vol. 2, 11.5.3).
#[repr(C, align(64))]
#[derive(Debug)]
struct Vectors([u8; 512 + 64 + 256]);

impl Vectors {
    /// As after a reset: control word, and MXCSR with all exceptions masked. By its header all else has its initial value.
    fn initial() -> Box<Self> {
        let mut bytes = [0; 512 + 64 + 256];
        bytes[..2].copy_from_slice(&0x37F_u16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1F80_u32.to_le_bytes());
        Box::new(Self(bytes))
    }
}

/// The address space of one module.
#[derive(Debug)]
pub struct ModuleSpace {
    tables: Tables,
    vectors: Box<Vectors>,
}

impl ModuleSpace {
    /// Gives the page at `page` this access. One that is not there begins with zeros, or stays away for [`PageAccess::None`]; one outside
    /// the addresses of modules is refused, and so is what would need more than `limit` frames, those of the tables included.
    pub fn map(&mut self, page: u64, access: PageAccess, limit: usize) -> Result<(), NoFrames> {
        self.tables.map(page, access, limit)
    }

    /// Takes away what is in a range of whole pages.
    pub fn unmap(&mut self, pages: Range<u64>) {
        self.tables.unmap(pages);
    }

    /// Moves what is at one page to another, where nothing is, within the same limit.
    pub fn shift(&mut self, from: u64, to: u64, limit: usize) -> Result<(), NoFrames> {
        self.tables.shift(from, to, limit)
    }

    /// Returns how many frames it has, those of its tables included.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.tables.frames()
    }

    /// Takes everything away, also what the vector registers hold.
    pub fn clear(&mut self) {
        self.tables.clear();
        self.vectors = Vectors::initial();
    }

    /// Copies from memory the module may read.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), NoPage> {
        self.tables.read(address, buffer)
    }

    /// Copies to memory the module may write.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), NoPage> {
        self.tables.write(address, bytes)
    }

    /// Copies to memory of the module, whatever it may do with it.
    pub fn load(&mut self, address: u64, bytes: &[u8]) -> Result<(), NoPage> {
        self.tables.load(address, bytes)
    }
}

#[cfg(test)]
mod tests;
