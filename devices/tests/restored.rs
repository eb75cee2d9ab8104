//! For the small chips: whatever a guest does to one, it does not panic, and a chip restored at any point goes on like the one saved.
//!
//! The chips with more state have their own such tests beside the code.

#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};
use stockade_bus::PortIo;
use stockade_bus::fake::{FakeClock, FakeIrqLine};
use stockade_devices::i8042::Keyboard8042;
use stockade_devices::power::Power;
use stockade_devices::reset::ResetControl;
use stockade_devices::rtc::Rtc;
use stockade_devices::test_devices::PcTestdev;

/// One access of a guest, and the time since the one before.
#[derive(Clone, Debug)]
struct Step {
    is_write: bool,
    port: u16,
    bytes: [u8; 4],
    len: usize,
    wait_ns: u64,
}

fn steps(ports: &'static [u16], longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (
        any::<bool>(),
        prop::sample::select(ports),
        any::<[u8; 4]>(),
        1..=longest,
        0_u64..3_000_000_000,
    );
    let step = step.prop_map(|(is_write, port, bytes, len, wait_ns)| Step {
        is_write,
        port,
        bytes,
        len,
        wait_ns,
    });
    prop::collection::vec(step, 0..60)
}

/// Does it, and returns what the guest sees.
fn access(chip: &mut impl PortIo, step: &Step) -> ([u8; 4], bool) {
    let mut bytes = step.bytes;
    let done = if step.is_write {
        chip.port_write(step.port, &bytes[..step.len])
    } else {
        chip.port_read(step.port, &mut bytes[..step.len])
    };
    (bytes, done.is_ok())
}

proptest! {
    #[test]
    fn clock(before in steps(&[0, 1], 1), after in steps(&[0, 1], 1)) {
        let (irq, time) = (FakeIrqLine::default(), FakeClock::default());
        let mut saved = Rtc::new(&irq, &time, 1_704_067_200);
        for step in &before {
            time.advance(step.wait_ns);
            saved.advance();
            access(&mut saved, step);
        }
        saved.advance();
        let (irq_too, time_too) = (FakeIrqLine::default(), FakeClock::default());
        let mut restored = Rtc::new(&irq_too, &time_too, 0);
        // The machine it wakes up in counts its own time.
        time_too.advance(stockade_bus::Clock::now_ns(&&time));
        restored.restore(&saved.save()).unwrap();
        for step in &after {
            prop_assert_eq!(irq.level(), irq_too.level());
            prop_assert_eq!(saved.deadline(), restored.deadline());
            time.advance(step.wait_ns);
            time_too.advance(step.wait_ns);
            saved.advance();
            restored.advance();
            prop_assert_eq!(access(&mut saved, step), access(&mut restored, step));
            prop_assert_eq!(saved.save(), restored.save());
        }
    }

    #[test]
    fn power_block(before in steps(&[0, 2, 4, 5, 8, 0x20, 0x28, 0x30], 4), after in steps(&[0, 2, 4, 8, 0x20], 4)) {
        let (sci, time) = (FakeIrqLine::default(), FakeClock::default());
        let mut saved = Power::new(&sci, &time);
        for step in &before {
            time.advance(step.wait_ns);
            access(&mut saved, step);
        }
        saved.advance();
        let (sci_too, time_too) = (FakeIrqLine::default(), FakeClock::default());
        time_too.advance(stockade_bus::Clock::now_ns(&&time));
        let mut restored = Power::new(&sci_too, &time_too);
        restored.restore(&saved.save()).unwrap();
        for step in &after {
            prop_assert_eq!(sci.level(), sci_too.level());
            prop_assert_eq!(saved.deadline(), restored.deadline());
            time.advance(step.wait_ns);
            time_too.advance(step.wait_ns);
            prop_assert_eq!(access(&mut saved, step), access(&mut restored, step));
            prop_assert_eq!(saved.is_off(), restored.is_off());
        }
    }

    #[test]
    fn reset_ports(before in steps(&[0x92, 0xCF9], 2), after in steps(&[0x92, 0xCF9], 2)) {
        let mut saved = ResetControl::new();
        for step in &before {
            access(&mut saved, step);
        }
        // The machine looks after each access.
        saved.take_reset();
        let mut restored = ResetControl::new();
        restored.restore(&saved.save()).unwrap();
        for step in &after {
            prop_assert_eq!(access(&mut saved, step), access(&mut restored, step));
            prop_assert_eq!(saved.take_reset(), restored.take_reset());
        }
    }

    #[test]
    fn keyboard_controller(before in steps(&[0, 4], 1), after in steps(&[0, 4], 1)) {
        let mut saved = Keyboard8042::new();
        for step in &before {
            access(&mut saved, step);
        }
        // The machine looks after each access.
        saved.take_reset();
        let mut restored = Keyboard8042::new();
        restored.restore(&saved.save()).unwrap();
        for step in &after {
            prop_assert_eq!(access(&mut saved, step), access(&mut restored, step));
            prop_assert_eq!(saved.take_reset(), restored.take_reset());
            prop_assert_eq!(saved.save(), restored.save());
        }
    }

    #[test]
    fn test_device(
        before in steps(&[0, 1, 4, 8, 0x1F20, 0x1F37], 4),
        after in steps(&[0, 1, 8, 0x1F20, 0x1F21], 4),
    ) {
        let (lines, lines_too): ([FakeIrqLine; 24], [FakeIrqLine; 24]) = Default::default();
        let mut saved = PcTestdev::new(lines.each_ref());
        for step in &before {
            access(&mut saved, step);
        }
        let mut restored = PcTestdev::new(lines_too.each_ref());
        restored.restore(&saved.save()).unwrap();
        for step in &after {
            prop_assert_eq!(access(&mut saved, step), access(&mut restored, step));
            for (line, line_too) in lines.iter().zip(&lines_too) {
                prop_assert_eq!(line.level(), line_too.level());
            }
        }
    }
}
