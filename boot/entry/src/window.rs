//! Leaving for the host, unless the host has just signalled.
//!
//! The paravisor runs with interrupts off and polls the doorbell. An #HV that arrives between the last look at the doorbell
//! and the exit would otherwise be lost until the guest's next exit. So both exits test the doorbell's no-further-signal flag
//! and then execute inside a window of addresses; the #HV stub moves a return address inside the window to the cancel point.
//! GHCB specification, section 5 (#HV doorbell page); APM vol. 2, 15.36.16.

use core::arch::global_asm;

global_asm!(
    ".text",
    ".balign 16",
    ".global stockade_window_exit",
    ".type stockade_window_exit, @function",
    // rdi: doorbell page -> eax: 1 the host ran, 0 cancelled. Keeps all but eax and the flags.
    "stockade_window_exit:",
    "test byte ptr [rdi + 1], 0x80",
    "stockade_window_start:",
    "jnz stockade_window_cancel",
    ".byte 0xf3, 0x0f, 0x01, 0xd9", // vmgexit
    "stockade_window_end:",
    "mov eax, 1",
    "ret",
    "stockade_window_cancel:",
    "xor eax, eax",
    "ret",
    ".balign 16",
    ".global stockade_window_halt",
    ".type stockade_window_halt, @function",
    // rdi: doorbell page. Interrupts are on for the halt itself, as hosts judge wake-ups by it; only #HV can arrive.
    "stockade_window_halt:",
    "test byte ptr [rdi + 1], 0x80",
    "stockade_halt_start:",
    "jnz stockade_halt_end",
    "sti",
    "hlt",
    "stockade_halt_end:",
    "cli",
    "ret",
);

#[cfg(feature = "image")]
use crate::module::GATE_OFFSET;
#[cfg(feature = "image")]
use stockade_abi::{
    ghcb_msr::{GHCB_MSR, terminate_request},
    terminate::{STOCKADE_REASON_SET, StopReason},
};

#[cfg(feature = "image")]
global_asm!(
    // The #HV stub. The doorbell page holds everything, so there is nothing to record.
    // Each #HV starts at the top of the same stack. A host that raises one inside this stub, which the specification forbids,
    // has overwritten the frame that leads back: the machine stops with a coded reason.
    ".section .text.gate, \"ax\", @progbits",
    ".balign 16",
    ".global stockade_hv_stub",
    "stockade_hv_stub:",
    "test byte ptr [rsp + 8], 3", // CS: a module's
    "jnz 6f",
    "push rax",
    "push rcx",
    "mov rax, [rsp + 16]",
    "lea rcx, [rip + stockade_hv_stub]",
    "cmp rax, rcx",
    "jb 1f",
    "lea rcx, [rip + stockade_hv_stub_end]",
    "cmp rax, rcx",
    "jb 5f",
    "1:",
    "lea rcx, [rip + stockade_window_start]",
    "cmp rax, rcx",
    "jb 2f",
    "lea rcx, [rip + stockade_window_end]",
    "cmp rax, rcx",
    "jae 2f",
    "lea rcx, [rip + stockade_window_cancel]",
    "jmp 3f",
    "2:",
    "lea rcx, [rip + stockade_halt_start]",
    "cmp rax, rcx",
    "jb 7f",
    "lea rcx, [rip + stockade_halt_end]",
    "cmp rax, rcx",
    "jae 7f",
    "3:",
    "mov [rsp + 16], rcx",
    "4:",
    "pop rcx",
    "pop rax",
    "iretq",
    "5:", // wrmsr, vmgexit; a host that comes back from it gains nothing but another request
    "mov ecx, {ghcb_msr}",
    "mov eax, {lied}",
    "xor edx, edx",
    "wrmsr",
    ".byte 0xf3, 0x0f, 0x01, 0xd9",
    "jmp 5b",
    "6:", // out of a module; the frame is on this stack, so that another #HV ends here as above
    "swapgs",
    "mov gs:[{gate} + 112], rax",
    "mov qword ptr gs:[{gate} + 160], 28",
    "pop rax",
    "mov gs:[{gate} + 120], rax",
    "pop rax",
    "pop rax",
    "mov gs:[{gate} + 136], rax",
    "pop rax",
    "mov gs:[{gate} + 144], rax",
    "jmp stockade_module_save",
    "7:", // on the way into a module: back
    "lea rcx, [rip + stockade_module_window]",
    "cmp rax, rcx",
    "jb 4b",
    "lea rcx, [rip + stockade_module_last]",
    "cmp rax, rcx",
    "ja 4b",
    "lea rcx, [rip + stockade_module_cancel_swapped]",
    "je 3b",
    "lea rcx, [rip + stockade_module_cancel]",
    "jmp 3b",
    "stockade_hv_stub_end:",
    ".text",
    gate = const GATE_OFFSET,
    ghcb_msr = const GHCB_MSR,
    lied = const terminate_request(STOCKADE_REASON_SET, StopReason::HOST_LIED.code()),
);

unsafe extern "C" {
    #[cfg(feature = "image")]
    fn stockade_hv_stub();
    fn stockade_window_exit(doorbell: *const u8) -> u32;
    #[cfg(feature = "image")]
    fn stockade_window_halt(doorbell: *const u8);
}

/// Returns the address of the #HV stub.
#[cfg(feature = "image")]
#[must_use]
pub fn hv_stub() -> u64 {
    stockade_hv_stub as *const () as u64
}

/// Executes VMGEXIT unless an event is signalled; returns whether the host ran.
///
/// # Safety
/// 1. `doorbell` is this processor's doorbell page, mapped.
/// 2. The GHCB MSR and page hold a request whose effects on memory the caller accounts for.
#[must_use]
pub unsafe fn exit_unless_signalled(doorbell: *const u8) -> bool {
    // SAFETY: 1. and 2. are the caller's promise; VMGEXIT changes no register, and no memory but shared pages. The
    // adversary may signal at any instruction: the stub then cancels, which is reported as such.
    unsafe { stockade_window_exit(doorbell) != 0 }
}

/// Halts until the host signals an event, or returns at once if one is signalled.
///
/// # Safety
/// 1. `doorbell` is this processor's doorbell page, mapped.
/// 2. The #HV stub is installed.
#[cfg(feature = "image")]
pub unsafe fn halt_unless_signalled(doorbell: *const u8) {
    // SAFETY: 1. and 2. are the caller's promise. The adversary decides when we wake: a late one is a denial of service.
    unsafe { stockade_window_halt(doorbell) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signalled_doorbell_cancels_the_exit() {
        let doorbell = [0, 0x80];
        // SAFETY: the flag is set, so the routine returns before VMGEXIT.
        let ran = unsafe { exit_unless_signalled(doorbell.as_ptr()) };
        assert!(!ran);
    }
}
