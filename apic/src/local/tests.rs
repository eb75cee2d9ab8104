//! What the local APIC does, register by register.

use std::vec::Vec;

use stockade_bus::{AccessError, Gpa, Level};

use super::{
    Config, Effect, Features, GeneralProtection, Ipi, IpiDestination, Lint, LocalApic, LocalEvent,
    LocalSource, MSR_APIC_BASE, MSR_TSC_DEADLINE, Role, SavedLocalApic, Time, TimerDeadline,
};
use crate::mailbox::Mailbox;
use crate::msi::{BROADCAST, DeliveryMode, DestinationMode, Trigger};
use crate::saved::{Register, RestoreError};

const NOW: Time = Time { ns: 0, tsc: 0 };
const X2APIC: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
const PAGE: u64 = 0xFEE0_0000;

/// A local APIC after power-on.
pub(crate) fn apic(id: u32) -> LocalApic {
    LocalApic::new(Config {
        id,
        role: if id == 0 {
            Role::Bootstrap
        } else {
            Role::Application
        },
        features: Features {
            x2apic: true,
            tsc_deadline: true,
            eoi_suppression: true,
        },
        physical_address_bits: 48,
    })
}

/// A local APIC that software has enabled.
pub(crate) fn enabled(id: u32) -> LocalApic {
    let mut apic = apic(id);
    assert_eq!(write(&mut apic, 0xF0, 0x1FF), Effect::AddressChanged);
    apic
}

fn x2apic(id: u32) -> LocalApic {
    let mut apic = enabled(id);
    set_base(&mut apic, PAGE | ENABLED | X2APIC);
    apic
}

fn set_base(apic: &mut LocalApic, value: u64) {
    assert_eq!(apic.set_apic_base(value), Ok(Effect::AddressChanged));
}

fn write_at(apic: &mut LocalApic, offset: u16, value: u32, now: Time) -> Effect {
    apic.write_mmio(offset, &value.to_le_bytes(), now).unwrap()
}

fn write(apic: &mut LocalApic, offset: u16, value: u32) -> Effect {
    write_at(apic, offset, value, NOW)
}

fn read_at(apic: &mut LocalApic, offset: u16, now: Time) -> u32 {
    let mut bytes = [0xA5; 4];
    apic.read_mmio(offset, &mut bytes, now).unwrap();
    u32::from_le_bytes(bytes)
}

fn read(apic: &mut LocalApic, offset: u16) -> u32 {
    read_at(apic, offset, NOW)
}

fn errors(apic: &mut LocalApic) -> u32 {
    let _ = write(apic, 0x280, 0);
    read(apic, 0x280)
}

const fn at(ns: u64) -> Time {
    Time { ns, tsc: 0 }
}

#[test]
fn power_on_values_are_those_of_the_manual() {
    let mut apic = apic(3);
    let expected = [
        (0x20, 3 << 24),
        (0x30, 0x0105_0014),
        (0x80, 0),
        (0xA0, 0),
        (0xD0, 0),
        (0xE0, 0xFFFF_FFFF),
        (0xF0, 0xFF),
        (0x280, 0),
        (0x300, 0),
        (0x310, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x1_0000),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3E0, 0),
    ];
    for (offset, value) in expected {
        assert_eq!(read(&mut apic, offset), value, "{offset:#x}");
    }
    assert_eq!(errors(&mut apic), 0);
    assert_eq!(apic.apic_base(), PAGE | ENABLED);
    assert_eq!(super::tests::apic(0).apic_base(), PAGE | ENABLED | 1 << 8);
}

#[test]
fn all_base_transitions_are_those_of_figure_10_27() {
    let modes = [0, ENABLED, ENABLED | X2APIC, X2APIC];
    let legal = [
        [true, true, false, false],
        [true, true, true, false],
        [true, false, true, false],
    ];
    for (from, row) in legal.iter().enumerate() {
        for (to, is_legal) in row.iter().enumerate() {
            let mut apic = apic(0);
            if from == 0 {
                set_base(&mut apic, PAGE);
            } else {
                set_base(&mut apic, PAGE | modes[from]);
            }
            let before = apic.save();
            let result = apic.set_apic_base(PAGE | modes[to]);
            assert_eq!(result.is_ok(), *is_legal, "{from} to {to}");
            assert!(*is_legal || apic.save() == before);
        }
    }
}

#[test]
fn reserved_base_bits_fault() {
    let mut apic = apic(0);
    for bit in [0, 7, 9, 48, 63] {
        let value = PAGE | ENABLED | 1 << bit;
        assert_eq!(apic.set_apic_base(value), Err(GeneralProtection), "{bit}");
    }
    let mut features = apic.config().features;
    features.x2apic = false;
    let mut old = LocalApic::new(Config {
        features,
        ..*apic.config()
    });
    assert_eq!(
        old.set_apic_base(PAGE | ENABLED | X2APIC),
        Err(GeneralProtection)
    );
}

#[test]
fn page_follows_the_base_and_vanishes_outside_xapic_mode() {
    let mut apic = apic(0);
    assert_eq!(apic.page(), Some(Gpa(PAGE)));
    set_base(&mut apic, 0x8000_0000 | ENABLED);
    assert_eq!(apic.page(), Some(Gpa(0x8000_0000)));
    set_base(&mut apic, PAGE | ENABLED | X2APIC);
    assert_eq!(apic.page(), None);
    assert_eq!(
        apic.read_mmio(0x20, &mut [0; 4], NOW),
        Err(AccessError::NoRegister)
    );
}

#[test]
fn disabling_loses_the_state_and_entering_x2apic_keeps_it() {
    let mut apic = enabled(0);
    apic.send_to_self(0x41);
    let _ = write(&mut apic, 0x80, 0x20);
    set_base(&mut apic, PAGE | ENABLED | X2APIC);
    assert_eq!(
        (apic.task_priority(), apic.queueable_vector()),
        (0x20, Some(0x41))
    );
    set_base(&mut apic, PAGE);
    set_base(&mut apic, PAGE | ENABLED);
    assert_eq!((apic.task_priority(), apic.queueable_vector()), (0, None));
    assert_eq!(read(&mut apic, 0xF0), 0xFF);
}

#[test]
fn disabled_apic_hears_nothing_and_its_pins_are_intr_and_nmi() {
    let mut apic = enabled(1);
    set_base(&mut apic, PAGE);
    assert!(!apic.address().matches(DestinationMode::Physical, BROADCAST));
    assert_eq!(apic.set_lint(Lint::Lint0, Level::High), None);
    assert!(apic.wants_ext_int());
    assert_eq!(
        apic.set_lint(Lint::Lint1, Level::High),
        Some(LocalEvent::Nmi)
    );
}

#[test]
fn init_keeps_base_and_identity() {
    let mut apic = x2apic(0x1234);
    apic.send_to_self(0x41);
    apic.init();
    assert_eq!(apic.apic_base(), PAGE | ENABLED | X2APIC);
    assert_eq!(apic.read_msr(0x802, NOW), Ok(0x1234));
    assert_eq!(apic.read_msr(0x80F, NOW), Ok(0xFF));
    assert_eq!(apic.queueable_vector(), None);
    apic.reset();
    assert_eq!(apic.apic_base(), PAGE | ENABLED);
}

#[test]
fn narrow_reads_give_their_part_and_gaps_read_zero() {
    let mut apic = apic(0x21);
    let mut byte = [0xA5];
    apic.read_mmio(0x23, &mut byte, NOW).unwrap();
    assert_eq!(byte, [0x21]);
    let mut wide = [0xA5; 16];
    apic.read_mmio(0x30, &mut wide, NOW).unwrap();
    assert_eq!(wide, [0x14, 0, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        apic.read_mmio(0xFFE, &mut [0; 4], NOW),
        Err(AccessError::NoRegister)
    );
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn narrow_and_misaligned_writes_are_lost() {
    let mut apic = apic(0);
    assert_eq!(apic.write_mmio(0x80, &[0x20], NOW), Ok(Effect::None));
    assert_eq!(apic.write_mmio(0x80, &[0x20, 0], NOW), Ok(Effect::None));
    assert_eq!(apic.write_mmio(0x84, &[0x20; 4], NOW), Ok(Effect::None));
    assert_eq!(apic.task_priority(), 0);
    assert_eq!(
        apic.write_mmio(0x80, &[0x20, 0, 0, 0, 9, 9, 9, 9], NOW),
        Ok(Effect::None)
    );
    assert_eq!(apic.task_priority(), 0x20);
}

#[test]
fn reserved_registers_are_an_error_and_read_only_ones_are_not() {
    for offset in [0x00, 0x10, 0x40, 0x2F0, 0x3A0, 0x3F0, 0x400, 0xFF0] {
        let mut apic = apic(0);
        assert_eq!(read(&mut apic, offset), 0);
        assert_eq!(errors(&mut apic), 0x80, "read {offset:#x}");
        assert_eq!(write(&mut apic, offset, 1), Effect::None);
        assert_eq!(errors(&mut apic), 0x80, "write {offset:#x}");
    }
    for offset in [0x20, 0x30, 0x90, 0xA0, 0xC0, 0x100, 0x180, 0x270, 0x390] {
        let mut apic = apic(0);
        let before = read(&mut apic, offset);
        assert_eq!(write(&mut apic, offset, u32::MAX), Effect::None);
        assert_eq!(read(&mut apic, offset), before);
        assert_eq!(errors(&mut apic), 0, "{offset:#x}");
    }
}

#[test]
fn error_status_shows_errors_only_after_a_write_and_raises_once() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x370, 0xFE);
    let _ = read(&mut apic, 0x40);
    assert_eq!(read(&mut apic, 0x280), 0);
    assert!(apic.accept(0xFE));
    let _ = read(&mut apic, 0x40);
    assert!(!apic.accept(0xFE), "not armed again yet");
    assert_eq!(errors(&mut apic), 0x80);
    let _ = read(&mut apic, 0x40);
    assert!(apic.accept(0xFE));
    assert_eq!(errors(&mut apic), 0x80);
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn vectors_below_16_are_errors_on_either_side() {
    let mut apic = enabled(0);
    assert_eq!(write(&mut apic, 0x300, 0x4_000F), Effect::None);
    assert_eq!(errors(&mut apic), 0x20);
    let mailbox = Mailbox::new();
    assert!(mailbox.post_vector(0x0F, Trigger::Edge));
    assert!(apic.deliver_remote(&mailbox).is_empty());
    assert_eq!(errors(&mut apic), 0x40);
    let _ = write(&mut apic, 0x320, 0x0F);
    assert_eq!(apic.raise(LocalSource::Timer), None);
    assert_eq!(errors(&mut apic), 0x40);
    assert_eq!(apic.queueable_vector(), None);
}

#[test]
fn error_interrupt_with_illegal_vector_ends() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x370, 0x05);
    let _ = read(&mut apic, 0x40);
    assert_eq!(errors(&mut apic), 0xC0);
}

#[test]
fn priorities_follow_service_and_task() {
    let mut apic = enabled(0);
    apic.send_to_self(0x52);
    apic.send_to_self(0x73);
    assert_eq!(read(&mut apic, 0x90), 0x70);
    assert_eq!(apic.acknowledge(), 0x73);
    assert_eq!(apic.processor_priority(), 0x70);
    assert_eq!(apic.queueable_vector(), None);
    apic.send_to_self(0x7F);
    assert_eq!(apic.deliverable_vector(), None, "same class");
    let _ = write(&mut apic, 0x80, 0x75);
    assert_eq!(apic.processor_priority(), 0x75);
    let _ = write(&mut apic, 0x80, 0x95);
    apic.send_to_self(0x92);
    assert_eq!(
        (apic.queueable_vector(), apic.deliverable_vector()),
        (Some(0x92), None)
    );
    assert_eq!(apic.acknowledge(), 0xFF, "spurious");
    assert!(read(&mut apic, 0x90) == 0x95);
}

#[test]
fn cr8_keeps_the_sub_class_unless_the_class_changes() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x80, 0x37);
    apic.set_cr8(3);
    assert_eq!(apic.task_priority(), 0x37);
    apic.set_cr8(4);
    assert_eq!((apic.task_priority(), apic.cr8()), (0x40, 4));
}

#[test]
fn vector_not_requested_is_not_accepted() {
    let mut apic = enabled(0);
    assert!(!apic.accept(0x41));
    assert_eq!(read(&mut apic, 0x120), 0);
    assert_eq!(write(&mut apic, 0xB0, 0), Effect::None);
}

#[test]
fn end_of_level_vector_is_broadcast_unless_suppressed() {
    let mut apic = enabled(0);
    let mailbox = Mailbox::new();
    for (spurious, effect) in [(0x1FF, Effect::EoiBroadcast(0x59)), (0x11FF, Effect::None)] {
        let _ = write(&mut apic, 0xF0, spurious);
        assert!(mailbox.post_vector(0x59, Trigger::Level));
        assert!(apic.deliver_remote(&mailbox).is_empty());
        assert_eq!(read(&mut apic, 0x1A0), 1 << 25, "TMR");
        assert!(apic.accept(0x59));
        assert_eq!(write(&mut apic, 0xB0, 0), effect);
    }
}

#[test]
fn edge_after_level_clears_the_trigger_bit() {
    let mut apic = enabled(0);
    let mailbox = Mailbox::new();
    assert!(mailbox.post_vector(0x59, Trigger::Level));
    assert!(apic.deliver_remote(&mailbox).is_empty());
    assert!(mailbox.post_vector(0x59, Trigger::Edge));
    assert!(apic.deliver_remote(&mailbox).is_empty());
    assert!(apic.accept(0x59));
    assert_eq!(write(&mut apic, 0xB0, 0), Effect::None);
}

#[test]
fn software_disable_masks_the_table_and_refuses_messages_but_keeps_requests() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x350, 0x700);
    apic.send_to_self(0x41);
    assert_eq!(write(&mut apic, 0xF0, 0xFF), Effect::AddressChanged);
    assert_eq!(read(&mut apic, 0x350), 0x1_0700);
    let _ = write(&mut apic, 0x350, 0x700);
    assert_eq!(read(&mut apic, 0x350), 0x1_0700, "cannot be unmasked");
    apic.send_to_self(0x42);
    assert_eq!(apic.acknowledge(), 0x41);
    assert_eq!(apic.queueable_vector(), None);
    assert!(
        apic.address().matches(DestinationMode::Physical, 0),
        "for NMI and INIT"
    );
}

#[test]
fn command_register_makes_ipis() {
    let mut apic = enabled(5);
    let ipi = |destination, delivery, vector| {
        Effect::Ipi(Ipi {
            sender: 5,
            destination,
            delivery,
            vector,
        })
    };
    let physical = |id| IpiDestination::To(DestinationMode::Physical, id);
    let cases = [
        (
            0x0200_0000,
            0x0_0041,
            ipi(physical(2), DeliveryMode::Fixed, 0x41),
        ),
        (
            0xFF00_0000,
            0x0_0400,
            ipi(physical(BROADCAST), DeliveryMode::Nmi, 0),
        ),
        (
            0xFF00_0000,
            0x0_0941,
            ipi(
                IpiDestination::To(DestinationMode::Logical, 0xFF),
                DeliveryMode::LowestPriority,
                0x41,
            ),
        ),
        (
            0x0200_0000,
            0x0_4500,
            ipi(physical(2), DeliveryMode::Init, 0),
        ),
        (0x0200_0000, 0x0_8500, Effect::None),
        (
            0x0200_0000,
            0x0_0608,
            ipi(physical(2), DeliveryMode::StartUp, 8),
        ),
        (0, 0x4_0400, ipi(physical(5), DeliveryMode::Nmi, 0)),
        (
            0,
            0x8_0041,
            ipi(IpiDestination::All, DeliveryMode::Fixed, 0x41),
        ),
        (0, 0x8_0500, Effect::None),
        (
            0,
            0xC_0500,
            ipi(IpiDestination::AllButSender, DeliveryMode::Init, 0),
        ),
        (0x0200_0000, 0x0_0341, Effect::None),
        (0x0200_0000, 0x0_0741, Effect::None),
    ];
    for (high, low, effect) in cases {
        assert_eq!(write(&mut apic, 0x310, high), Effect::None);
        assert_eq!(write(&mut apic, 0x300, low), effect, "{low:#x}");
        assert_eq!(read(&mut apic, 0x300), low, "never busy");
    }
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn self_shorthand_requests_at_once() {
    let mut apic = enabled(5);
    assert_eq!(write(&mut apic, 0x300, 0x4_0041), Effect::None);
    assert_eq!(apic.queueable_vector(), Some(0x41));
}

#[test]
fn x2apic_registers_read_and_write_as_msrs() {
    let mut apic = x2apic(0x123);
    assert_eq!(apic.read_msr(0x802, NOW), Ok(0x123));
    assert_eq!(apic.read_msr(0x80D, NOW), Ok(0x0012_0008));
    assert_eq!(apic.write_msr(0x83F, 0x41, NOW), Ok(Effect::None));
    assert_eq!(apic.read_msr(0x822, NOW), Ok(2));
    let effect = apic.write_msr(0x830, 0x0012_0001_0000_0841, NOW).unwrap();
    let destination = IpiDestination::To(DestinationMode::Logical, 0x0012_0001);
    let delivery = DeliveryMode::Fixed;
    assert_eq!(
        effect,
        Effect::Ipi(Ipi {
            sender: 0x123,
            destination,
            delivery,
            vector: 0x41
        })
    );
    assert_eq!(apic.read_msr(0x830, NOW), Ok(0x0012_0001_0000_0841));
    assert_eq!(apic.acknowledge(), 0x41);
    assert_eq!(apic.write_msr(0x80B, 0, NOW), Ok(Effect::None));
    assert_eq!(apic.processor_priority(), 0);
}

#[test]
fn all_x2apic_accesses_fault_where_the_manual_says() {
    let readable: Vec<u32> = [
        0x802, 0x803, 0x808, 0x80A, 0x80D, 0x80F, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836,
        0x837, 0x838, 0x839, 0x83E,
    ]
    .into_iter()
    .chain(0x810..0x828)
    .collect();
    let writable = [
        0x808, 0x80B, 0x80F, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83E,
        0x83F,
    ];
    for msr in 0x800..=0x8FF {
        assert!(LocalApic::owns_msr(msr));
        let mut apic = x2apic(0);
        assert_eq!(
            apic.read_msr(msr, NOW).is_ok(),
            readable.contains(&msr),
            "read {msr:#x}"
        );
        assert_eq!(
            apic.write_msr(msr, 0, NOW).is_ok(),
            writable.contains(&msr),
            "write {msr:#x}"
        );
        let mut xapic = enabled(0);
        assert_eq!(xapic.read_msr(msr, NOW), Err(GeneralProtection));
        assert_eq!(xapic.write_msr(msr, 0, NOW), Err(GeneralProtection));
    }
}

#[test]
fn reserved_x2apic_bits_fault() {
    let reserved = [
        (0x808, 0x100),
        (0x80B, 1),
        (0x80F, 0x400),
        (0x828, 1),
        (0x830, 1 << 13),
        (0x830, 1 << 16),
        (0x830, 1 << 20),
        (0x832, 1 << 8),
        (0x833, 1 << 15),
        (0x835, 1 << 17),
        (0x837, 1 << 8),
        (0x838, 1 << 32),
        (0x83E, 1 << 2),
        (0x83F, 0x100),
    ];
    for (msr, bits) in reserved {
        let mut apic = x2apic(0);
        let before = apic.save();
        assert_eq!(
            apic.write_msr(msr, bits, NOW),
            Err(GeneralProtection),
            "{msr:#x}"
        );
        assert_eq!(apic.save(), before);
    }
    assert!(
        x2apic(0).write_msr(0x830, 0x4_1041, NOW).is_ok(),
        "busy is ignored"
    );
}

#[test]
fn timer_interrupts_and_its_count_agrees() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x3E0, 0b1011);
    let _ = write(&mut apic, 0x320, 0x2_00EC);
    let _ = write_at(&mut apic, 0x380, 1000, at(5000));
    assert_eq!(apic.deadline(), Some(TimerDeadline::Nanoseconds(6000)));
    assert_eq!(read_at(&mut apic, 0x390, at(5400)), 600);
    assert!(!apic.advance(at(5999)));
    assert!(apic.advance(at(6000)));
    assert_eq!(apic.queueable_vector(), Some(0xEC));
    assert_eq!(apic.deadline(), Some(TimerDeadline::Nanoseconds(7000)));
    assert_eq!(read_at(&mut apic, 0x390, at(6000)), 1000);
}

#[test]
fn count_read_past_zero_has_requested_the_interrupt() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x3E0, 0b1011);
    let _ = write(&mut apic, 0x320, 0xEC);
    let _ = write(&mut apic, 0x380, 1000);
    assert_eq!(read_at(&mut apic, 0x390, at(1000)), 0);
    assert_eq!(apic.queueable_vector(), Some(0xEC));
}

#[test]
fn masked_expiry_is_lost() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x320, 0x1_00EC);
    let _ = write(&mut apic, 0x380, 10);
    assert_eq!(apic.deadline(), None);
    let _ = write_at(&mut apic, 0x320, 0xEC, at(1000));
    assert!(!apic.advance(at(2000)));
    assert_eq!(apic.queueable_vector(), None);
}

#[test]
fn tsc_deadline_in_the_past_fires_at_once() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x320, 0x4_00EC);
    let now = Time { ns: 0, tsc: 1000 };
    assert_eq!(
        apic.write_msr(MSR_TSC_DEADLINE, 2000, now),
        Ok(Effect::None)
    );
    assert_eq!(apic.deadline(), Some(TimerDeadline::Tsc(2000)));
    assert_eq!(apic.read_msr(MSR_TSC_DEADLINE, now), Ok(2000));
    assert_eq!(apic.write_msr(MSR_TSC_DEADLINE, 999, now), Ok(Effect::None));
    assert_eq!(apic.read_msr(MSR_TSC_DEADLINE, now), Ok(0));
    assert_eq!(apic.queueable_vector(), Some(0xEC));
}

#[test]
fn tsc_deadline_that_is_not_offered_faults_and_its_mode_bit_does_not_stick() {
    let mut config = *apic(0).config();
    config.features.tsc_deadline = false;
    let mut apic = LocalApic::new(config);
    assert_eq!(apic.read_msr(MSR_TSC_DEADLINE, NOW), Err(GeneralProtection));
    let _ = write(&mut apic, 0x320, 0x5_00EC);
    assert_eq!(read(&mut apic, 0x320), 0x1_00EC);
}

#[test]
fn pic_on_lint0_is_wanted_while_high_and_unmasked() {
    let mut apic = apic(0);
    assert_eq!(apic.set_lint(Lint::Lint0, Level::High), None);
    assert!(!apic.wants_ext_int());
    apic.set_virtual_wire();
    assert!(apic.wants_ext_int());
    assert_eq!(apic.set_lint(Lint::Lint0, Level::Low), None);
    assert!(!apic.wants_ext_int());
    assert_eq!(
        apic.set_lint(Lint::Lint1, Level::High),
        Some(LocalEvent::Nmi)
    );
    assert_eq!(apic.set_lint(Lint::Lint1, Level::High), None);
}

#[test]
fn level_triggered_lint0_waits_for_its_end() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x350, 0x8000 | 0x61);
    assert_eq!(apic.set_lint(Lint::Lint0, Level::High), None);
    assert_eq!(read(&mut apic, 0x350), 0xC061);
    assert!(apic.accept(0x61));
    assert_eq!(write(&mut apic, 0xB0, 0), Effect::EoiBroadcast(0x61));
    assert_eq!(apic.queueable_vector(), Some(0x61), "still high");
    assert!(apic.accept(0x61));
    assert_eq!(apic.set_lint(Lint::Lint0, Level::Low), None);
    assert_eq!(write(&mut apic, 0xB0, 0), Effect::EoiBroadcast(0x61));
    assert_eq!(apic.queueable_vector(), None);
}

#[test]
fn edge_triggered_lint0_requests_on_the_rise() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x350, 0x61);
    assert_eq!(apic.set_lint(Lint::Lint0, Level::High), None);
    assert!(apic.accept(0x61));
    assert_eq!(apic.set_lint(Lint::Lint0, Level::High), None);
    assert!(!apic.accept(0x61));
}

#[test]
fn performance_counter_can_be_an_nmi() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, 0x340, 0x400);
    assert_eq!(
        apic.raise(LocalSource::PerformanceCounter),
        Some(LocalEvent::Nmi)
    );
    assert_eq!(read(&mut apic, 0x340), 0x400, "not masked by it");
}

#[test]
fn ext_int_message_waits_for_the_pic() {
    let mut apic = enabled(0);
    let mailbox = Mailbox::new();
    assert!(mailbox.post(DeliveryMode::ExtInt, 0, Trigger::Edge));
    assert!(apic.deliver_remote(&mailbox).is_empty());
    assert!(apic.wants_ext_int());
    apic.ext_int_taken();
    assert!(!apic.wants_ext_int());
}

#[test]
fn init_from_the_mailbox_resets_and_undoes_what_came_before() {
    let mut apic = enabled(1);
    apic.send_to_self(0x41);
    let mailbox = Mailbox::new();
    apic.publish(&mailbox);
    assert!(mailbox.post(DeliveryMode::Nmi, 0, Trigger::Edge));
    for (delivery, vector) in [
        (DeliveryMode::Fixed, 0x42),
        (DeliveryMode::StartUp, 1),
        (DeliveryMode::Init, 0),
        (DeliveryMode::StartUp, 8),
        (DeliveryMode::StartUp, 9),
    ] {
        assert!(
            !mailbox.post(delivery, vector, Trigger::Edge),
            "one wake is enough"
        );
    }
    let events: Vec<_> = apic.deliver_remote(&mailbox).collect();
    assert_eq!(events, [LocalEvent::Init, LocalEvent::StartUp(8)]);
    assert_eq!(apic.queueable_vector(), None);
    assert!(!mailbox.address().accepts_vectors());
    assert!(mailbox.is_empty());
}

#[test]
fn level_on_lint0_comes_by_the_mailbox() {
    let mut apic = apic(0);
    apic.set_virtual_wire();
    let mailbox = Mailbox::new();
    assert!(mailbox.set_lint0(Level::High));
    assert!(apic.deliver_remote(&mailbox).is_empty());
    assert!(apic.wants_ext_int());
    assert!(mailbox.set_lint0(Level::Low));
    assert!(apic.deliver_remote(&mailbox).is_empty());
    assert!(!apic.wants_ext_int());
}

/// The 8259s say their level with every access; each would have looked like mail and cost their vCPU a turn.
#[test]
fn level_that_lint0_has_already_is_no_mail() {
    let mailbox = Mailbox::new();
    assert!(!mailbox.set_lint0(Level::Low) && mailbox.is_empty());
    assert!(mailbox.set_lint0(Level::High));
    let _ = enabled(0).deliver_remote(&mailbox);
    assert!(!mailbox.set_lint0(Level::High) && mailbox.is_empty());
}

#[test]
fn racing_senders_lose_no_vector() {
    let mailbox = Mailbox::new();
    let mut apic = enabled(0);
    let mut taken = Vec::new();
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4u8)
            .map(|sender| {
                let mailbox = &mailbox;
                scope.spawn(move || {
                    for vector in (16..=255u8).filter(|vector| vector % 4 == sender) {
                        let _ = mailbox.post_vector(vector, Trigger::Edge);
                    }
                })
            })
            .collect();
        while !(senders
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
            && mailbox.is_empty())
        {
            assert!(apic.deliver_remote(&mailbox).is_empty());
        }
    });
    assert!(apic.deliver_remote(&mailbox).is_empty());
    while let Some(vector) = apic.queueable_vector() {
        assert!(apic.accept(vector));
        let _ = apic.end_of_interrupt();
        taken.push(vector);
    }
    assert_eq!(taken, (16..=255).rev().collect::<Vec<_>>());
}

#[test]
fn impossible_states_are_refused() {
    let mut apic = enabled(0);
    let good = apic.save();
    let mut vectors = good.request;
    vectors[0] = 1;
    let mut local_vectors = good.local_vectors;
    local_vectors[1] |= 1 << 14;
    let bad = [
        (
            SavedLocalApic {
                base: X2APIC,
                ..good
            },
            Register::Base,
        ),
        (SavedLocalApic { base: 1, ..good }, Register::Base),
        (
            SavedLocalApic {
                task_priority: 256,
                ..good
            },
            Register::TaskPriority,
        ),
        (
            SavedLocalApic {
                logical: 256,
                ..good
            },
            Register::LogicalDestination,
        ),
        (
            SavedLocalApic { format: 1, ..good },
            Register::LogicalDestination,
        ),
        (
            SavedLocalApic {
                spurious: 1 << 31,
                ..good
            },
            Register::Spurious,
        ),
        (
            SavedLocalApic {
                error_status: 1,
                ..good
            },
            Register::ErrorStatus,
        ),
        (SavedLocalApic { errors: 1, ..good }, Register::ErrorStatus),
        (
            SavedLocalApic {
                command: 1 << 20,
                ..good
            },
            Register::Command,
        ),
        (
            SavedLocalApic {
                request: vectors,
                ..good
            },
            Register::Vectors,
        ),
        (
            SavedLocalApic {
                local_vectors,
                ..good
            },
            Register::LocalVector,
        ),
        (
            SavedLocalApic {
                timer_divide: 4,
                ..good
            },
            Register::Timer,
        ),
        (
            SavedLocalApic {
                countdown: 3,
                ..good
            },
            Register::Timer,
        ),
        (
            SavedLocalApic {
                countdown: 1,
                ..good
            },
            Register::Timer,
        ),
        (
            SavedLocalApic {
                countdown: 2,
                timer_moment: 9,
                ..good
            },
            Register::Timer,
        ),
        (SavedLocalApic { wires: 8, ..good }, Register::Wires),
    ];
    for (state, register) in bad {
        assert_eq!(apic.restore(&state), Err(RestoreError::Register(register)));
        assert_eq!(apic.save(), good);
    }
    let version = SavedLocalApic { version: 2, ..good };
    assert_eq!(
        apic.restore(&version),
        Err(RestoreError::Version {
            found: 2,
            expected: 1
        })
    );
    assert_eq!(
        super::tests::apic(1).restore(&good),
        Err(RestoreError::Identity(0))
    );
}

#[test]
fn base_msr_reads_what_was_written() {
    let mut apic = apic(0);
    let value = 0x1000_0000 | ENABLED | 1 << 8;
    assert_eq!(
        apic.write_msr(MSR_APIC_BASE, value, NOW),
        Ok(Effect::AddressChanged)
    );
    assert_eq!(apic.read_msr(MSR_APIC_BASE, NOW), Ok(value));
}
