//! Control registers and XCR0: what they refuse (APM vol. 2, 3.1 and 11.5).

use core::arch::asm;

use super::{Context, Outcome, Stop, needs, refuses, tests};
use crate::machine::processor::{cpuid, cr3, cr4, has_feature_ecx, set_cr4};

tests! {
    xcr0_refuses_no_x87, "XSETBV without bit 0 is #GP(0).";
    xcr0_refuses_avx_without_sse, "XSETBV with AVX and without SSE is #GP(0).";
    cr0_refuses_nw_without_cd, "CR0.NW without CD is #GP(0).",
        known_qemu: "does not check CR0";
    cr0_refuses_upper_bits, "CR0[63:32] other than zero is #GP(0).",
        known_qemu: "does not check CR0";
    cr0_refuses_paging_without_protection, "CR0.PG without PE is #GP(0).";
    cr4_refuses_reserved_bits, "A reserved bit of CR4 is #GP(0).";
    cr4_refuses_to_leave_pae_in_long_mode, "Clearing CR4.PAE in long mode is #GP(0).";
    cr3_refuses_reserved_bits, "CR3 bits above the physical width are #GP(0).";
}

/// Emulators lose the CPU at some illegal values, below a hypervisor too, and the whole run with it; so these have to be asked for.
fn risky(context: &Context) -> Outcome {
    needs(
        "without the word risky: TCG stops here for good",
        context.is_risky,
    )
}

fn xsetbv(value: u32) -> Result<(), Stop> {
    let before = cr4();
    set_cr4(before | 1 << 18);
    let outcome = refuses("XSETBV", || unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value, in("edx") 0)
    });
    set_cr4(before);
    outcome
}

fn xcr0_refuses_no_x87(_: &mut Context) -> Outcome {
    needs("no XSAVE in CPUID", has_feature_ecx(26))?;
    xsetbv(2)
}

fn xcr0_refuses_avx_without_sse(_: &mut Context) -> Outcome {
    needs("no XSAVE in CPUID", has_feature_ecx(26))?;
    needs("no AVX state", cpuid(0xD, 0).eax & 4 != 0)?;
    xsetbv(5)
}

fn cr0() -> u64 {
    let value;
    unsafe { asm!("mov {}, cr0", out(reg) value) };
    value
}

fn set_cr0(value: u64) {
    unsafe { asm!("mov cr0, {}", in(reg) value) };
}

fn refuses_cr0(what: &'static str, value: u64) -> Outcome {
    let before = cr0();
    let outcome = refuses(what, || set_cr0(value));
    set_cr0(before);
    outcome
}

fn cr0_refuses_nw_without_cd(_: &mut Context) -> Outcome {
    refuses_cr0("NW without CD", cr0() & !(1 << 30) | 1 << 29)
}

fn cr0_refuses_upper_bits(_: &mut Context) -> Outcome {
    refuses_cr0("bit 32", cr0() | 1 << 32)
}

fn cr0_refuses_paging_without_protection(context: &mut Context) -> Outcome {
    risky(context)?;
    refuses("PG without PE", || set_cr0(cr0() & !1))
}

fn cr4_refuses_reserved_bits(context: &mut Context) -> Outcome {
    risky(context)?;
    refuses("bit 63", || set_cr4(cr4() | 1 << 63))?;
    refuses("bit 15", || set_cr4(cr4() | 1 << 15))
}

fn cr4_refuses_to_leave_pae_in_long_mode(context: &mut Context) -> Outcome {
    risky(context)?;
    refuses("PAE clear", || set_cr4(cr4() & !(1 << 5)))
}

fn cr3_refuses_reserved_bits(context: &mut Context) -> Outcome {
    risky(context)?;
    let width = cpuid(0x8000_0008, 0).eax & 0xFF;
    needs("all address bits exist", width < 52)?;
    let value = cr3() | 1 << 51;
    refuses("bit 51", || unsafe { asm!("mov cr3, {}", in(reg) value) })
}
