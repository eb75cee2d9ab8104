//! How the local APIC accepts, orders and delivers interrupts (SDM 11.6 and 11.8, APM vol. 2, 16.5 and 16.6).

use super::{Context, Outcome, equal, hooked, needs, note, noted, taken, tests};
use crate::machine::apic::{
    ASSERT, DFR, IRR, ISR, LDR, LOGICAL, LOWEST, NMI, PPR, SVR, TMR, TO_ALL, TPR, bit, read, send,
    send_self, write,
};
use crate::machine::cpu;
use crate::machine::processor::{cli, cpuid, open, set_cr8, sti};
use crate::machine::trap::{self, Frame};

tests! {
    self_shorthand_reaches_this_cpu, "An IPI with the self shorthand is delivered.";
    physical_id_reaches_this_cpu, "An IPI to this CPU's id is delivered.";
    foreign_physical_id_does_not, "An IPI to an id nobody has is not delivered here.";
    physical_broadcast_reaches_this_cpu, "An IPI to physical FFh is delivered.";
    all_shorthand_reaches_this_cpu, "An IPI to all including self is delivered.";
    flat_logical_match_is_delivered, "Flat model: a common bit of MDA and LDR accepts.";
    flat_logical_mismatch_is_not, "Flat model: no common bit, no delivery.";
    empty_ldr_accepts_no_logical_destination, "With LDR 0 no logical destination fits.";
    cluster_logical_match_is_delivered, "Cluster model: same cluster and a common bit accepts.";
    cluster_logical_mismatch_is_not, "Cluster model: another cluster does not accept.";
    cluster_broadcast_is_delivered, "Cluster model: cluster F with the bit set reaches all clusters.",
        known_qemu: "knows no broadcast of clusters";
    lowest_priority_reaches_the_only_candidate, "A lowest-priority IPI to one CPU is delivered to it.";
    request_waits_in_irr, "With IF clear the request stands in IRR and not in ISR.";
    service_moves_the_bit_to_isr, "In the handler the bit is in ISR and no longer in IRR.";
    eoi_clears_isr, "After EOI the bit is gone from ISR.";
    ipi_leaves_tmr_clear, "An edge-triggered interrupt clears its TMR bit.";
    higher_vector_comes_first, "Of several pending vectors the highest is taken first.";
    higher_vector_of_a_class_comes_first, "Within one class too the highest vector is taken first.";
    same_vector_twice_is_taken_once, "A vector requested twice while pending is delivered once.";
    vector_in_service_can_be_requested_again, "A vector requested while in service is delivered again after EOI.";
    higher_class_nests, "A higher class interrupts a handler that enables interrupts.";
    lower_class_waits_for_eoi, "A lower class waits for the EOI of the higher one.";
    same_class_waits_for_eoi, "A higher vector of the same class waits for EOI too.";
    eoi_ends_the_highest_in_service, "EOI in a nested handler ends the inner interrupt, not the outer.";
    tpr_blocks_its_class, "TPR 50h blocks 5Fh and lets 60h through.";
    tpr_low_nibble_blocks_nothing, "TPR 4Fh lets 50h through.";
    cr8_fifteen_blocks_all_vectors, "CR8 15 blocks even EFh and F1h.";
    cr8_fifteen_lets_nmi_through, "CR8 15 does not block NMI.";
    tpr_raised_between_request_and_window_blocks, "TPR raised after the request and before interrupts are on blocks it.";
    cr8_raised_between_request_and_window_blocks, "CR8 raised after the request and before interrupts are on blocks it.";
    lowering_cr8_releases_before_the_next_instruction, "With IF set, lowering CR8 lets the pending vector come before the next instruction.";
    lowering_tpr_releases, "With IF set, lowering TPR by memory lets the pending vector come.";
    higher_vector_overtakes_a_queued_one, "A vector queued over several exits gives way to a higher one that comes later.";
    ppr_in_a_handler_is_the_class_in_service, "In a handler for 61h with TPR 0, PPR is 60h.";
    ppr_in_a_handler_is_tpr_if_higher, "TPR 73h in that handler makes PPR 73h.";
    software_disabled_accepts_no_fixed_interrupt, "A fixed IPI to a software-disabled APIC is lost (APM vol. 2, 16.4.2).",
        known_qemu: "takes it into IRR and delivers it after enabling";
    software_disabled_accepts_nmi, "An NMI to a software-disabled APIC is delivered.";
    low_half_resend_uses_the_same_destination, "A second write of ICR low sends to the destination that stands in ICR high.";
}

fn arrives(destination: u32, command: u32) -> Outcome {
    send(destination, command | ASSERT | 0x41);
    open();
    taken("vector", &[0x41])
}

fn stays_away(destination: u32, command: u32) -> Outcome {
    send(destination, command | ASSERT | 0x41);
    open();
    taken("vector", &[])
}

fn self_shorthand_reaches_this_cpu(_: &mut Context) -> Outcome {
    send_self(0x41);
    open();
    taken("vector", &[0x41])
}

fn physical_id_reaches_this_cpu(context: &mut Context) -> Outcome {
    arrives(u32::from(context.me), 0)
}

fn foreign_physical_id_does_not(_: &mut Context) -> Outcome {
    stays_away(0xE7, 0)
}

fn physical_broadcast_reaches_this_cpu(_: &mut Context) -> Outcome {
    arrives(0xFF, 0)
}

fn all_shorthand_reaches_this_cpu(_: &mut Context) -> Outcome {
    arrives(0, TO_ALL)
}

fn flat_logical_match_is_delivered(_: &mut Context) -> Outcome {
    write(LDR, 0x24 << 24);
    arrives(0x0C, LOGICAL)
}

fn flat_logical_mismatch_is_not(_: &mut Context) -> Outcome {
    write(LDR, 0x24 << 24);
    stays_away(0x5B, LOGICAL)
}

fn empty_ldr_accepts_no_logical_destination(_: &mut Context) -> Outcome {
    write(LDR, 0);
    stays_away(0x7F, LOGICAL)
}

fn cluster_logical_match_is_delivered(_: &mut Context) -> Outcome {
    write(DFR, 0);
    write(LDR, 0x52 << 24);
    arrives(0x53, LOGICAL)
}

fn cluster_logical_mismatch_is_not(_: &mut Context) -> Outcome {
    write(DFR, 0);
    write(LDR, 0x52 << 24);
    stays_away(0x63, LOGICAL)
}

fn cluster_broadcast_is_delivered(_: &mut Context) -> Outcome {
    write(DFR, 0);
    write(LDR, 0x52 << 24);
    arrives(0xFF, LOGICAL)
}

fn lowest_priority_reaches_the_only_candidate(context: &mut Context) -> Outcome {
    arrives(u32::from(context.me), LOWEST)
}

fn request_waits_in_irr(_: &mut Context) -> Outcome {
    send_self(0x41);
    equal("IRR", bit(IRR, 0x41), true)?;
    equal("ISR", bit(ISR, 0x41), false)
}

/// Notes IRR, ISR, TMR and PPR in the handler, and ISR after EOI.
fn look(frame: &mut Frame) {
    let vector = frame.vector as u8;
    note(0, bit(IRR, vector));
    note(1, bit(ISR, vector));
    note(2, bit(TMR, vector));
    note(3, read(PPR));
    trap::record_and_end(frame);
    note(4, bit(ISR, vector));
}

fn look_at(vector: u8) {
    trap::hook(vector, look);
    send_self(vector);
    open();
}

fn service_moves_the_bit_to_isr(_: &mut Context) -> Outcome {
    look_at(0x61);
    taken("vector", &[0x61])?;
    equal("IRR in the handler", noted(0), 0_u64)?;
    equal("ISR in the handler", noted(1), 1_u64)
}

fn eoi_clears_isr(_: &mut Context) -> Outcome {
    look_at(0x61);
    taken("vector", &[0x61])?;
    equal("ISR after EOI", noted(4), 0_u64)
}

fn ipi_leaves_tmr_clear(_: &mut Context) -> Outcome {
    look_at(0x61);
    taken("vector", &[0x61])?;
    equal("TMR", noted(2), 0_u64)
}

fn send_all(vectors: &[u8]) {
    for vector in vectors {
        send_self(*vector);
    }
}

fn higher_vector_comes_first(_: &mut Context) -> Outcome {
    send_all(&[0x41, 0x71, 0x51]);
    open();
    open();
    open();
    taken("vector", &[0x71, 0x51, 0x41])
}

fn higher_vector_of_a_class_comes_first(_: &mut Context) -> Outcome {
    send_all(&[0x51, 0x5E, 0x57]);
    open();
    open();
    open();
    taken("vector", &[0x5E, 0x57, 0x51])
}

fn same_vector_twice_is_taken_once(_: &mut Context) -> Outcome {
    send_all(&[0x41, 0x41]);
    open();
    open();
    taken("vector", &[0x41])
}

fn vector_in_service_can_be_requested_again(_: &mut Context) -> Outcome {
    fn again(frame: &mut Frame) {
        if cpu::current().taken() == 0 {
            send_self(0x41);
            note(0, bit(IRR, 0x41));
        }
        trap::record_and_end(frame);
    }
    trap::hook(0x41, again);
    send_self(0x41);
    open();
    open();
    equal("IRR in the handler", noted(0), 1_u64)?;
    taken("vector", &[0x41, 0x41])
}

/// Sends the vector in note 8 from within, with interrupts on, before its own EOI.
fn nest(frame: &mut Frame) {
    cpu::current().record(frame.vector as u8);
    send_self(noted(8) as u8);
    sti();
    open();
    cli();
    note(0, cpu::current().taken() as u64);
    trap::end(frame.vector as u8);
}

fn nested(outer: u8, inner: u8) {
    trap::hook(outer, nest);
    note(8, inner);
    send_self(outer);
    open();
    open();
}

fn higher_class_nests(_: &mut Context) -> Outcome {
    nested(0x41, 0x61);
    equal("taken within the handler", noted(0), 2_u64)?;
    taken("vector", &[0x41, 0x61])
}

fn lower_class_waits_for_eoi(_: &mut Context) -> Outcome {
    nested(0x61, 0x41);
    equal("taken within the handler", noted(0), 1_u64)?;
    taken("vector", &[0x61, 0x41])
}

fn same_class_waits_for_eoi(_: &mut Context) -> Outcome {
    nested(0x51, 0x5E);
    equal("taken within the handler", noted(0), 1_u64)?;
    taken("vector", &[0x51, 0x5E])
}

fn eoi_ends_the_highest_in_service(_: &mut Context) -> Outcome {
    fn inner(frame: &mut Frame) {
        trap::record_and_end(frame);
        note(1, bit(ISR, 0x61));
        note(2, bit(ISR, 0x41));
    }
    trap::hook(0x61, inner);
    nested(0x41, 0x61);
    taken("vector", &[0x41, 0x61])?;
    equal("inner in ISR after EOI", noted(1), 0_u64)?;
    equal("outer in ISR after EOI", noted(2), 1_u64)
}

fn tpr_blocks_its_class(_: &mut Context) -> Outcome {
    write(TPR, 0x50);
    send_all(&[0x5F, 0x60]);
    open();
    open();
    taken("vector", &[0x60])
}

fn tpr_low_nibble_blocks_nothing(_: &mut Context) -> Outcome {
    write(TPR, 0x4F);
    send_self(0x50);
    open();
    taken("vector", &[0x50])
}

fn cr8_fifteen_blocks_all_vectors(_: &mut Context) -> Outcome {
    set_cr8(15);
    send_all(&[0xEF, 0xF1]);
    open();
    taken("vector", &[])
}

fn cr8_fifteen_lets_nmi_through(context: &mut Context) -> Outcome {
    set_cr8(15);
    send(u32::from(context.me), NMI | ASSERT);
    open();
    taken("vector", &[trap::NMI])
}

fn tpr_raised_between_request_and_window_blocks(_: &mut Context) -> Outcome {
    send_self(0x41);
    cpuid(0, 0);
    write(TPR, 0x40);
    open();
    taken("vector while blocked", &[])?;
    write(TPR, 0x3F);
    open();
    taken("vector", &[0x41])
}

fn cr8_raised_between_request_and_window_blocks(_: &mut Context) -> Outcome {
    send_self(0x41);
    cpuid(0, 0);
    set_cr8(4);
    open();
    taken("vector while blocked", &[])?;
    set_cr8(0);
    open();
    taken("vector", &[0x41])
}

fn lowering_cr8_releases_before_the_next_instruction(_: &mut Context) -> Outcome {
    hooked(0x41);
    set_cr8(15);
    send_self(0x41);
    let after: u64;
    unsafe {
        core::arch::asm!(
            "lea {after}, [rip + 2f]",
            "sti", "nop", "nop",
            "mov cr8, {zero}",
            "2:", "nop", "nop", "cli",
            after = out(reg) after, zero = in(reg) 0_u64,
        );
    }
    taken("vector", &[0x41])?;
    equal("return address", noted(0), after)
}

fn lowering_tpr_releases(_: &mut Context) -> Outcome {
    write(TPR, 0xF0);
    send_self(0x41);
    sti();
    open();
    sti();
    write(TPR, 0);
    open();
    taken("vector", &[0x41])
}

fn higher_vector_overtakes_a_queued_one(_: &mut Context) -> Outcome {
    send_self(0x41);
    for _ in 0..4 {
        cpuid(0, 0);
    }
    send_self(0x91);
    open();
    open();
    taken("vector", &[0x91, 0x41])
}

fn ppr_in_a_handler_is_the_class_in_service(_: &mut Context) -> Outcome {
    look_at(0x61);
    taken("vector", &[0x61])?;
    equal("PPR", noted(3), 0x60_u64)
}

fn ppr_in_a_handler_is_tpr_if_higher(_: &mut Context) -> Outcome {
    fn raise(frame: &mut Frame) {
        write(TPR, 0x73);
        note(0, read(PPR));
        write(TPR, 0);
        trap::record_and_end(frame);
    }
    trap::hook(0x61, raise);
    send_self(0x61);
    open();
    taken("vector", &[0x61])?;
    equal("PPR", noted(0), 0x73_u64)
}

fn software_disabled_accepts_no_fixed_interrupt(_: &mut Context) -> Outcome {
    write(SVR, 0xFF);
    send_self(0x41);
    write(SVR, 0x1FF);
    open();
    taken("vector", &[])
}

fn software_disabled_accepts_nmi(context: &mut Context) -> Outcome {
    needs("this is x2APIC mode", read(SVR) != 0)?;
    write(SVR, 0xFF);
    send(u32::from(context.me), NMI | ASSERT);
    open();
    taken("vector", &[trap::NMI])
}

fn low_half_resend_uses_the_same_destination(context: &mut Context) -> Outcome {
    send(u32::from(context.me), ASSERT | 0x41);
    open();
    write(crate::machine::apic::ICR, ASSERT | 0x42);
    open();
    taken("vector", &[0x41, 0x42])
}
