use super::*;

const SVR: u32 = 0x80F;
const LVT: u32 = 0x832;
const INITIAL: u32 = 0x838;
const DIVIDE: u32 = 0x83E;
const DEADLINE: u32 = 0x6E0;
const EOI: u32 = 0x80B;
const ICR: u32 = 0x830;

fn enabled(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, Role::Boot, Start::X2Apic);
    assert_eq!(apic.write_msr(SVR, 0x1FF, 0), Ok(Effect::None));
    apic
}

fn fixed(vector: u8) -> Ipi {
    Ipi::from_icr(u64::from(vector) | 1 << 14)
}

#[test]
fn tsc_deadline_fires_once_and_then_reads_zero() {
    let mut apic = enabled(0);
    apic.write_msr(LVT, 0x4_00E0, 0).unwrap();
    apic.write_msr(DEADLINE, 1000, 10).unwrap();
    assert_eq!(apic.next_deadline_tsc(), Some(1000));
    assert!(!apic.poll(999));
    assert_eq!(apic.read_msr(DEADLINE, 999), Ok(1000));
    assert!(apic.poll(1000));
    assert_eq!(apic.pending(), Some(0xE0));
    assert_eq!(apic.read_msr(DEADLINE, 1001), Ok(0));
    assert_eq!(apic.next_deadline_tsc(), None);
}

#[test]
fn deadline_write_in_another_mode_is_ignored() {
    let mut apic = enabled(0);
    apic.write_msr(LVT, 0x00E0, 0).unwrap();
    apic.write_msr(DEADLINE, 1000, 10).unwrap();
    assert_eq!(apic.next_deadline_tsc(), None);
}

#[test]
fn one_shot_counts_down_by_the_divider_and_stops() {
    let mut apic = enabled(0);
    apic.write_msr(LVT, 0x0040, 0).unwrap();
    apic.write_msr(DIVIDE, 0b0011, 0).unwrap(); // 16
    apic.write_msr(INITIAL, 100, 5000).unwrap();
    assert_eq!(apic.read_msr(0x839, 5000), Ok(100));
    assert_eq!(apic.read_msr(0x839, 5000 + 160), Ok(90));
    assert_eq!(apic.next_deadline_tsc(), Some(6600));
    assert!(apic.poll(6600));
    assert!(!apic.poll(9000));
    assert_eq!(apic.read_msr(0x839, 9000), Ok(0));
}

#[test]
fn periodic_timer_counts_missed_periods_once() {
    let mut apic = enabled(0);
    apic.write_msr(LVT, 0x2_0040, 0).unwrap();
    apic.write_msr(DIVIDE, 0b1011, 0).unwrap(); // 1
    apic.write_msr(INITIAL, 100, 1000).unwrap();
    assert!(apic.poll(1100));
    assert_eq!(apic.next_deadline_tsc(), Some(1200));
    assert!(apic.poll(1555));
    assert_eq!(apic.next_deadline_tsc(), Some(1600));
}

#[test]
fn every_divider_is_as_the_manual_says() {
    let dividers = [
        (0b0000, 2),
        (0b0001, 4),
        (0b0010, 8),
        (0b0011, 16),
        (0b1000, 32),
        (0b1001, 64),
        (0b1010, 128),
        (0b1011, 1),
    ];
    for (bits, divisor) in dividers {
        let mut apic = enabled(0);
        apic.write_msr(LVT, 0x40, 0).unwrap();
        apic.write_msr(DIVIDE, bits, 0).unwrap();
        apic.write_msr(INITIAL, 1, 0).unwrap();
        assert_eq!(apic.next_deadline_tsc(), Some(divisor), "{bits:#b}");
    }
}

/// Hardware masks LVT entries while the APIC is switched off; a guest that forgets to switch it on gets no timer.
#[test]
fn switched_off_apic_keeps_its_timer_masked() {
    let mut apic = LocalApic::new(0, Role::Boot, Start::X2Apic);
    apic.write_msr(LVT, 0x4_00E0, 0).unwrap();
    apic.write_msr(DEADLINE, 1000, 10).unwrap();
    assert_eq!(apic.next_deadline_tsc(), None);
    assert!(!apic.poll(2000));
    assert_eq!(apic.accept(&fixed(0x40)), Accepted::Ignored);
}

#[test]
fn vector_in_service_holds_back_its_own_class_until_eoi() {
    let mut apic = enabled(0);
    apic.accept(&fixed(0x41));
    assert_eq!(apic.pending(), Some(0x41));
    apic.begin(0x41);
    apic.accept(&fixed(0x4F));
    assert_eq!(apic.pending(), None);
    apic.accept(&fixed(0x51));
    assert_eq!(apic.pending(), Some(0x51));
    apic.begin(0x51);
    assert_eq!(apic.read_msr(0x812, 0), Ok(1 << 0x11 | 1 << 0x01));
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(Effect::None));
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(Effect::None));
    assert_eq!(apic.pending(), Some(0x4F));
}

#[test]
fn retracted_vector_is_requested_again() {
    let mut apic = enabled(0);
    apic.accept(&fixed(0x41));
    apic.begin(0x41);
    apic.retract(0x41);
    assert_eq!(apic.pending(), Some(0x41));
    apic.begin_without_eoi(0x41);
    assert_eq!(apic.pending(), None);
    apic.accept(&fixed(0x31));
    assert_eq!(apic.pending(), Some(0x31));
}

#[test]
fn task_priority_holds_back_lower_classes() {
    let mut apic = enabled(0);
    apic.write_msr(0x808, 0x50, 0).unwrap();
    apic.accept(&fixed(0x5F));
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.read_msr(0x80A, 0), Ok(0x50));
    apic.write_msr(0x808, 0x40, 0).unwrap();
    assert_eq!(apic.pending(), Some(0x5F));
}

#[test]
fn end_of_level_interrupt_goes_to_the_ioapic() {
    let mut apic = enabled(0);
    apic.accept(&Ipi {
        level: true,
        ..fixed(0x61)
    });
    assert!(apic.is_level_triggered(0x61));
    apic.begin(0x61);
    assert_eq!(
        apic.write_msr(EOI, 0, 0),
        Ok(Effect::EndOfInterrupt { vector: 0x61 })
    );
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(Effect::None));
}

#[test]
fn interrupt_command_becomes_an_ipi_for_the_addressed() {
    let mut sender = enabled(0);
    let Ok(Effect::Ipi(ipi)) = sender.write_msr(ICR, 3 << 32 | 1 << 14 | 0x40, 0) else {
        unreachable!("an IPI")
    };
    assert!(enabled(3).is_addressed_by(&ipi, 0));
    assert!(!enabled(2).is_addressed_by(&ipi, 0));
    let Ok(Effect::Ipi(others)) = sender.write_msr(ICR, 3 << 18 | 1 << 14 | 4 << 8, 0) else {
        unreachable!("an IPI")
    };
    assert!(!sender.is_addressed_by(&others, 0));
    assert_eq!(enabled(1).accept(&others), Accepted::Nmi);
}

#[test]
fn init_and_startup_are_told_to_the_host() {
    let mut target = LocalApic::new(1, Role::Application, Start::X2Apic);
    assert_eq!(
        target.accept(&Ipi::from_icr(1 << 32 | 1 << 14 | 5 << 8)),
        Accepted::Init
    );
    assert_eq!(
        target.accept(&Ipi::from_icr(1 << 32 | 5 << 8)),
        Accepted::Ignored,
        "de-assert"
    );
    assert_eq!(
        target.accept(&Ipi::from_icr(1 << 32 | 6 << 8 | 0x9A)),
        Accepted::Startup(0x9A)
    );
}

#[test]
fn logical_destination_names_cluster_and_member() {
    let apic = enabled(0x21);
    assert_eq!(apic.read_msr(0x80D, 0), Ok(0x2_0002));
    let to = |destination: u64| Ipi::from_icr(destination << 32 | 1 << 11 | 0x40);
    assert!(apic.is_addressed_by(&to(0x2_0003), 0));
    assert!(!apic.is_addressed_by(&to(0x1_0002), 0));
    assert!(!apic.is_addressed_by(&to(0x2_0001), 0));
    assert!(apic.is_addressed_by(&to(0xFFFF_FFFF), 0));
}

#[test]
fn self_ipi_is_requested_at_once() {
    let mut apic = enabled(0);
    assert_eq!(apic.write_msr(0x83F, 0x77, 0), Ok(Effect::None));
    assert_eq!(apic.pending(), Some(0x77));
}

#[test]
fn illegal_vector_is_reported_in_the_error_status() {
    let mut apic = enabled(0);
    apic.write_msr(0x837, 0xFE, 0).unwrap();
    assert_eq!(apic.write_msr(ICR, 0x0F, 0), Ok(Effect::None));
    assert_eq!(apic.read_msr(0x828, 0), Ok(0));
    apic.write_msr(0x828, 0, 0).unwrap();
    assert_eq!(apic.read_msr(0x828, 0), Ok(1 << 5));
    assert_eq!(apic.pending(), Some(0xFE));
    assert_eq!(apic.accept(&fixed(3)), Accepted::Ignored);
    apic.write_msr(0x828, 0, 0).unwrap();
    assert_eq!(apic.read_msr(0x828, 0), Ok(1 << 6));
}

#[test]
fn illegal_accesses_raise_general_protection() {
    let mut apic = enabled(0);
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (EOI, 1),
        (0x828, 1),
        (0x808, 0x100),
        (0x83F, 0x100),
        (0x839, 0),
        (0x80D, 0),
        (0x80E, 0),
    ] {
        assert_eq!(
            apic.write_msr(msr, value, 0),
            Err(GeneralProtection),
            "{msr:#x}"
        );
    }
    for msr in [EOI, 0x83F, 0x80E, 0x831, 0x800] {
        assert_eq!(apic.read_msr(msr, 0), Err(GeneralProtection), "{msr:#x}");
    }
    assert_eq!(
        apic.write_msr(0x1B, 0xFEE0_0900, 0),
        Err(GeneralProtection),
        "leaves x2APIC"
    );
    assert_eq!(
        apic.write_msr(0x1B, 0xFEE0_0400, 0),
        Err(GeneralProtection),
        "not enabled"
    );
}

#[test]
fn no_msr_access_panics() {
    let mut apic = enabled(5);
    for msr in (0x7FF..=0x840).chain([0x1B, 0x6E0]) {
        for value in [0, 1, 0xFF, 0x1FF, u64::from(u32::MAX), u64::MAX] {
            let _ = apic.write_msr(msr, value, u64::MAX);
            let _ = apic.read_msr(msr, u64::MAX);
            apic.poll(u64::MAX);
        }
    }
}

#[test]
fn xapic_page_is_there_until_x2apic_mode_is_entered() {
    let mut apic = LocalApic::new(2, Role::Application, Start::XApic);
    assert_eq!(apic.read_msr(0x802, 0), Err(GeneralProtection));
    assert_eq!(apic.read_mmio(0x20, 0), 2 << 24);
    apic.write_mmio(0xF0, 0x1FF, 0);
    apic.write_mmio(0xD0, 0x0400_0000, 0);
    assert!(apic.is_addressed_by(&Ipi::from_xapic_icr(1 << 11 | 0x40, 0x0400_0000), 0));
    apic.write_mmio(0x310, 0x0100_0000, 0);
    let Effect::Ipi(ipi) = apic.write_mmio(0x300, 0x4040, 0) else {
        unreachable!("an IPI")
    };
    assert_eq!((ipi.destination, ipi.vector), (1, 0x40));
    apic.write_msr(0x1B, 0xFEE0_0C00, 0).unwrap();
    assert_eq!(apic.read_mmio(0x20, 0), u32::MAX);
    assert_eq!(apic.read_msr(0x802, 0), Ok(2));
}

#[test]
fn init_keeps_identity_and_forgets_the_rest() {
    let mut apic = enabled(3);
    apic.accept(&fixed(0x40));
    apic.init();
    assert_eq!(apic.id(), 3);
    assert_eq!(apic.read_msr(0x80F, 0), Ok(0xFF));
    assert_eq!(apic.pending(), None);
}
