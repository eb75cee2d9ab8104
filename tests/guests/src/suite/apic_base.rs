//! APIC_BASE: which values it takes, relocation, the disabled APIC (SDM 11.4.3 to 11.4.5, APM vol. 2, 16.3.1).
//!
//! Last of all groups: QEMU's APIC, once disabled, stays so.

use super::{Context, Outcome, Stop, equal, holds, needs, refuses, taken, tests};
use crate::machine::apic::{
    self, APIC_BASE, BASE, BASE_BOOTSTRAP, BASE_ENABLE, BASE_X2APIC, cpuid_id,
};
use crate::machine::memory::{PRESENT, UNCACHED, WRITABLE, map, read32, write32};
use crate::machine::processor::{cpuid, open, rdmsr, wrmsr};
use crate::machine::{time, x2apic};

/// Where nothing is: in the hole below the IOAPIC, but for its own page.
const ELSEWHERE: u64 = 0xFED8_0000;

tests! {
    reserved_low_bits_fault, "APIC_BASE refuses bits 7:0 and 9 with #GP.",
        known_qemu: "ignores reserved bits of APIC_BASE";
    bits_above_the_physical_width_fault, "APIC_BASE refuses address bits the processor does not have with #GP.",
        known_qemu: "ignores reserved bits of APIC_BASE";
    extd_without_en_faults, "EXTD without EN is #GP.",
        known_qemu: "ignores reserved bits of APIC_BASE";
    same_value_is_legal, "Writing what is there changes nothing.";
    relocated_page_answers, "After relocation the registers are at the new address.",
        known_qemu: "the page stays at FEE00000";
    relocated_page_is_gone_from_the_old_address, "After relocation the old address is no APIC.",
        known_qemu: "the page stays at FEE00000";
    relocated_apic_delivers, "A relocated APIC sends and ends interrupts.",
        known_qemu: "the page stays at FEE00000";
    disabling_clears_the_cpuid_bit, "CPUID 1 EDX[9] is APIC_BASE[11].";
    disabled_page_is_no_apic, "A disabled APIC has no registers in memory.",
        known_qemu: "the registers stay";
    disabled_page_reads_ones, "A read of a disabled APIC's page finds nothing: all ones.",
        known_qemu: "the registers stay";
    enabling_again_is_legal, "Disabled to xAPIC mode is legal, CPUID bit and registers come back.",
        known_qemu: "an APIC once disabled stays so";
    enabling_again_finds_reset_registers, "After disabling and enabling, SVR is FFh, LVTs are masked, TPR and LDR 0 (SDM 11.4.3).",
        known_qemu: "an APIC once disabled stays so";
    disabling_stops_the_timer, "Disabling stops the timer for good.",
        known_qemu: "an APIC once disabled stays so";
    disabling_forgets_what_was_pending, "Disabling clears IRR.",
        known_qemu: "an APIC once disabled stays so";
    reenabled_apic_delivers, "An APIC enabled again delivers interrupts.",
        known_qemu: "an APIC once disabled stays so";
}

fn set(value: u64) {
    wrmsr(APIC_BASE, value);
}

/// APIC_BASE as it is to be, with another address or without the enable bit.
fn base(address: u64, enable: u64) -> u64 {
    address | enable | rdmsr(APIC_BASE) & BASE_BOOTSTRAP
}

fn refuses_base(what: &'static str, value: u64) -> Outcome {
    let before = rdmsr(APIC_BASE);
    let outcome = refuses(what, || set(value));
    if outcome.is_err() && rdmsr(APIC_BASE) != before {
        set(before);
    }
    outcome?;
    equal("APIC_BASE", rdmsr(APIC_BASE), before)
}

fn reserved_low_bits_fault(_: &mut Context) -> Outcome {
    let here = base(BASE, BASE_ENABLE);
    refuses_base("bit 0", here | 1)?;
    refuses_base("bit 7", here | 1 << 7)?;
    refuses_base("bit 9", here | 1 << 9)
}

fn bits_above_the_physical_width_fault(_: &mut Context) -> Outcome {
    let width = cpuid(0x8000_0008, 0).eax & 0xFF;
    let here = base(BASE, BASE_ENABLE);
    refuses_base("first bit above", here | 1 << width)?;
    refuses_base("bit 63", here | 1 << 63)
}

fn extd_without_en_faults(_: &mut Context) -> Outcome {
    // A machine that does not refuse would disable the APIC, for good on some; so only where it is the CPUID bit's business.
    needs(
        "CPUID has x2APIC; group x2apic tries it",
        !x2apic::is_offered(),
    )?;
    refuses_base("EXTD with EN", base(BASE, BASE_ENABLE | BASE_X2APIC))
}

fn same_value_is_legal(_: &mut Context) -> Outcome {
    apic::write(apic::TPR, 0x30);
    set(rdmsr(APIC_BASE));
    equal("TPR", apic::read(apic::TPR), 0x30_u32)
}

/// Calls `body` with a mapping of the APIC moved elsewhere, and moves it back.
fn relocated<R>(body: impl FnOnce(u64) -> R) -> R {
    let page = map(0, ELSEWHERE | PRESENT | WRITABLE | UNCACHED);
    set(base(ELSEWHERE, BASE_ENABLE));
    let result = body(page);
    set(base(BASE, BASE_ENABLE));
    result
}

fn relocated_page_answers(_: &mut Context) -> Outcome {
    let version = apic::read(apic::VERSION);
    let (seen, task_priority) = relocated(|page| {
        write32(page + 0x80, 0x40);
        (read32(page + 0x30), read32(page + 0x80))
    });
    equal("version", seen, version)?;
    equal("TPR", task_priority, 0x40_u32)
}

fn relocated_page_is_gone_from_the_old_address(_: &mut Context) -> Outcome {
    let version = apic::read(apic::VERSION);
    let seen = relocated(|_| read32(BASE + 0x30));
    holds("no version at the old address", seen != version)
}

fn relocated_apic_delivers(_: &mut Context) -> Outcome {
    relocated(|page| {
        crate::machine::trap::hook(0x41, crate::machine::trap::record_only);
        write32(page + 0x310, 0);
        write32(page + 0x300, apic::TO_SELF | apic::ASSERT | 0x41);
        open();
        write32(page + 0xB0, 0);
    });
    taken("vector", &[0x41])
}

fn has_cpuid_bit() -> bool {
    cpuid(1, 0).edx >> 9 & 1 != 0
}

/// Disables the APIC, calls `body`, enables it again; fails if that does not help.
fn disabled<R>(body: impl FnOnce() -> R) -> Result<R, Stop> {
    set(base(BASE, 0));
    let result = body();
    set(base(BASE, BASE_ENABLE));
    equal(
        "APIC_BASE[11] after enabling",
        rdmsr(APIC_BASE) >> 11 & 1,
        1_u64,
    )?;
    Ok(result)
}

fn disabling_clears_the_cpuid_bit(_: &mut Context) -> Outcome {
    holds("CPUID bit while enabled", has_cpuid_bit())?;
    set(base(BASE, 0));
    let bit = has_cpuid_bit();
    set(base(BASE, BASE_ENABLE));
    equal("CPUID bit while disabled", bit, false)
}

fn disabled_page_is_no_apic(_: &mut Context) -> Outcome {
    let version = apic::read(apic::VERSION);
    let seen = disabled(|| read32(BASE + 0x30))?;
    holds("no version in memory", seen != version)
}

fn disabled_page_reads_ones(_: &mut Context) -> Outcome {
    let seen = disabled(|| read32(BASE + 0x30))?;
    equal("version register", seen, u32::MAX)
}

fn enabling_again_is_legal(_: &mut Context) -> Outcome {
    disabled(|| ())?;
    holds("CPUID bit", has_cpuid_bit())?;
    equal("ID", apic::read(apic::ID), u32::from(cpuid_id()) << 24)
}

fn enabling_again_finds_reset_registers(_: &mut Context) -> Outcome {
    apic::write(apic::TPR, 0x40);
    apic::write(apic::LDR, 0x1200_0000);
    apic::write(apic::LVT_ERROR, 0x61);
    disabled(|| ())?;
    equal("SVR", apic::read(apic::SVR), 0xFF_u32)?;
    equal("TPR", apic::read(apic::TPR), 0_u32)?;
    equal("LDR", apic::read(apic::LDR), 0_u32)?;
    equal("LVT error", apic::read(apic::LVT_ERROR), apic::MASKED)
}

fn disabling_stops_the_timer(_: &mut Context) -> Outcome {
    apic::start_timer(apic::PERIODIC | 0x41, apic::DIVIDE_1, 100_000);
    disabled(|| time::wait(1_000))?;
    apic::write(apic::SVR, 0x1FF);
    apic::write(apic::LVT_TIMER, 0x41);
    time::wait_interrupted(2_000);
    equal("TMCCT", apic::read(apic::TIMER_CURRENT), 0_u32)?;
    taken("vector", &[])
}

fn disabling_forgets_what_was_pending(_: &mut Context) -> Outcome {
    apic::send_self(0x41);
    disabled(|| ())?;
    apic::write(apic::SVR, 0x1FF);
    open();
    taken("vector", &[])
}

fn reenabled_apic_delivers(_: &mut Context) -> Outcome {
    disabled(|| ())?;
    apic::write(apic::SVR, 0x1FF);
    apic::send_self(0x41);
    open();
    taken("vector", &[0x41])
}
