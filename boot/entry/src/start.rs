//! The first instructions: accept the memory that was not launched, zero it, call Rust.
//!
//! The VMSA gives RIP, CR3, a flat 64-bit code segment and interrupts off; nothing else means anything. There is no stack
//! before the boot stack is accepted, so the code keeps to registers. Acceptance demands that each page *changes* from not
//! validated to validated (carry clear): a page already validated would be a page the host put there before (APM vol. 3,
//! PVALIDATE). Any failure ends in a termination request, as nobody could print it.

use core::arch::global_asm;

use stockade_abi::ghcb_msr;
use stockade_abi::terminate::{STOCKADE_REASON_SET, StopReason};
use stockade_boot::layout::{LARGE_PAGE_SIZE, PAGE_SIZE, paravisor};

/// CR0: MP, ET, NE and WP on; EM and TS off, or SSE would fault.
const CR0_SET: u64 = 1 << 1 | 1 << 5 | 1 << 16;
const CR0_CLEAR: u64 = !(1 << 2 | 1 << 3);
/// CR4: OSFXSR and OSXMMEXCPT.
const CR4_SET: u64 = 1 << 9 | 1 << 10;

const ACCEPT_FAILED: u64 =
    ghcb_msr::terminate_request(STOCKADE_REASON_SET, StopReason::ACCEPT_FAILED.code());

global_asm!(
    ".section .text.start, \"ax\", @progbits",
    ".global stockade_start",
    "stockade_start:",
    "cli",
    "cld",
    "mov rax, cr0",
    "and rax, {cr0_clear}",
    "or rax, {cr0_set}",
    "mov cr0, rax",
    "mov rax, cr4",
    "or rax, {cr4_set}",
    "mov cr4, rax",
    "fninit",
    "ldmxcsr [rip + stockade_mxcsr]",
    // The boot stack, then what is left of the page table's span.
    "mov rsi, {stack_base}",
    "mov rdi, {stack_top}",
    "lea r15, [rip + 2f]",
    "jmp stockade_accept_small",
    "2: lea rsi, [rip + __launched_end]",
    "mov rdi, {small_end}",
    "lea r15, [rip + 3f]",
    "jmp stockade_accept_small",
    "3: mov r14, {small_end}", // r14: large page being accepted
    "4: mov rax, {end}",
    "cmp r14, rax",
    "jae 6f",
    "mov rax, r14",
    "mov ecx, 1",
    "mov edx, 1",
    ".byte 0xf2, 0x0f, 0x01, 0xff", // pvalidate
    "setc cl",
    "cmp eax, 6",
    "je 5f",
    "test eax, eax",
    "jnz stockade_accept_failed",
    "test cl, cl",
    "jnz stockade_accept_failed",
    "add r14, {large}",
    "jmp 4b",
    "5: mov rsi, r14", // the host backs it by small pages
    "add r14, {large}",
    "mov rdi, r14",
    "lea r15, [rip + 4b]",
    "jmp stockade_accept_small",
    // Zero what was accepted: the host chose its content.
    "6: xor eax, eax",
    "mov rdi, {stack_base}",
    "mov ecx, {stack_quads}",
    "rep stosq",
    "lea rdi, [rip + __launched_end]",
    "mov rcx, {end}",
    "sub rcx, rdi",
    "shr rcx, 3",
    "rep stosq",
    "mov rsp, {stack_top}",
    "xor ebp, ebp",
    "call stockade_boot_main",
    "ud2",
    // rsi: first page, rdi: end, r15: where to continue. Uses rax, rcx, rdx.
    "stockade_accept_small:",
    "cmp rsi, rdi",
    "jae 2f",
    "mov rax, rsi",
    "xor ecx, ecx",
    "mov edx, 1",
    ".byte 0xf2, 0x0f, 0x01, 0xff", // pvalidate
    "setc cl",
    "test eax, eax",
    "jnz stockade_accept_failed",
    "test cl, cl",
    "jnz stockade_accept_failed",
    "add rsi, {small}",
    "jmp stockade_accept_small",
    "2: jmp r15",
    "stockade_accept_failed:",
    "mov ecx, {ghcb_msr}",
    "mov eax, {accept_failed}",
    "xor edx, edx",
    "wrmsr",
    ".byte 0xf3, 0x0f, 0x01, 0xd9", // vmgexit
    "2: hlt",
    "jmp stockade_accept_failed",
    ".balign 4",
    "stockade_mxcsr: .long 0x1f80",
    cr0_set = const CR0_SET,
    cr0_clear = const CR0_CLEAR,
    cr4_set = const CR4_SET,
    stack_base = const paravisor::STACK_BASE,
    stack_top = const paravisor::STACK_TOP,
    stack_quads = const paravisor::STACK_SIZE / 8,
    small_end = const paravisor::BASE + paravisor::SMALL_PAGE_SPAN,
    end = const paravisor::END,
    small = const PAGE_SIZE,
    large = const LARGE_PAGE_SIZE,
    ghcb_msr = const ghcb_msr::GHCB_MSR,
    accept_failed = const ACCEPT_FAILED,
);
