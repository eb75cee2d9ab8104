//! Ring 3: what it may not do, and registers of chips it may reach (APM vol. 2, 4.8, 5.6, 8.2).

use super::{Context, Outcome, equal, faults, holds, note, noted, tests};
use crate::machine::apic::{self, BASE};
use crate::machine::memory::{
    PRESENT, Page, SPARE, UNCACHED, USER, WRITABLE, map, read32, window, write8,
};
use crate::machine::segments::{USER_CODE, USER_DATA, set_ring0_stack};
use crate::machine::trap::{
    Fault, GENERAL_PROTECTION, INVALID_OPCODE, PAGE_FAULT, hook, record_and_end,
};

const CODE_PAGE: usize = 4;
const STACK_PAGE: usize = 5;
const APIC_PAGE: usize = 6;

tests! {
    in_is_refused, "IN in ring 3 with IOPL 0 is #GP(0).";
    out_is_refused, "OUT in ring 3 with IOPL 0 is #GP(0).";
    rep_ins_is_refused, "REP INSB in ring 3 is #GP(0) before anything is moved.";
    in_is_allowed_by_iopl, "IN in ring 3 with IOPL 3 works.";
    rdmsr_is_refused, "RDMSR in ring 3 is #GP(0).";
    wrmsr_is_refused, "WRMSR in ring 3 is #GP(0).";
    hlt_is_refused, "HLT in ring 3 is #GP(0).";
    cli_is_refused, "CLI in ring 3 with IOPL 0 is #GP(0).";
    mov_cr8_is_refused, "MOV from CR8 in ring 3 is #GP(0).";
    invd_is_refused, "INVD in ring 3 is #GP(0).",
        known_qemu: "10.0 lets ring 3 run INVD";
    cpuid_is_allowed, "CPUID in ring 3 works.";
    rdtsc_is_allowed, "RDTSC in ring 3 works with CR4.TSD clear.";
    int_n_to_a_ring_0_gate_is_refused, "INT n by a gate of DPL 0 is #GP with vector and IDT bit.",
        known_qemu: "counts gates of 16 bytes as two in error codes";
    register_by_a_user_page_is_read, "A register mapped for users is read in ring 3.";
    register_by_a_user_page_is_written, "A register mapped for users is written in ring 3.";
    register_by_a_supervisor_page_faults, "A register mapped for the supervisor is #PF(5) in ring 3.";
    register_by_a_read_only_user_page_faults, "A write by a read-only user page is #PF(7).";
    interrupt_comes_in_ring_3, "An interrupt comes in ring 3 and the saved CS has ring 3.";
    hypercall_instructions_are_invalid, "VMMCALL in ring 0, with no hypervisor offered, is #UD.";
}

/// Runs code in ring 3 with these flags and RDI; it ends by the fault it causes.
fn ring_3(code: &[u8], flags: u64, argument: u64) -> Result<(), Fault> {
    let [code_page, stack_page, kernel_stack, ..]: &[Page; 8] = &SPARE;
    for (at, byte) in (code_page.address()..).zip(code) {
        write8(at, *byte);
    }
    map(CODE_PAGE, code_page.address() | PRESENT | USER);
    map(STACK_PAGE, stack_page.address() | PRESENT | WRITABLE | USER);
    set_ring0_stack(kernel_stack.address() + 0x1000);
    crate::machine::trap::catch(|| unsafe {
        core::arch::asm!(
            "push {data}", "push {stack}", "push {flags}", "push {code}", "push {start}", "iretq",
            data = in(reg) u64::from(USER_DATA), stack = in(reg) window(STACK_PAGE + 1),
            flags = in(reg) flags | 2, code = in(reg) u64::from(USER_CODE),
            start = in(reg) window(CODE_PAGE), in("rdi") argument, in("rdx") 0x3FF_u64,
            in("rcx") 0x277_u64,
        );
    })
}

fn ends(code: &[u8], vector: u8, error: u64, offset: u64) -> Outcome {
    ends_with(code, 0, 0, vector, error, offset)
}

fn ends_with(
    code: &[u8],
    flags: u64,
    argument: u64,
    vector: u8,
    error: u64,
    offset: u64,
) -> Outcome {
    let ended = ring_3(code, flags, argument);
    holds("it ends by an exception", ended.is_err())?;
    let Err(fault) = ended else {
        return Ok(());
    };
    equal("exception", fault.vector, vector)?;
    equal("error code", fault.error, error)?;
    equal(
        "offset of the instruction",
        fault.rip.wrapping_sub(window(CODE_PAGE)),
        offset,
    )
}

fn is_refused(code: &[u8]) -> Outcome {
    ends(code, GENERAL_PROTECTION, 0, 0)
}

/// The code runs up to its UD2 at `offset`.
fn is_allowed(code: &[u8], flags: u64, argument: u64, offset: u64) -> Outcome {
    ends_with(code, flags, argument, INVALID_OPCODE, 0, offset)
}

fn in_is_refused(_: &mut Context) -> Outcome {
    is_refused(&[0xEC])
}

fn out_is_refused(_: &mut Context) -> Outcome {
    is_refused(&[0xEE])
}

fn rep_ins_is_refused(_: &mut Context) -> Outcome {
    is_refused(&[0xF3, 0x6C])
}

fn in_is_allowed_by_iopl(_: &mut Context) -> Outcome {
    is_allowed(&[0xEC, 0x0F, 0x0B], 3 << 12, 0, 1)
}

fn rdmsr_is_refused(_: &mut Context) -> Outcome {
    is_refused(&[0x0F, 0x32])
}

fn wrmsr_is_refused(_: &mut Context) -> Outcome {
    is_refused(&[0x0F, 0x30])
}

fn hlt_is_refused(_: &mut Context) -> Outcome {
    is_refused(&[0xF4])
}

fn cli_is_refused(_: &mut Context) -> Outcome {
    is_refused(&[0xFA])
}

fn mov_cr8_is_refused(_: &mut Context) -> Outcome {
    // MOV RAX, CR8.
    is_refused(&[0x44, 0x0F, 0x20, 0xC0])
}

fn invd_is_refused(_: &mut Context) -> Outcome {
    is_refused(&[0x0F, 0x08])
}

fn cpuid_is_allowed(_: &mut Context) -> Outcome {
    // XOR EAX, EAX; CPUID; UD2.
    is_allowed(&[0x31, 0xC0, 0x0F, 0xA2, 0x0F, 0x0B], 0, 0, 4)
}

fn rdtsc_is_allowed(_: &mut Context) -> Outcome {
    is_allowed(&[0x0F, 0x31, 0x0F, 0x0B], 0, 0, 2)
}

fn int_n_to_a_ring_0_gate_is_refused(_: &mut Context) -> Outcome {
    ends(&[0xCD, 0x80], GENERAL_PROTECTION, 0x80 << 3 | 2, 0)
}

fn map_apic(flags: u64) -> u64 {
    map(APIC_PAGE, BASE | UNCACHED | flags)
}

fn register_by_a_user_page_is_read(_: &mut Context) -> Outcome {
    let page = map_apic(PRESENT | USER);
    let version = read32(BASE + 0x30);
    // MOV EAX, [RDI + 30h]; CMP EAX, imm32; JNE over; UD2; over: INT3.
    let [v0, v1, v2, v3] = version.to_le_bytes();
    let code = [
        0x8B, 0x47, 0x30, 0x3D, v0, v1, v2, v3, 0x75, 2, 0x0F, 0x0B, 0xCC,
    ];
    is_allowed(&code, 0, page, 10)
}

fn register_by_a_user_page_is_written(_: &mut Context) -> Outcome {
    let page = map_apic(PRESENT | USER | WRITABLE);
    // MOV dword [RDI + 80h], 20h; UD2.
    let code = [0xC7, 0x87, 0x80, 0, 0, 0, 0x20, 0, 0, 0, 0x0F, 0x0B];
    is_allowed(&code, 0, page, 10)?;
    equal("TPR", apic::read(apic::TPR), 0x20_u32)
}

fn register_by_a_supervisor_page_faults(_: &mut Context) -> Outcome {
    let page = map_apic(PRESENT | WRITABLE);
    ends_with(&[0x8B, 0x47, 0x30], 0, page, PAGE_FAULT, 5, 0)
}

fn register_by_a_read_only_user_page_faults(_: &mut Context) -> Outcome {
    let page = map_apic(PRESENT | USER);
    ends_with(&[0x89, 0x47, 0x30], 0, page, PAGE_FAULT, 7, 0)
}

fn interrupt_comes_in_ring_3(_: &mut Context) -> Outcome {
    hook(0x41, |frame| {
        note(4, frame.cs);
        record_and_end(frame);
    });
    apic::send_self(0x41);
    // NOP; NOP; UD2, with IF set.
    is_allowed(&[0x90, 0x90, 0x0F, 0x0B], 1 << 9, 0, 2)?;
    equal("saved CS", noted(4), u64::from(USER_CODE))
}

fn hypercall_instructions_are_invalid(_: &mut Context) -> Outcome {
    let vmmcall = || unsafe { core::arch::asm!("vmmcall", out("rax") _) };
    faults("exception", INVALID_OPCODE, 0, vmmcall).map(|_| ())
}
