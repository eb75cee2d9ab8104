use proptest::prelude::*;
use stockade_bus::fake::{FakeClock, FakeIrqLine};
use stockade_bus::{Clock, Level, PortIo};

use super::{PORT_61, Pit, nanoseconds};

type TestPit<'a> = Pit<&'a FakeIrqLine, &'a FakeClock>;

fn read(pit: &mut TestPit<'_>, port: u16) -> u8 {
    let mut byte = [0];
    pit.port_read(port, &mut byte).unwrap();
    byte[0]
}

fn write(pit: &mut TestPit<'_>, port: u16, value: u8) {
    pit.port_write(port, &[value]).unwrap();
}

#[test]
fn rate_generator_rises_once_a_period() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, 3, 0x34);
    write(&mut pit, 0, 0xE8);
    write(&mut pit, 0, 0x03);
    let rises = irq.rises();
    for period in 1..=10 {
        assert_eq!(pit.deadline(), Some(nanoseconds(1000 * period)));
        clock.advance(nanoseconds(1000 * period) - nanoseconds(1000 * (period - 1)));
        pit.advance();
    }
    assert_eq!(irq.rises() - rises, 10);
}

#[test]
fn one_shot_rises_once_and_never_again() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, 3, 0x30);
    write(&mut pit, 0, 100);
    write(&mut pit, 0, 0);
    assert_eq!(irq.level(), Level::Low);
    clock.advance(nanoseconds(100));
    pit.advance();
    assert_eq!(irq.level(), Level::High);
    assert_eq!(pit.deadline(), None);
}

/// A square wave is high for half its period: who looks later than that must still find it high, for as long.
#[test]
fn rise_seen_late_lasts_as_long_as_one_seen_in_time() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, 3, 0x36);
    write(&mut pit, 0, 0xE8);
    write(&mut pit, 0, 0x03);
    let mut look_at = |tick: u64| {
        let now = clock.now_ns();
        clock.advance(nanoseconds(tick) - now);
        let rises = irq.rises();
        pit.advance();
        (irq.rises() - rises, irq.level())
    };
    assert_eq!(look_at(600), (0, Level::Low));
    assert_eq!(look_at(1700), (1, Level::High));
    assert_eq!(look_at(1999), (0, Level::High));
    assert_eq!(look_at(2000), (1, Level::High));
    assert_eq!(look_at(2500), (0, Level::Low));
    // Of several only the last counts.
    assert_eq!(look_at(5900), (1, Level::High));
    assert_eq!(look_at(6399), (1, Level::High));
    assert_eq!(look_at(6899), (0, Level::Low));
}

/// Linux' quick calibration: channel 2 in mode 0, gate by port 61h, wait for bit 5.
#[test]
fn channel_2_output_shows_in_port_61_after_its_count() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, PORT_61, 0x01);
    write(&mut pit, 3, 0xB0);
    write(&mut pit, 2, 0x9B);
    write(&mut pit, 2, 0x2E);
    assert_eq!(read(&mut pit, PORT_61) & 0x20, 0);
    clock.advance(nanoseconds(0x2E9B));
    assert_eq!(read(&mut pit, PORT_61) & 0x20, 0x20);
}

#[test]
fn gate_holds_the_count() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, PORT_61, 0x01);
    write(&mut pit, 3, 0xB0);
    write(&mut pit, 2, 0x00);
    write(&mut pit, 2, 0x10);
    clock.advance(nanoseconds(0x100));
    write(&mut pit, PORT_61, 0x00);
    clock.advance(nanoseconds(0x4000));
    assert_eq!([read(&mut pit, 2), read(&mut pit, 2)], [0x00, 0x0F]);
    write(&mut pit, PORT_61, 0x01);
    assert_eq!(read(&mut pit, PORT_61) & 0x20, 0);
    clock.advance(nanoseconds(0xF01));
    assert_eq!(read(&mut pit, PORT_61) & 0x20, 0x20);
}

#[test]
fn counter_counts_down_and_wraps_in_mode_0() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, 3, 0x30);
    write(&mut pit, 0, 4);
    write(&mut pit, 0, 0);
    let mut seen = [0_u16; 6];
    for slot in &mut seen {
        *slot = u16::from_le_bytes([read(&mut pit, 0), read(&mut pit, 0)]);
        clock.advance(nanoseconds(1));
    }
    assert_eq!(seen, [4, 3, 2, 1, 0, 0xFFFF]);
}

#[test]
fn latched_count_stands_until_both_bytes_are_read() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, 3, 0x34);
    write(&mut pit, 0, 0);
    write(&mut pit, 0, 0);
    clock.advance(nanoseconds(0x1234));
    write(&mut pit, 3, 0x00);
    clock.advance(nanoseconds(0x2000));
    assert_eq!([read(&mut pit, 0), read(&mut pit, 0)], [0xCC, 0xED]);
    assert_eq!([read(&mut pit, 0), read(&mut pit, 0)], [0xCC, 0xCD]);
}

#[test]
fn read_back_gives_status_then_count() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, 3, 0x34);
    write(&mut pit, 0, 0x10);
    write(&mut pit, 0, 0x00);
    write(&mut pit, 3, 0xC2);
    assert_eq!(read(&mut pit, 0), 0xB4);
    assert_eq!([read(&mut pit, 0), read(&mut pit, 0)], [0x10, 0x00]);
}

#[test]
fn bcd_counts_in_decimal() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut pit = Pit::new(&irq, &clock);
    write(&mut pit, 3, 0x31);
    write(&mut pit, 0, 0x00);
    write(&mut pit, 0, 0x10);
    clock.advance(nanoseconds(1));
    assert_eq!([read(&mut pit, 0), read(&mut pit, 0)], [0x99, 0x09]);
}

proptest! {
    #[test]
    fn traffic_never_panics_and_restored_timer_agrees(
        traffic in prop::collection::vec((any::<bool>(), prop::sample::select(&[0_u16, 1, 2, 3, PORT_61]), any::<u8>(), 0_u64..5_000_000), 0..100),
        after in prop::collection::vec((prop::sample::select(&[0_u16, 1, 2, PORT_61]), 0_u64..5_000_000), 0..30),
    ) {
        let (irq_a, clock_a) = (FakeIrqLine::default(), FakeClock::default());
        let mut a = Pit::new(&irq_a, &clock_a);
        for (is_write, port, value, wait) in traffic {
            clock_a.advance(wait);
            a.advance();
            if is_write { write(&mut a, port, value) } else if port != 3 { read(&mut a, port); }
        }
        let (irq_b, clock_b) = (FakeIrqLine::default(), FakeClock::default());
        clock_b.advance(stockade_bus::Clock::now_ns(&&clock_a));
        let mut b = Pit::new(&irq_b, &clock_b);
        b.restore(&a.save()).unwrap();
        a.advance();
        for (port, wait) in after {
            prop_assert_eq!(a.deadline(), b.deadline());
            clock_a.advance(wait);
            clock_b.advance(wait);
            a.advance();
            b.advance();
            prop_assert_eq!(irq_a.level(), irq_b.level());
            prop_assert_eq!(read(&mut a, port), read(&mut b, port));
        }
    }
}
