//! Exceptions: one stub a vector, one frame for all.
//!
//! Each stub brings the stack into one shape, saves the general registers, x87, XMM and MXCSR, and calls
//! `stockade_exception`, which `stockade-platform` defines. Every vector runs on an IST stack, since the precompiled core
//! library uses the red zone. #HV has a stub of its own in [`crate::window`]: it may come at any instruction. What a module at CPL-3
//! raises leads out of the module ([`crate::module`]).

#[cfg(feature = "image")]
use stockade_abi::{
    ghcb_msr::{GHCB_MSR, terminate_request},
    terminate::{STOCKADE_REASON_SET, StopReason},
};

/// The registers as an exception found them; writing them changes what is returned to.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct ExceptionFrame {
    /// x87, MMX, XMM and MXCSR as FXSAVE64 stores them (APM vol. 1, 11.4.4).
    pub fxsave: [u64; 64],
    /// General register.
    pub r15: u64,
    /// General register.
    pub r14: u64,
    /// General register.
    pub r13: u64,
    /// General register.
    pub r12: u64,
    /// General register.
    pub r11: u64,
    /// General register.
    pub r10: u64,
    /// General register.
    pub r9: u64,
    /// General register.
    pub r8: u64,
    /// General register.
    pub rbp: u64,
    /// General register.
    pub rdi: u64,
    /// General register.
    pub rsi: u64,
    /// General register.
    pub rdx: u64,
    /// General register.
    pub rcx: u64,
    /// General register.
    pub rbx: u64,
    /// General register.
    pub rax: u64,
    /// The vector, 0 to 255.
    pub vector: u64,
    /// The error code the processor pushed, or 0.
    pub error_code: u64,
    /// Where the exception happened.
    pub rip: u64,
    /// The code segment there.
    pub cs: u64,
    /// The flags there.
    pub rflags: u64,
    /// The stack pointer there.
    pub rsp: u64,
    /// The stack segment there.
    pub ss: u64,
}

const _: () = assert!(size_of::<ExceptionFrame>() == 512 + 22 * 8);

/// Bytes from one stub to the next.
#[cfg(feature = "image")]
const STUB_BYTES: u64 = 16;

#[cfg(feature = "image")]
core::arch::global_asm!(
    ".section .text.gate, \"ax\", @progbits",
    ".balign 16",
    "stockade_stubs:",
    ".set stockade_vector, 0",
    ".rept 256",
    ".balign 16",
    // Vectors without an error code get a zero in its place (APM vol. 2, table 8-1).
    ".if (stockade_vector != 8) && (stockade_vector != 17) && (stockade_vector != 21) && (stockade_vector != 29) && (stockade_vector != 30) && ((stockade_vector < 10) || (stockade_vector > 14))",
    ".byte 0x6a, 0", // push 0
    ".endif",
    ".byte 0x68", // push imm32
    ".long stockade_vector",
    "jmp stockade_exception_entry",
    ".set stockade_vector, stockade_vector + 1",
    ".endr",
    ".balign 16",
    "stockade_exception_entry:",
    "test byte ptr [rsp + 24], 3", // CS: a module's
    "jnz stockade_module_exception",
    // On the way to a module and back there are no tables to call Rust with. Nothing faults there but by a mistake of ours.
    "push rax",
    "lea rax, [rip + __gate_start]",
    "cmp [rsp + 24], rax",
    "jb 2f",
    "lea rax, [rip + __gate_end]",
    "cmp [rsp + 24], rax",
    "jb 3f",
    "2:",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 512",
    "fxsave64 [rsp]",
    "cld",
    "mov rdi, rsp",
    "call stockade_exception",
    "fxrstor64 [rsp]",
    "add rsp, 512",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    "3:", // wrmsr, vmgexit
    "mov ecx, {ghcb_msr}",
    "mov eax, {unexpected}",
    "xor edx, edx",
    "wrmsr",
    ".byte 0xf3, 0x0f, 0x01, 0xd9",
    "jmp 3b",
    ".text",
    ghcb_msr = const GHCB_MSR,
    unexpected = const terminate_request(STOCKADE_REASON_SET, StopReason::UNEXPECTED_EXCEPTION.code()),
);

#[cfg(feature = "image")]
unsafe extern "C" {
    static stockade_stubs: [u8; 0];
}

/// Returns the address of the stub of `vector`.
#[cfg(feature = "image")]
#[must_use]
pub fn stub(vector: u8) -> u64 {
    &raw const stockade_stubs as u64 + STUB_BYTES * u64::from(vector)
}
