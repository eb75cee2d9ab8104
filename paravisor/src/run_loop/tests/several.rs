//! A vCPU among others: what it sends them, what they send it, what it leaves to them.

use stockade_apic::{DeliveryMode, LocalEvent, Trigger};

use super::*;

/// One of four vCPUs; the others are not run.
fn rig<'a>(clock: &'a FakeClock, index: usize, script: &[Scene]) -> Rig<'a> {
    let machine = Machine::new(4, clock, 0);
    for other in (0..4).filter(|other| *other != index) {
        vcpu(&machine, other);
    }
    Rig {
        vcpu: vcpu(&machine, index),
        machine,
        processor: FakeProcessor::new(script),
        host: FakeHost::default(),
        memory: FakeMemory::new(0x10_0000),
    }
}

/// Sends an IPI as the guest does.
fn send(rig: &mut Rig<'_>, low: u32, to: u32) {
    for (offset, value) in [(0x310, to << 24), (0x300, low)] {
        let effect = rig
            .vcpu
            .apic
            .write_mmio(offset, &value.to_le_bytes(), Time::default());
        rig.vcpu.apply(effect.unwrap(), &rig.machine);
    }
}

fn post(rig: &Rig<'_>, event: LocalEvent) {
    let own = &rig.machine.mailboxes()[rig.vcpu.index];
    let _ = own.post_event(event);
}

/// A receiver in its guest would see its mail at its next exit only.
#[test]
fn receiver_of_an_ipi_is_kicked_if_it_is_away() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 0, &[host_interrupt as Scene; 3]);
    assert!(rig.machine.crew().depart(2));
    // NMI, which a local APIC takes even while it is disabled by software.
    send(&mut rig, 0x4400, 2);
    rig.turn().unwrap();
    assert_eq!(
        (rig.host.kicked.as_slice(), rig.vcpu.stats.kicks),
        (&[2][..], 1)
    );
    rig.turn().unwrap();
    assert_eq!(rig.host.kicked, [2], "once");
}

/// Here it looks at its mailbox anyway before it goes: a kick would cost an exit for nothing.
#[test]
fn receiver_of_an_ipi_is_not_kicked_if_it_is_here() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 0, &[host_interrupt]);
    send(&mut rig, 0x4400, 3);
    rig.turn().unwrap();
    assert!(rig.host.kicked.is_empty());
    assert!(!rig.machine.mailboxes()[3].is_empty());
}

/// Mail that comes between the last look and the entry must keep the vCPU from entering.
#[test]
fn mail_that_comes_late_keeps_the_vcpu_here() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 0, &[host_interrupt]);
    // What arming the timer does on this host, late in a turn: somebody sends an interrupt.
    rig.request(0x55);
    let may_go = super::super::depart(&mut rig.vcpu, &rig.machine, &mut rig.host);
    assert_eq!(may_go, Ok(false));
    assert!(!rig.machine.crew().must_kick(0));
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0x55]);
}

#[test]
fn application_processor_waits_for_its_start_up_and_sleeps_meanwhile() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 1, &[host_interrupt, host_interrupt]);
    assert_eq!(rig.vcpu.activity, Activity::WaitingForStartUp);
    rig.turn().unwrap();
    assert_eq!((rig.host.waits, rig.processor.script.len()), (1, 2));
    post(&rig, LocalEvent::StartUp(0x9A));
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.cs.base, 0x9_A000);
    assert_eq!(rig.vcpu.activity, Activity::Running);
}

/// The second of the two start-up IPIs of the MP specification finds a processor that runs.
#[test]
fn start_up_of_a_running_processor_is_ignored() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 1, &[host_interrupt, host_interrupt]);
    post(&rig, LocalEvent::StartUp(0x9A));
    rig.turn().unwrap();
    rig.processor.vmsa.rip = 0x123;
    post(&rig, LocalEvent::StartUp(0x11));
    rig.turn().unwrap();
    assert_eq!(
        (rig.processor.vmsa.cs.base, rig.processor.vmsa.rip),
        (0x9_A000, 0x123)
    );
}

#[test]
fn init_stops_a_running_processor_and_forgets_what_it_was_at() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 1, &[host_interrupt, host_interrupt]);
    post(&rig, LocalEvent::StartUp(0x9A));
    rig.turn().unwrap();
    rig.vcpu.exception = Some(stockade_intercept::emulate::Exception::GENERAL_PROTECTION);
    rig.vcpu.nmi.raise();
    rig.processor.vmsa.cr0 = 0x8000_0011;
    post(&rig, LocalEvent::Init);
    rig.turn().unwrap();
    assert_eq!(rig.vcpu.activity, Activity::WaitingForStartUp);
    assert_eq!((rig.host.waits, rig.processor.vmsa.cr0 & 1), (1, 0));
    assert_eq!(
        rig.processor.vmsa.rdx, 0x00A0_0F11,
        "the processor's signature"
    );
    post(&rig, LocalEvent::StartUp(0x20));
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.cs.base, 0x2_0000);
    assert!(rig.processor.delivered.is_empty());
}

/// An INIT and the start-up after it may be found together.
#[test]
fn init_and_start_up_in_one_mail_start_anew() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 1, &[host_interrupt, host_interrupt]);
    for page in [0x9A, 0x33] {
        post(&rig, LocalEvent::Init);
        post(&rig, LocalEvent::StartUp(page));
        rig.turn().unwrap();
        assert_eq!(rig.processor.vmsa.cs.base, u64::from(page) << 12);
    }
}

#[test]
fn init_of_the_bootstrap_processor_restarts_it_at_the_reset_vector() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 0, &[host_interrupt]);
    post(&rig, LocalEvent::Init);
    rig.turn().unwrap();
    assert_eq!(
        (rig.processor.vmsa.cs.base, rig.processor.vmsa.rip),
        (0xFFFF_0000, 0xFFF0)
    );
    assert_eq!(rig.vcpu.activity, Activity::Running);
}

/// Chips have one timekeeper, or each tick would wake all.
#[test]
fn deadlines_of_chips_are_the_first_vcpus() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 1, &[host_interrupt as Scene; 2]);
    post(&rig, LocalEvent::StartUp(0x9A));
    assert!(rig.machine.crew().depart(0), "the first is in its guest");
    for (port, value) in [(0x43, 0x34), (0x40, 0xE8), (0x40, 0x03)] {
        rig.machine.port_write(port, &[value]);
    }
    rig.turn().unwrap();
    assert!(rig.host.armed.is_empty());
    assert_eq!(rig.host.kicked, [0], "to set its timer");
    assert!(
        !rig.machine.crew().depart(0),
        "and it does not leave before"
    );
}

/// One vCPU switches off; another in a loop without exits must come back too.
#[test]
fn end_kicks_all_others() {
    let clock = FakeClock::default();
    let shutdown: Scene = |vmsa| exit(vmsa, ExitCode::SHUTDOWN);
    let mut rig = rig(&clock, 0, &[shutdown]);
    let end = run(
        &mut rig.vcpu,
        &rig.machine,
        &mut rig.processor,
        &mut rig.host,
        &rig.memory,
    );
    assert_eq!(end, End::Stop(StopReason::GUEST_TRIPLE_FAULT));
    assert_eq!(rig.host.kicked, [1, 2, 3]);
    assert_eq!(rig.machine.crew().end(), Some(end));
}

/// An interrupt of a chip goes to whom the IOAPIC says, whoever touched the chip.
#[test]
fn interrupt_of_a_chip_kicks_the_vcpu_it_is_routed_to() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 0, &[host_interrupt]);
    // Pin 4: NMI to APIC id 3.
    for (register, value) in [(0x19_u32, 3_u32 << 24), (0x18, 0x400)] {
        rig.machine
            .mmio_write(Gpa(0xFEC0_0000), &register.to_le_bytes());
        rig.machine
            .mmio_write(Gpa(0xFEC0_0010), &value.to_le_bytes());
    }
    assert!(rig.machine.crew().depart(3));
    rig.machine.port_write(0x3FC, &[0x08]);
    rig.machine.port_write(0x3F9, &[0x02]);
    rig.turn().unwrap();
    assert_eq!(rig.host.kicked, [3]);
}

/// Two senders at once: the second finds the mailbox not empty and leaves the kick to the first.
#[test]
fn second_sender_leaves_the_kick_to_the_first() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, 0, &[host_interrupt]);
    assert!(rig.machine.crew().depart(1));
    let first = rig.machine.mailboxes()[1].post(DeliveryMode::Nmi, 0, Trigger::Edge);
    send(&mut rig, 0x4400, 1);
    rig.turn().unwrap();
    assert!(first && rig.host.kicked.is_empty());
}
