//! Instructions that touch a device, executed in place of the processor.
//!
//! [`Emulator::emulate`] runs the one instruction at the guest's RIP: it fetches it through the guest's page tables, decodes it with
//! iced and executes it on the registers in the save area. RAM goes to [`GuestMemory`], everything else to a [`MmioBus`].
//! [`Emulator::port_access`] does the same for an I/O port exit, with a [`PortBus`]. An [`Exception`] leaves no trace in the registers, so
//! that the instruction can start again; a string instruction keeps the elements it has finished, as the processor does.
//!
//! The order of the files is that of an instruction: fetch, execute (by family), guest memory, registers.

mod fetch;
mod io;

mod arithmetic;
mod bits;
mod exchange;
mod execute;
mod moves;
mod operand;
mod stack;
mod string;
mod vector;

mod alu;
mod flags;
mod shift;

mod exception;
mod guest;
mod registers;
mod segment;

pub use exception::Exception;
pub use iced_x86::Code;

use execute::Executor;
use fetch::DecodeCache;
use guest::Guest;
use registers::Cpu;
use stockade_abi::exit::NpfInfo;
use stockade_abi::vmsa::Vmsa;
use stockade_bus::{Gpa, GuestMemory, MemoryError};

use crate::exit::IoAccess;
use crate::walk::Access;

/// How many elements of a string instruction one call executes.
pub const REPEAT_LIMIT: usize = 256;

/// Whatever answers at guest-physical addresses that are not RAM. It always answers: where there is nothing, with ones.
pub trait MmioBus {
    /// Fills `data`, 1 to 16 bytes within one page, from `gpa`.
    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]);
    /// Takes `data`, 1 to 16 bytes within one page, at `gpa`.
    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]);
}

/// Whatever answers at I/O ports. It always answers: where there is nothing, with ones.
pub trait PortBus {
    /// Fills `data`, 1, 2 or 4 bytes, from `port`.
    fn port_read(&mut self, port: u16, data: &mut [u8]);
    /// Takes `data`, 1, 2 or 4 bytes, at `port`.
    fn port_write(&mut self, port: u16, data: &[u8]);
}

/// What an instruction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is complete; RIP is past it.
    Completed,
    /// As `Completed`, or one element of a string is done, and TF was set or a breakpoint was met: #DB is due. DR6 already says why.
    Trapped,
    /// A string instruction has elements left; RIP is still at it. Interrupts may be taken, then the guest goes on.
    Again,
}

/// Why an instruction could not be executed. The guest's registers are as they were, but for finished elements of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The guest gets an exception.
    #[error("exception {} at the guest's instruction", .0.vector)]
    Exception(Exception),
    /// The instruction is valid, but not one that is emulated. AVX, which is not even decoded, goes by the name `INVALID`.
    #[error("instruction {0:?} is not emulated")]
    Unsupported(Code),
    /// Nothing was done and the guest may simply go on: the instruction touches no device, or memory kept changing under it.
    #[error("the guest can execute the instruction itself")]
    Retry,
    /// The host withdrew guest memory.
    #[error(transparent)]
    Memory(MemoryError),
    /// The exit names no width, address size or segment there is.
    #[error("the exit describes no port access")]
    MalformedPortExit,
}

/// What a nested page fault said about the address it came from. It spares the walk for instructions with one memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    gpa: Gpa,
    access: Access,
}

impl Hint {
    /// Returns the hint in a nested page fault's exit information, if it was for data.
    ///
    /// The faulting translation was the processor's own, with the rights the access needed, so the page stands. It is used only for an access
    /// of the same kind at the same offset into its page, and only if the page is no RAM.
    #[must_use]
    pub fn from_exit(info: NpfInfo, gpa: Gpa) -> Option<Self> {
        let others = NpfInfo::PAGE_TABLE_WALK | NpfInfo::FETCH | NpfInfo::SHADOW_STACK;
        if !info.contains(NpfInfo::FINAL_GPA) || info.intersects(others) {
            return None;
        }
        let access = if info.contains(NpfInfo::WRITE) {
            Access::Write
        } else {
            Access::Read
        };
        Some(Self { gpa, access })
    }
}

/// Builds the decoder's tables (about 80 KiB of heap), which otherwise the first instruction does, while a guest waits.
pub fn prepare() {
    fetch::build_tables();
}

/// What one vCPU needs for emulation beyond its registers.
pub struct Emulator {
    phys_bits: u8,
    cache: DecodeCache,
}

impl Emulator {
    /// Returns the emulator of a vCPU whose guest sees addresses of `phys_bits` bits (CPUID 8000_0008).
    #[must_use]
    pub const fn new(phys_bits: u8) -> Self {
        Self {
            phys_bits,
            cache: DecodeCache::new(),
        }
    }

    /// Executes the instruction at RIP.
    pub fn emulate<B: MmioBus + ?Sized>(
        &mut self,
        vmsa: &mut Vmsa,
        memory: &dyn GuestMemory,
        bus: &mut B,
        hint: Option<Hint>,
    ) -> Result<Done, Stop> {
        let cpu = Cpu::new(vmsa, self.phys_bits);
        let mut guest = Guest::new(cpu, memory, bus);
        let instruction = self.cache.fetch(&mut guest)?;
        guest.set_hint(hint.filter(|_| execute::has_one_memory_operand(&instruction)));
        Executor { guest, instruction }.run()
    }

    /// Executes the IN, OUT, INS or OUTS of an I/O port exit; `next_rip` is the address after it, as the exit told.
    pub fn port_access<B: MmioBus + PortBus + ?Sized>(
        &self,
        vmsa: &mut Vmsa,
        memory: &dyn GuestMemory,
        bus: &mut B,
        access: &IoAccess,
        next_rip: u64,
    ) -> Result<Done, Stop> {
        let cpu = Cpu::new(vmsa, self.phys_bits);
        io::execute(Guest::new(cpu, memory, bus), access, next_rip)
    }
}

#[cfg(test)]
mod tests;
