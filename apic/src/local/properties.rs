//! What holds whatever the guest, its other vCPUs and its devices do.

use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use stockade_bus::Level;

use super::tests::enabled;
use super::{Effect, Lint, LocalApic, Time, TimerDeadline};
use crate::mailbox::Mailbox;
use crate::msi::{DeliveryMode, Trigger};

#[derive(Clone, Debug)]
enum Step {
    WritePage(u16, u32),
    ReadPage(u16, usize),
    WriteMsr(u32, u64),
    ReadMsr(u32),
    Post(u8, u8, bool),
    Lint(bool, bool),
    Take,
    Cr8(u8),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        any::<u32>(),
        0u32..0x200,
        (0u32..8, any::<u8>()).prop_map(|(mode, vector)| mode << 16 | u32::from(vector))
    ];
    let msr = prop_oneof![8 => 0x800u32..0x840, 1 => proptest::strategy::Just(0x6E0)];
    prop_oneof![
        8 => (0u16..0x40, value).prop_map(|(slot, value)| Step::WritePage(slot << 4, value)),
        2 => (0u16..0x1000, 1usize..17).prop_map(|(offset, len)| Step::ReadPage(offset, len)),
        4 => (msr.clone(), any::<u32>()).prop_map(|(msr, value)| Step::WriteMsr(msr, u64::from(value & 0x200F_FFFF))),
        2 => (0u64..8).prop_map(|mode| Step::WriteMsr(0x1B, 0xFEE0_0000 | mode << 9)),
        2 => msr.prop_map(Step::ReadMsr),
        6 => (0u8..8, any::<u8>(), any::<bool>()).prop_map(|(mode, vector, level)| Step::Post(mode, vector, level)),
        2 => any::<(bool, bool)>().prop_map(|(pin, level)| Step::Lint(pin, level)),
        6 => proptest::strategy::Just(Step::Take),
        1 => any::<u8>().prop_map(Step::Cr8),
        4 => (0u32..100_000).prop_map(Step::Wait),
    ]
}

struct Machine {
    apic: LocalApic,
    mailbox: Mailbox,
    now: Time,
}

impl Machine {
    fn new() -> Self {
        let apic = enabled(3);
        let mailbox = Mailbox::new();
        apic.publish(&mailbox);
        Self {
            apic,
            mailbox,
            now: Time::default(),
        }
    }

    /// Does a step and returns all a guest could see of it.
    fn run(&mut self, step: &Step) -> (Option<Effect>, Vec<u8>, Option<u64>) {
        let (apic, now) = (&mut self.apic, self.now);
        let mut bytes = Vec::new();
        let mut effect = None;
        let mut value = None;
        match *step {
            Step::WritePage(offset, value) => {
                effect = apic.write_mmio(offset, &value.to_le_bytes(), now).ok();
            }
            Step::ReadPage(offset, len) => {
                bytes.resize(len, 0xA5);
                let _ = apic.read_mmio(offset, &mut bytes, now);
            }
            Step::WriteMsr(msr, value) => effect = apic.write_msr(msr, value, now).ok(),
            Step::ReadMsr(msr) => value = apic.read_msr(msr, now).ok(),
            Step::Post(mode, vector, is_level) => {
                if let Some(delivery) = DeliveryMode::from_bits(mode) {
                    let _ = self.mailbox.post(delivery, vector, Trigger::from(is_level));
                    bytes.extend(apic.deliver_remote(&self.mailbox).map(|_| 1));
                }
            }
            Step::Lint(pin, level) => {
                let pin = if pin { Lint::Lint1 } else { Lint::Lint0 };
                bytes.extend(apic.set_lint(pin, Level::from(level)).map(|_| 1));
            }
            Step::Take => {
                value = apic.queueable_vector().map(u64::from);
                if let Some(vector) = apic.queueable_vector() {
                    assert!(apic.accept(vector));
                }
            }
            Step::Cr8(class) => apic.set_cr8(class),
            Step::Wait(ns) => {
                self.now.ns += u64::from(ns);
                self.now.tsc += 2 * u64::from(ns);
                apic.advance(self.now);
            }
        }
        (effect, bytes, value)
    }
}

proptest! {
    /// No traffic panics; requests are never illegal; what is in service is always in descending classes; a deadline that is due has fired.
    #[test]
    fn any_traffic_keeps_the_invariants(steps in proptest::collection::vec(step(), 0..300)) {
        let mut machine = Machine::new();
        for step in &steps {
            machine.run(step);
            let apic = &machine.apic;
            prop_assert!(!apic.request.has_illegal() && !apic.in_service.has_illegal());
            if let Some(vector) = apic.queueable_vector() {
                prop_assert!(apic.request.contains(vector));
                prop_assert!(apic.in_service.highest().unwrap_or(0) >> 4 < vector >> 4);
            }
            let mut advanced = apic.clone();
            advanced.advance(machine.now);
            match advanced.deadline() {
                Some(TimerDeadline::Nanoseconds(ns)) => prop_assert!(ns > machine.now.ns),
                Some(TimerDeadline::Tsc(tsc)) => prop_assert!(tsc > machine.now.tsc),
                None => {}
            }
        }
    }

    /// An APIC restored from any state goes on exactly like the one that was saved.
    #[test]
    fn restore_changes_nothing(steps in proptest::collection::vec(step(), 0..200), split in 0usize..200) {
        let (mut first, mut second) = (Machine::new(), Machine::new());
        for (number, step) in steps.iter().enumerate() {
            if number == split {
                second.apic.restore(&first.apic.save()).unwrap();
                second.now = first.now;
            }
            let seen = first.run(step);
            if number >= split {
                prop_assert_eq!(seen, second.run(step));
                prop_assert_eq!(first.apic.save(), second.apic.save());
                prop_assert_eq!(first.apic.deadline(), second.apic.deadline());
            }
        }
    }

    /// Each vector that was sent is taken once (or, if it was pending already, with that one), and none that was not.
    #[test]
    fn vectors_are_neither_lost_nor_invented(
        steps in proptest::collection::vec((0u8..3, 16u8..=255), 0..400),
    ) {
        let mut machine = Machine::new();
        let (mut pending, mut served) = (BTreeSet::new(), BTreeSet::<u8>::new());
        for (kind, vector) in steps {
            let apic = &mut machine.apic;
            match kind {
                0 => {
                    let _ = machine.mailbox.post_vector(vector, Trigger::Edge);
                    let _ = apic.deliver_remote(&machine.mailbox);
                    pending.insert(vector);
                }
                1 => {
                    let class = served.last().map_or(0, |vector| vector >> 4);
                    let expected = pending.last().copied().filter(|vector| vector >> 4 > class);
                    prop_assert_eq!(apic.queueable_vector(), expected);
                    if let Some(vector) = expected {
                        prop_assert!(apic.accept(vector));
                        pending.remove(&vector);
                        served.insert(vector);
                    }
                }
                _ => {
                    let _ = apic.end_of_interrupt();
                    served.pop_last();
                }
            }
        }
        while machine.apic.in_service.highest().is_some() {
            let _ = machine.apic.end_of_interrupt();
        }
        while let Some(vector) = machine.apic.queueable_vector() {
            prop_assert!(machine.apic.accept(vector));
            let _ = machine.apic.end_of_interrupt();
            prop_assert!(pending.remove(&vector));
        }
        prop_assert!(pending.is_empty());
    }

    /// However late and often it is looked at, a periodic timer's next moment is a whole number of periods from its start.
    #[test]
    fn periodic_timer_never_drifts(
        initial in 1u32..10_000,
        waits in proptest::collection::vec(0u64..100_000, 1..50),
    ) {
        let mut apic = enabled(0);
        for (offset, value) in [(0x3E0, 0b1011), (0x320, 0x2_0040), (0x380, initial)] {
            let _ = apic.write_mmio(offset, &value.to_le_bytes(), Time::default()).unwrap();
        }
        let (mut now, mut periods) = (0, 0);
        for wait in waits {
            now += wait;
            let elapsed = now / u64::from(initial);
            prop_assert_eq!(apic.advance(Time { ns: now, tsc: 0 }), elapsed > periods);
            periods = elapsed;
            let next = (elapsed + 1) * u64::from(initial);
            prop_assert_eq!(apic.deadline(), Some(TimerDeadline::Nanoseconds(next)));
        }
    }
}
