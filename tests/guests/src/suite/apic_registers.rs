//! The local APIC's registers in xAPIC mode (SDM 11.4 to 11.8, APM vol. 2, 16.3).

use super::{Context, Outcome, equal, holds, needs, refuses, taken, tests, within};
use crate::machine::apic::{
    APIC_BASE, ASSERT, BASE, BASE_BOOTSTRAP, BASE_ENABLE, DFR, ICR, ICR_HIGH, ID, IRR, ISR, LDR,
    LVT_ERROR, LVT_LINT0, LVT_LINT1, LVT_PERFORMANCE, LVT_THERMAL, LVT_TIMER, MASKED, PPR,
    SOFTWARE_ENABLE, SVR, TIMER_CURRENT, TMR, TO_SELF, TPR, VERSION, cpuid_id, errors, errors_of,
    read, send_self, write,
};
use crate::machine::processor::{cr8, open, rdmsr, set_cr8};
use crate::machine::{apic, ioapic, memory, trap, uart};

/// An offset at which neither maker has a register.
const NO_REGISTER: u64 = BASE + 0x40;
const SENT_ILLEGAL: u32 = 1 << 5;
const RECEIVED_ILLEGAL: u32 = 1 << 6;
const ILLEGAL_REGISTER: u32 = 1 << 7;

tests! {
    base_msr_names_fee00000_enabled, "APIC_BASE is FEE00000, enabled, and says this is the bootstrap processor.";
    version_is_integrated, "The version is 1xh with 4 to 7 LVT entries.";
    version_ignores_writes, "The version register is read-only.";
    id_is_the_initial_one_of_cpuid, "ID[31:24] is the initial APIC id of CPUID 1.";
    tpr_keeps_eight_bits, "TPR reads back bits 7:0 and none of the reserved ones.";
    tpr_write_shows_in_cr8, "CR8 is TPR[7:4].";
    cr8_write_shows_in_tpr, "A write of CR8 sets TPR[7:4] and clears TPR[3:0].";
    cr8_with_reserved_bits_faults, "MOV to CR8 of 16 is #GP(0).",
        known_qemu: "takes bits 3:0 of what is written to CR8";
    ppr_is_tpr_when_nothing_is_in_service, "PPR is TPR when nothing is in service.";
    ldr_keeps_its_upper_byte, "LDR has bits 31:24 only.";
    dfr_keeps_its_upper_nibble, "DFR has bits 31:28; the rest reads ones.";
    svr_reads_back, "SVR keeps vector and enable bit.";
    lvt_timer_keeps_its_bits = lvt::<LVT_TIMER, 0x3_00FF>, "LVT timer has vector, mask and mode.",
        known_qemu: "stores all 32 bits of an LVT entry";
    lvt_thermal_keeps_its_bits = lvt::<LVT_THERMAL, 0x1_07FF>, "LVT thermal has vector, delivery mode and mask.",
        known_qemu: "stores all 32 bits of an LVT entry";
    lvt_performance_keeps_its_bits = lvt::<LVT_PERFORMANCE, 0x1_07FF>, "LVT performance has vector, delivery mode and mask.",
        known_qemu: "stores all 32 bits of an LVT entry";
    lvt_lint0_keeps_its_bits = lvt::<LVT_LINT0, 0x1_A7FF>, "LVT LINT0 has vector, delivery mode, polarity, trigger mode and mask.",
        known_qemu: "stores all 32 bits of an LVT entry";
    lvt_lint1_keeps_its_bits = lvt::<LVT_LINT1, 0x1_A7FF>, "LVT LINT1 has vector, delivery mode, polarity, trigger mode and mask.",
        known_qemu: "stores all 32 bits of an LVT entry";
    lvt_error_keeps_its_bits = lvt::<LVT_ERROR, 0x1_00FF>, "LVT error has vector and mask.",
        known_qemu: "stores all 32 bits of an LVT entry";
    software_disable_masks_every_lvt, "Clearing SVR[8] sets all LVT mask bits (SDM 11.4.7.2).",
        known_qemu: "SVR leaves the LVT alone";
    software_disabled_lvt_stays_masked, "While software-disabled, LVT mask bits cannot be cleared.",
        known_qemu: "SVR leaves the LVT alone";
    software_enable_leaves_lvts_masked, "Setting SVR[8] again does not unmask the LVT.",
        known_qemu: "SVR leaves the LVT alone";
    irr_isr_and_tmr_ignore_writes, "IRR, ISR and TMR are read-only.";
    eoi_with_nothing_in_service_is_harmless, "An EOI with an empty ISR changes nothing.";
    icr_high_keeps_the_destination, "ICR high has bits 31:24 only.",
        known_qemu: "stores all 32 bits of ICR high";
    icr_reads_back_without_reserved_bits, "ICR low reads back what was sent, reserved and status bits zero.",
        known_qemu: "stores all 32 bits of ICR low";
    illegal_register_sets_esr, "A read of an offset without a register sets ESR[7].";
    esr_changes_by_a_write_only, "An error shows in ESR after ESR was written, not before (SDM 11.5.3, APM vol. 2, 16.4.6).",
        known_qemu: "shows errors at once";
    esr_write_rearms, "Two writes of ESR leave it clear.",
        known_qemu: "ESR never clears";
    sending_an_illegal_vector_sets_esr, "An IPI with vector 15 sets ESR[5], send illegal vector.",
        known_qemu: "does not look at the vector of an IPI";
    illegal_vector_is_not_delivered, "An IPI with vector 15 sets no bit of IRR.",
        known_qemu: "does not look at the vector of an IPI";
    receiving_an_illegal_vector_sets_esr, "An IOAPIC message with vector 5 sets ESR[6], received illegal vector.",
        known_qemu: "checks vectors of its own local sources only";
    error_interrupt_comes, "An error raises the vector of LVT error.",
        known_qemu: "has no error interrupt";
    masked_error_interrupt_stays_away, "With LVT error masked, an error raises nothing.";
    byte_of_id_reads_as_in_memory, "A one-byte read at 23h gives the id.",
        known_qemu: "reads narrower than 4 bytes give 0";
    word_of_version_reads_as_in_memory, "A two-byte read at 30h gives the low half of the version.",
        known_qemu: "reads narrower than 4 bytes give 0";
    quad_read_gives_the_register_below, "An eight-byte read at F0h gives SVR in its low half.",
        known_qemu: "refuses accesses of 8 bytes";
    quad_write_reaches_the_register_below, "An eight-byte write at 80h sets TPR from its low half and nothing else.",
        known_qemu: "refuses accesses of 8 bytes";
    write_between_registers_is_lost, "A four-byte write at 84h leaves TPR alone.",
        known_qemu: "every 4 bytes of the 16 are the register";
}

fn base_msr_names_fee00000_enabled(_: &mut Context) -> Outcome {
    equal(
        "APIC_BASE",
        rdmsr(APIC_BASE),
        BASE | BASE_ENABLE | BASE_BOOTSTRAP,
    )
}

fn version_is_integrated(_: &mut Context) -> Outcome {
    let version = read(VERSION);
    within("version", u64::from(version & 0xFF), 0x10, 0x1F)?;
    within("last LVT entry", u64::from(version >> 16 & 0xFF), 3, 6)
}

fn version_ignores_writes(_: &mut Context) -> Outcome {
    let version = read(VERSION);
    write(VERSION, !version);
    equal("version", read(VERSION), version)
}

fn id_is_the_initial_one_of_cpuid(_: &mut Context) -> Outcome {
    equal("ID", read(ID), u32::from(cpuid_id()) << 24)
}

fn tpr_keeps_eight_bits(_: &mut Context) -> Outcome {
    write(TPR, 0x5A);
    equal("TPR", read(TPR), 0x5A_u32)?;
    write(TPR, u32::MAX);
    equal("TPR of ones", read(TPR), 0xFF_u32)
}

fn tpr_write_shows_in_cr8(_: &mut Context) -> Outcome {
    write(TPR, 0xA7);
    equal("CR8", cr8(), 0xA_u64)
}

fn cr8_write_shows_in_tpr(_: &mut Context) -> Outcome {
    write(TPR, 0x37);
    set_cr8(5);
    equal("TPR", read(TPR), 0x50_u32)?;
    equal("CR8", cr8(), 5_u64)
}

fn cr8_with_reserved_bits_faults(_: &mut Context) -> Outcome {
    refuses("CR8 = 16", || set_cr8(16))?;
    refuses("CR8 = 2^63", || set_cr8(1 << 63))?;
    equal("CR8", cr8(), 0_u64)
}

fn ppr_is_tpr_when_nothing_is_in_service(_: &mut Context) -> Outcome {
    write(TPR, 0x37);
    equal("PPR", read(PPR), 0x37_u32)
}

fn ldr_keeps_its_upper_byte(_: &mut Context) -> Outcome {
    write(LDR, u32::MAX);
    equal("LDR", read(LDR), 0xFF00_0000_u32)?;
    write(LDR, 0xA5 << 24);
    equal("LDR", read(LDR), 0xA500_0000_u32)
}

fn dfr_keeps_its_upper_nibble(_: &mut Context) -> Outcome {
    write(DFR, 0);
    equal("DFR of zero", read(DFR), 0x0FFF_FFFF_u32)?;
    write(DFR, 0xF000_0000);
    equal("DFR of F0000000", read(DFR), u32::MAX)
}

fn svr_reads_back(_: &mut Context) -> Outcome {
    write(SVR, 0x1AF);
    equal("SVR", read(SVR), 0x1AF_u32)?;
    write(SVR, 0x0FF);
    equal("SVR disabled", read(SVR), 0x0FF_u32)
}

fn has_lvt(register: u32) -> bool {
    let last = read(VERSION) >> 16 & 0xFF;
    match register {
        LVT_PERFORMANCE => last >= 4,
        LVT_THERMAL => last >= 5,
        _ => true,
    }
}

fn lvt<const REGISTER: u32, const WRITABLE: u32>(_: &mut Context) -> Outcome {
    needs(
        "the version register says there is no such entry",
        has_lvt(REGISTER),
    )?;
    // Bit 18 is a mode that not every timer has.
    write(REGISTER, !(1 << 18));
    let ones = read(REGISTER);
    write(REGISTER, MASKED | 0x55);
    let masked = read(REGISTER);
    write(REGISTER, MASKED);
    equal("after a write of ones", ones, WRITABLE)?;
    equal("after a write of 10055", masked, MASKED | 0x55)
}

const LVTS: [u32; 4] = [LVT_TIMER, LVT_LINT0, LVT_LINT1, LVT_ERROR];

fn set_lvts(value: u32) {
    for lvt in LVTS {
        write(lvt, value);
    }
}

fn all_masked(what: &'static str) -> Outcome {
    for lvt in LVTS {
        equal(what, read(lvt) & MASKED, MASKED)?;
    }
    Ok(())
}

fn software_disable_masks_every_lvt(_: &mut Context) -> Outcome {
    set_lvts(0x41);
    write(SVR, 0xFF);
    all_masked("mask")
}

fn software_disabled_lvt_stays_masked(_: &mut Context) -> Outcome {
    write(SVR, 0xFF);
    set_lvts(0x41);
    all_masked("mask after a write without it")
}

fn software_enable_leaves_lvts_masked(_: &mut Context) -> Outcome {
    set_lvts(0x41);
    write(SVR, 0xFF);
    write(SVR, SOFTWARE_ENABLE | 0xFF);
    all_masked("mask after enabling")
}

fn irr_isr_and_tmr_ignore_writes(_: &mut Context) -> Outcome {
    for bank in [IRR, ISR, TMR] {
        for word in 1..8 {
            write(bank + word * 0x10, u32::MAX);
        }
    }
    open();
    taken("vector", &[])?;
    equal("IRR", apic::bits(IRR), 0_u32)?;
    equal("ISR", apic::bits(ISR), 0_u32)
}

fn eoi_with_nothing_in_service_is_harmless(_: &mut Context) -> Outcome {
    equal("errors", errors_of(apic::eoi), 0_u32)?;
    send_self(0x41);
    open();
    taken("vector", &[0x41])
}

fn icr_high_keeps_the_destination(_: &mut Context) -> Outcome {
    write(ICR_HIGH, u32::MAX);
    equal("ICR high", read(ICR_HIGH), 0xFF00_0000_u32)
}

fn icr_reads_back_without_reserved_bits(_: &mut Context) -> Outcome {
    write(ICR, 0xFFF3_2000 | TO_SELF | ASSERT | 0x41);
    equal("ICR low", read(ICR), TO_SELF | ASSERT | 0x41)
}

fn illegal_register_sets_esr(_: &mut Context) -> Outcome {
    let errors = errors_of(|| {
        memory::read32(NO_REGISTER);
    });
    equal("ESR", errors, ILLEGAL_REGISTER)
}

fn esr_changes_by_a_write_only(_: &mut Context) -> Outcome {
    memory::read32(NO_REGISTER);
    equal("ESR before a write", read(apic::ESR), 0_u32)?;
    equal("ESR after a write", errors(), ILLEGAL_REGISTER)
}

fn esr_write_rearms(_: &mut Context) -> Outcome {
    memory::read32(NO_REGISTER);
    errors();
    equal("ESR after the second write", errors(), 0_u32)
}

/// Lets a vector that must never come do so without harm.
fn swallow(vector: u8) {
    trap::hook(vector, |frame| {
        trap::record_only(frame);
        apic::eoi();
    });
}

fn sending_an_illegal_vector_sets_esr(_: &mut Context) -> Outcome {
    swallow(15);
    let errors = errors_of(|| send_self(15));
    open();
    equal("ESR[5]", errors & SENT_ILLEGAL, SENT_ILLEGAL)
}

fn illegal_vector_is_not_delivered(_: &mut Context) -> Outcome {
    swallow(15);
    send_self(15);
    let is_requested = apic::bit(IRR, 15);
    open();
    equal("IRR bit 15", is_requested, false)?;
    taken("vector", &[])
}

fn receiving_an_illegal_vector_sets_esr(context: &mut Context) -> Outcome {
    swallow(5);
    let errors = errors_of(|| {
        ioapic::set_entry(uart::IRQ, ioapic::to(context.me, 5));
        uart::pulse_line();
    });
    open();
    equal("ESR[6]", errors & RECEIVED_ILLEGAL, RECEIVED_ILLEGAL)
}

fn error_interrupt_comes(_: &mut Context) -> Outcome {
    write(LVT_ERROR, 0x61);
    memory::read32(NO_REGISTER);
    open();
    taken("vector", &[0x61])
}

fn masked_error_interrupt_stays_away(_: &mut Context) -> Outcome {
    write(LVT_ERROR, MASKED | 0x61);
    memory::read32(NO_REGISTER);
    open();
    taken("vector", &[])
}

fn byte_of_id_reads_as_in_memory(context: &mut Context) -> Outcome {
    // An id of zero would prove nothing, so the version's byte is looked at too.
    equal("byte 23h", memory::read8(BASE + 0x23), context.me)?;
    equal("byte 30h", memory::read8(BASE + 0x30), read(VERSION) & 0xFF)
}

fn word_of_version_reads_as_in_memory(_: &mut Context) -> Outcome {
    equal("word 32h", memory::read16(BASE + 0x32), read(VERSION) >> 16)?;
    equal(
        "word 30h",
        memory::read16(BASE + 0x30),
        read(VERSION) & 0xFFFF,
    )
}

fn quad_read_gives_the_register_below(_: &mut Context) -> Outcome {
    let value = trap::catch(|| memory::read64(BASE + u64::from(SVR)))?;
    equal("low half", value & 0xFFFF_FFFF, read(SVR))
}

fn quad_write_reaches_the_register_below(_: &mut Context) -> Outcome {
    trap::catch(|| memory::write64(BASE + u64::from(TPR), 0x77_0000_0033))?;
    holds("TIMER_CURRENT untouched", read(TIMER_CURRENT) == 0)?;
    equal("TPR", read(TPR), 0x33_u32)
}

fn write_between_registers_is_lost(_: &mut Context) -> Outcome {
    write(TPR, 0x22);
    memory::write32(BASE + 0x84, 0x99);
    equal("TPR", read(TPR), 0x22_u32)
}
