use stockade_bus::fake::{FakeClock, FakeIrqLine};
use stockade_bus::{Level, PortIo};

use super::{Rtc, SECOND_NS};
use crate::RestoreError;

/// 1 January 2024, 00:00:00 UTC, a Monday.
const NEW_YEAR: u64 = 1_704_067_200;

type TestRtc<'a> = Rtc<&'a FakeIrqLine, &'a FakeClock>;

fn read(rtc: &mut TestRtc<'_>, cell: u8) -> u8 {
    rtc.port_write(0, &[cell]).unwrap();
    let mut byte = [0];
    rtc.port_read(1, &mut byte).unwrap();
    byte[0]
}

fn write(rtc: &mut TestRtc<'_>, cell: u8, value: u8) {
    rtc.port_write(0, &[cell]).unwrap();
    rtc.port_write(1, &[value]).unwrap();
}

#[test]
fn time_of_day_is_shown_in_bcd() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut rtc = Rtc::new(&irq, &clock, NEW_YEAR + 13 * 3600 + 45 * 60 + 9);
    assert_eq!(
        [0, 2, 4, 6, 7, 8, 9, 0x32].map(|cell| read(&mut rtc, cell)),
        [0x09, 0x45, 0x13, 2, 0x01, 0x01, 0x24, 0x20]
    );
    clock.advance(51 * SECOND_NS);
    assert_eq!([0, 2].map(|cell| read(&mut rtc, cell)), [0x00, 0x46]);
}

#[test]
fn twelve_hour_binary_mode_marks_the_afternoon() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut rtc = Rtc::new(&irq, &clock, NEW_YEAR + 12 * 3600);
    write(&mut rtc, 0x0B, 0x04);
    assert_eq!(read(&mut rtc, 4), 0x8C);
    clock.advance(12 * 3600 * SECOND_NS);
    assert_eq!(read(&mut rtc, 4), 12);
}

#[test]
fn setting_the_clock_moves_only_the_offset() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut rtc = Rtc::new(&irq, &clock, NEW_YEAR);
    write(&mut rtc, 0x0B, 0x82);
    for (cell, value) in [
        (0, 0x30),
        (2, 0x59),
        (4, 0x23),
        (7, 0x31),
        (8, 0x12),
        (9, 0x25),
    ] {
        write(&mut rtc, cell, value);
    }
    clock.advance(100 * SECOND_NS);
    assert_eq!(read(&mut rtc, 0), 0x30);
    write(&mut rtc, 0x0B, 0x02);
    clock.advance(30 * SECOND_NS);
    assert_eq!(
        [0, 2, 4, 7, 8, 9].map(|cell| read(&mut rtc, cell)),
        [0x00, 0x00, 0x00, 0x01, 0x01, 0x26]
    );
}

#[test]
fn update_in_progress_shows_before_each_second_ends() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut rtc = Rtc::new(&irq, &clock, NEW_YEAR);
    assert_eq!(read(&mut rtc, 0x0A) & 0x80, 0);
    clock.advance(SECOND_NS - 1_000_000);
    assert_eq!(read(&mut rtc, 0x0A) & 0x80, 0x80);
}

#[test]
fn update_interrupt_comes_once_a_second_until_read() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut rtc = Rtc::new(&irq, &clock, NEW_YEAR);
    write(&mut rtc, 0x0B, 0x12);
    assert_eq!(rtc.deadline(), Some(SECOND_NS));
    clock.advance(SECOND_NS);
    rtc.advance();
    assert_eq!(irq.level(), Level::High);
    assert_eq!(rtc.deadline(), None);
    assert_eq!(read(&mut rtc, 0x0C) & 0x90, 0x90);
    assert_eq!(irq.level(), Level::Low);
    assert_eq!(read(&mut rtc, 0x0C), 0);
    assert_eq!(rtc.deadline(), Some(2 * SECOND_NS));
}

#[test]
fn alarm_fires_at_the_set_time_with_wildcards() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut rtc = Rtc::new(&irq, &clock, NEW_YEAR);
    for (cell, value) in [(1, 0x05), (3, 0xC0), (5, 0xFF)] {
        write(&mut rtc, cell, value);
    }
    write(&mut rtc, 0x0B, 0x22);
    clock.advance(4 * SECOND_NS);
    rtc.advance();
    assert_eq!(irq.level(), Level::Low);
    clock.advance(3 * SECOND_NS);
    rtc.advance();
    assert_eq!(irq.level(), Level::High);
}

#[test]
fn periodic_interrupt_keeps_its_rate() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut rtc = Rtc::new(&irq, &clock, NEW_YEAR);
    write(&mut rtc, 0x0B, 0x42);
    let mut ticks = 0;
    while let Some(at) = rtc.deadline() {
        let now = stockade_bus::Clock::now_ns(&&clock);
        if at > SECOND_NS {
            break;
        }
        clock.advance(at - now);
        rtc.advance();
        assert_eq!(read(&mut rtc, 0x0C) & 0xC0, 0xC0);
        ticks += 1;
    }
    assert_eq!(ticks, 1024);
}

#[test]
fn restored_clock_shows_the_saved_time() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut saved = Rtc::new(&irq, &clock, NEW_YEAR);
    write(&mut saved, 0x40, 0x77);
    clock.advance(61 * SECOND_NS);
    let (irq, clock_b) = (FakeIrqLine::default(), FakeClock::default());
    clock_b.advance(5);
    let mut restored = Rtc::new(&irq, &clock_b, 0);
    restored.restore(&saved.save()).unwrap();
    assert_eq!(
        [0, 2, 9, 0x40].map(|cell| read(&mut restored, cell)),
        [0x01, 0x01, 0x24, 0x77]
    );
}

/// A clock so far off would overflow when its date is told.
#[test]
fn times_no_clock_can_show_are_refused() {
    let (irq, clock) = (FakeIrqLine::default(), FakeClock::default());
    let mut rtc = Rtc::new(&irq, &clock, NEW_YEAR);
    for seconds in [i64::MIN, i64::MAX, 1 << 41] {
        let mut state = rtc.save();
        state.held = Some(seconds);
        assert_eq!(
            rtc.restore(&state),
            Err(RestoreError::Impossible("RTC time"))
        );
        state.held = None;
        state.unix_ns = i128::from(seconds) * i128::from(SECOND_NS);
        assert_eq!(
            rtc.restore(&state),
            Err(RestoreError::Impossible("RTC time"))
        );
    }
}
