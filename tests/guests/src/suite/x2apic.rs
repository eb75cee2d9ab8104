//! x2APIC mode (SDM 11.12, APM vol. 2, 16.9 to 16.13), where CPUID offers it.

use super::{Context, Outcome, equal, holds, needs, refuses, taken, tests};
use crate::machine::apic::{
    self, APIC_BASE, ASSERT, BASE, BASE_BOOTSTRAP, BASE_ENABLE, BASE_X2APIC, LOGICAL, LOWEST, NMI,
    TO_ALL, TO_SELF, cpuid_id,
};
use crate::machine::memory::{read32, write32};
use crate::machine::processor::{cpuid, cr8, open, rdmsr, set_cr8, wrmsr};
use crate::machine::x2apic::{
    EOI, ESR, ICR, ID, IRR, ISR, LDR, LVT_TIMER, PPR, SELF_IPI, SVR, TIMER_CURRENT, TIMER_DIVIDE,
    TIMER_INITIAL, TMR, TPR, VERSION, enable, is_offered,
};
use crate::machine::{time, trap};

tests! {
    msrs_fault_in_xapic_mode, "In xAPIC mode the MSRs 802h.. are #GP.",
        known_qemu: "without x2APIC, unknown MSRs read 0";
    extd_without_cpuid_bit_faults, "Without CPUID 1 ECX[21], setting APIC_BASE[10] is #GP.",
        known_qemu: "ignores reserved bits of APIC_BASE";
    enabling_from_xapic_mode_is_legal, "xAPIC to x2APIC mode is legal; the bootstrap bit stays.";
    back_to_xapic_mode_faults, "x2APIC to xAPIC mode is #GP.";
    disabling_and_xapic_mode_again_is_legal, "x2APIC mode to disabled to xAPIC mode is legal.";
    extd_without_enable_faults, "EXTD without EN is #GP.";
    disabled_to_x2apic_mode_faults, "Disabled to x2APIC mode in one step is #GP.";
    id_is_32_bits_wide, "MSR 802h is the id of CPUID leaf Bh.";
    ldr_is_derived_from_the_id, "LDR is the id's cluster and bit.";
    version_is_the_same, "The version is the one of xAPIC mode.";
    read_only_msrs_refuse_writes, "ID, version, PPR, LDR, ISR, TMR, IRR and TMCCT refuse writes with #GP.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    write_only_msrs_refuse_reads, "EOI and self IPI refuse reads with #GP.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    eoi_other_than_zero_faults, "EOI takes 0 only.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    esr_other_than_zero_faults, "ESR takes 0 only.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    dfr_does_not_exist, "MSR 80Eh is #GP.";
    icr_high_does_not_exist, "MSR 831h is #GP.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    unused_msrs_fault, "MSRs between the registers are #GP.";
    tpr_above_ff_faults, "TPR refuses reserved bits.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    svr_reserved_bits_fault, "SVR refuses reserved bits.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    lvt_reserved_bits_fault, "An LVT entry refuses reserved bits.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    upper_half_faults, "A register of 32 bits refuses bits 63:32.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    icr_reserved_bits_fault, "ICR refuses reserved bits.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    tdcr_reserved_bits_fault, "TDCR refuses reserved bits.",
        known_qemu: "since 9.0 it has x2APIC, and refuses hardly anything there";
    tpr_and_cr8_are_one, "TPR and CR8 are the same register.";
    memory_page_is_gone, "In x2APIC mode the page at FEE00000 is no APIC.",
        known_qemu: "since 9.0 it has x2APIC, and leaves the page where it was";
    icr_reads_back_64_bits, "ICR reads back with its 32-bit destination.",
        known_qemu: "since 9.0 it has x2APIC, and ICR reads its low half only";
    ipi_to_own_id_arrives, "A fixed IPI to the own id is delivered.";
    ipi_to_foreign_id_does_not_arrive, "A fixed IPI to an id nobody has is not delivered here.";
    ipi_to_ff_is_no_broadcast, "FFh is an id like another, not a broadcast.";
    ipi_to_ffffffff_is_broadcast, "FFFFFFFFh is broadcast.";
    logical_ipi_arrives, "A logical IPI to the own LDR is delivered.";
    logical_ipi_to_another_cluster_does_not, "A logical IPI to another cluster is not delivered.";
    lowest_priority_arrives, "A lowest-priority IPI to the own LDR is delivered.";
    all_including_self_arrives, "The shorthand all including self is delivered.";
    self_ipi_msr_arrives, "A write of MSR 83Fh raises that vector.";
    nmi_arrives, "An NMI to the own id is delivered.";
    irr_and_isr_are_seen_by_msr, "IRR and ISR show a vector pending and in service.";
    timer_fires, "The timer works by MSR.";
    tmict_and_tmcct_work, "TMICT reads back and TMCCT counts.";
    illegal_vector_sets_esr, "Self IPI with vector 7 sets ESR.",
        known_qemu: "does not look at the vector of an IPI";
    state_is_kept_on_entry, "Turning x2APIC mode on keeps SVR, TPR and LVT.";
}

fn on() -> Outcome {
    needs("no x2APIC in CPUID", is_offered())?;
    enable();
    Ok(())
}

fn set_base(bits: u64) {
    wrmsr(APIC_BASE, BASE | rdmsr(APIC_BASE) & BASE_BOOTSTRAP | bits);
}

fn mode() -> u64 {
    rdmsr(APIC_BASE) & (BASE_ENABLE | BASE_X2APIC)
}

fn msrs_fault_in_xapic_mode(_: &mut Context) -> Outcome {
    refuses("RDMSR 802h", || rdmsr(ID))?;
    refuses("WRMSR 80Bh", || wrmsr(EOI, 0))
}

fn extd_without_cpuid_bit_faults(_: &mut Context) -> Outcome {
    needs("CPUID has x2APIC", !is_offered())?;
    refuses("APIC_BASE with EXTD", || {
        set_base(BASE_ENABLE | BASE_X2APIC)
    })
}

fn enabling_from_xapic_mode_is_legal(_: &mut Context) -> Outcome {
    let before = rdmsr(APIC_BASE);
    on()?;
    equal("APIC_BASE", rdmsr(APIC_BASE), before | BASE_X2APIC)
}

fn back_to_xapic_mode_faults(_: &mut Context) -> Outcome {
    on()?;
    refuses("EXTD cleared", || set_base(BASE_ENABLE))?;
    equal("mode", mode(), BASE_ENABLE | BASE_X2APIC)
}

fn disabling_and_xapic_mode_again_is_legal(_: &mut Context) -> Outcome {
    on()?;
    set_base(0);
    equal("mode", mode(), 0_u64)?;
    set_base(BASE_ENABLE);
    equal("mode", mode(), BASE_ENABLE)?;
    equal("ID", read32(BASE + 0x20), u32::from(cpuid_id()) << 24)
}

fn extd_without_enable_faults(_: &mut Context) -> Outcome {
    needs("no x2APIC in CPUID", is_offered())?;
    refuses("EXTD without EN from xAPIC mode", || set_base(BASE_X2APIC))?;
    enable();
    refuses("EXTD without EN from x2APIC mode", || set_base(BASE_X2APIC))
}

fn disabled_to_x2apic_mode_faults(_: &mut Context) -> Outcome {
    needs("no x2APIC in CPUID", is_offered())?;
    set_base(0);
    let outcome = refuses("both bits", || set_base(BASE_ENABLE | BASE_X2APIC));
    let after = mode();
    set_base(BASE_ENABLE);
    outcome?;
    equal("mode", after, 0_u64)
}

fn id_is_32_bits_wide(_: &mut Context) -> Outcome {
    on()?;
    equal("ID", rdmsr(ID), cpuid(0xB, 0).edx)
}

fn ldr_is_derived_from_the_id(_: &mut Context) -> Outcome {
    on()?;
    let id = rdmsr(ID);
    equal("LDR", rdmsr(LDR), id >> 4 << 16 | 1 << (id & 15))
}

fn version_is_the_same(_: &mut Context) -> Outcome {
    let version = apic::read(apic::VERSION);
    on()?;
    equal("version", rdmsr(VERSION), version)
}

fn read_only_msrs_refuse_writes(_: &mut Context) -> Outcome {
    on()?;
    for msr in [
        ID,
        VERSION,
        PPR,
        LDR,
        ISR,
        ISR + 7,
        TMR,
        IRR,
        IRR + 7,
        TIMER_CURRENT,
    ] {
        refuses("WRMSR of a read-only register", || wrmsr(msr, 0))?;
    }
    Ok(())
}

fn write_only_msrs_refuse_reads(_: &mut Context) -> Outcome {
    on()?;
    refuses("RDMSR of EOI", || rdmsr(EOI))?;
    refuses("RDMSR of self IPI", || rdmsr(SELF_IPI))
}

fn eoi_other_than_zero_faults(_: &mut Context) -> Outcome {
    on()?;
    refuses("EOI = 1", || wrmsr(EOI, 1))
}

fn esr_other_than_zero_faults(_: &mut Context) -> Outcome {
    on()?;
    refuses("ESR = 1", || wrmsr(ESR, 1))
}

fn absent(msr: u32) -> Outcome {
    refuses("RDMSR", || rdmsr(msr))?;
    refuses("WRMSR", || wrmsr(msr, 0))
}

fn dfr_does_not_exist(_: &mut Context) -> Outcome {
    on()?;
    absent(0x80E)
}

fn icr_high_does_not_exist(_: &mut Context) -> Outcome {
    on()?;
    absent(0x831)
}

fn unused_msrs_fault(_: &mut Context) -> Outcome {
    on()?;
    for msr in [
        0x800, 0x801, 0x804, 0x807, 0x829, 0x82E, 0x83A, 0x83D, 0x8FF,
    ] {
        absent(msr)?;
    }
    Ok(())
}

fn tpr_above_ff_faults(_: &mut Context) -> Outcome {
    on()?;
    refuses("TPR = 100h", || wrmsr(TPR, 0x100))
}

fn svr_reserved_bits_fault(_: &mut Context) -> Outcome {
    on()?;
    refuses("SVR[10]", || wrmsr(SVR, 1 << 10 | 0x1FF))
}

fn lvt_reserved_bits_fault(_: &mut Context) -> Outcome {
    on()?;
    refuses("LVT timer[8]", || wrmsr(LVT_TIMER, 1 << 16 | 1 << 8 | 0x41))?;
    refuses("LVT timer[31]", || {
        wrmsr(LVT_TIMER, 1 << 31 | 1 << 16 | 0x41)
    })
}

fn upper_half_faults(_: &mut Context) -> Outcome {
    on()?;
    for msr in [TPR, SVR, LVT_TIMER, TIMER_INITIAL, TIMER_DIVIDE, SELF_IPI] {
        refuses("bit 32", || wrmsr(msr, 1 << 32 | 0x1_0041 & 0xFF))?;
    }
    Ok(())
}

fn icr_reserved_bits_fault(_: &mut Context) -> Outcome {
    on()?;
    refuses("ICR[20]", || {
        wrmsr(ICR, 1 << 20 | u64::from(TO_SELF | ASSERT) | 0x41)
    })?;
    open();
    taken("vector", &[])
}

fn tdcr_reserved_bits_fault(_: &mut Context) -> Outcome {
    on()?;
    refuses("TDCR[4]", || wrmsr(TIMER_DIVIDE, 1 << 4))
}

fn tpr_and_cr8_are_one(_: &mut Context) -> Outcome {
    on()?;
    wrmsr(TPR, 0x7A);
    equal("CR8", cr8(), 7_u64)?;
    set_cr8(3);
    equal("TPR", rdmsr(TPR), 0x30_u64)
}

fn memory_page_is_gone(_: &mut Context) -> Outcome {
    on()?;
    wrmsr(TPR, 0x20);
    write32(BASE + 0x80, 0x55);
    equal("TPR after a write to memory", rdmsr(TPR), 0x20_u64)?;
    holds(
        "version not seen in memory",
        u64::from(read32(BASE + 0x30)) != rdmsr(VERSION),
    )
}

fn icr_reads_back_64_bits(_: &mut Context) -> Outcome {
    on()?;
    let command = 0x0BAD_CAFE_u64 << 32 | u64::from(ASSERT) | 0x41;
    wrmsr(ICR, command);
    equal("ICR", rdmsr(ICR), command)
}

fn arrives(destination: u32, command: u32) -> Outcome {
    on()?;
    apic::send(destination, command | ASSERT | 0x41);
    open();
    taken("vector", &[0x41])
}

fn stays_away(destination: u32, command: u32) -> Outcome {
    on()?;
    apic::send(destination, command | ASSERT | 0x41);
    open();
    taken("vector", &[])
}

fn ldr() -> Result<u32, super::Stop> {
    on()?;
    Ok(rdmsr(LDR) as u32)
}

fn ipi_to_own_id_arrives(context: &mut Context) -> Outcome {
    arrives(u32::from(context.me), 0)
}

fn ipi_to_foreign_id_does_not_arrive(_: &mut Context) -> Outcome {
    stays_away(0x0123_4500, 0)
}

fn ipi_to_ff_is_no_broadcast(_: &mut Context) -> Outcome {
    stays_away(0xFF, 0)
}

fn ipi_to_ffffffff_is_broadcast(_: &mut Context) -> Outcome {
    arrives(u32::MAX, 0)
}

fn logical_ipi_arrives(_: &mut Context) -> Outcome {
    arrives(ldr()?, LOGICAL)
}

fn logical_ipi_to_another_cluster_does_not(_: &mut Context) -> Outcome {
    stays_away(ldr()? ^ 1 << 16, LOGICAL)
}

fn lowest_priority_arrives(_: &mut Context) -> Outcome {
    arrives(ldr()?, LOGICAL | LOWEST)
}

fn all_including_self_arrives(_: &mut Context) -> Outcome {
    arrives(0, TO_ALL)
}

fn self_ipi_msr_arrives(_: &mut Context) -> Outcome {
    on()?;
    wrmsr(SELF_IPI, 0x41);
    open();
    taken("vector", &[0x41])
}

fn nmi_arrives(context: &mut Context) -> Outcome {
    on()?;
    apic::send(u32::from(context.me), NMI | ASSERT);
    open();
    taken("vector", &[trap::NMI])
}

fn irr_and_isr_are_seen_by_msr(_: &mut Context) -> Outcome {
    on()?;
    trap::hook(0x61, |frame| {
        super::note(0, apic::bit(apic::ISR, 0x61));
        trap::record_and_end(frame);
    });
    apic::send_self(0x61);
    equal("IRR", apic::bit(apic::IRR, 0x61), true)?;
    open();
    taken("vector", &[0x61])?;
    equal("ISR in the handler", super::noted(0), 1_u64)?;
    equal("ISR after EOI", apic::bit(apic::ISR, 0x61), false)
}

fn timer_fires(_: &mut Context) -> Outcome {
    on()?;
    apic::start_timer(0x41, apic::DIVIDE_1, 100_000);
    time::until_interrupted(2_000_000, || crate::machine::cpu::current().taken() > 0);
    taken("vector", &[0x41])
}

fn tmict_and_tmcct_work(_: &mut Context) -> Outcome {
    on()?;
    apic::start_timer(apic::MASKED | 0x41, apic::DIVIDE_1, u32::MAX);
    equal("TMICT", rdmsr(TIMER_INITIAL), u32::MAX)?;
    let first = rdmsr(TIMER_CURRENT);
    time::wait(50);
    holds("TMCCT falls", rdmsr(TIMER_CURRENT) < first)
}

fn illegal_vector_sets_esr(_: &mut Context) -> Outcome {
    on()?;
    trap::hook(7, |frame| {
        trap::record_only(frame);
        apic::eoi();
    });
    let errors = apic::errors_of(|| wrmsr(SELF_IPI, 7));
    open();
    holds("ESR[6:5]", errors & 0x60 != 0)
}

fn state_is_kept_on_entry(_: &mut Context) -> Outcome {
    apic::write(apic::SVR, 0x1EF);
    apic::write(apic::TPR, 0x50);
    apic::write(apic::LVT_TIMER, apic::MASKED | 0x77);
    on()?;
    let seen = [rdmsr(SVR), rdmsr(TPR), rdmsr(LVT_TIMER)];
    apic::reset();
    equal("SVR", seen[0], 0x1EF_u64)?;
    equal("TPR", seen[1], 0x50_u64)?;
    equal("LVT timer", seen[2], 0x1_0077_u64)
}
