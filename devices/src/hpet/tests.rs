use proptest::prelude::*;
use stockade_bus::fake::{FakeClock, FakeIrqLine};
use stockade_bus::{AccessError, Clock, Level, Mmio};

use super::{Hpet, Lines};
use crate::RestoreError;

const CONFIGURATION: u64 = 0x10;
const STATUS: u64 = 0x20;
const COUNTER: u64 = 0xF0;
const ENABLE: u64 = 1;
const LEGACY: u64 = 2;

const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_VALUE: u64 = 1 << 6;
const NARROW: u64 = 1 << 8;

fn route(pin: u64) -> u64 {
    pin << 9
}

fn configuration(index: u64) -> u64 {
    0x100 + 0x20 * index
}

fn comparator(index: u64) -> u64 {
    configuration(index) + 8
}

#[derive(Default)]
struct World {
    clock: FakeClock,
    timer: FakeIrqLine,
    rtc: FakeIrqLine,
    irq11: FakeIrqLine,
    pins: [FakeIrqLine; 4],
}

type TestHpet<'a> = Hpet<&'a FakeIrqLine, &'a FakeClock>;

impl World {
    fn hpet(&self) -> TestHpet<'_> {
        let lines = Lines {
            timer: &self.timer,
            clock: &self.rtc,
            irq11: &self.irq11,
            pins: self.pins.each_ref(),
        };
        Hpet::new(lines, &self.clock)
    }

    fn pass(&self, hpet: &mut TestHpet<'_>, ticks: u64) {
        self.clock.advance(ticks * 10);
        hpet.advance();
    }

    fn levels(&self) -> Vec<Level> {
        let all = [&self.timer, &self.rtc, &self.irq11];
        let levels = all.into_iter().chain(&self.pins);
        levels.map(FakeIrqLine::level).collect()
    }
}

use std::vec::Vec;

fn read(hpet: &mut TestHpet<'_>, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    hpet.mmio_read(offset, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn read_half(hpet: &mut TestHpet<'_>, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    hpet.mmio_read(offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn write(hpet: &mut TestHpet<'_>, offset: u64, value: u64) {
    hpet.mmio_write(offset, &value.to_le_bytes()).unwrap();
}

fn write_half(hpet: &mut TestHpet<'_>, offset: u64, value: u32) {
    hpet.mmio_write(offset, &value.to_le_bytes()).unwrap();
}

#[test]
fn capabilities_name_period_width_and_comparators() {
    let world = World::default();
    let mut hpet = world.hpet();
    assert_eq!(read(&mut hpet, 0), 0x0098_9680_8086_A201);
    write(&mut hpet, 0, 0);
    assert_eq!(read_half(&mut hpet, 4), 10_000_000);
    for index in 0..3 {
        // Periodic and 64 bits wide, pins 20 to 23; interrupt 11 for the last; no message interrupts.
        let routes = if index == 2 { 0x00F0_0800 } else { 0x00F0_0000 };
        assert_eq!(read(&mut hpet, configuration(index)), routes << 32 | 0x30);
        assert_eq!(read(&mut hpet, comparator(index)), u64::MAX);
    }
}

#[test]
fn counter_counts_only_while_enabled() {
    let world = World::default();
    let mut hpet = world.hpet();
    world.pass(&mut hpet, 100);
    assert_eq!(read(&mut hpet, COUNTER), 0);
    write(&mut hpet, COUNTER, 0xFFFF_FFF0);
    write(&mut hpet, CONFIGURATION, ENABLE);
    world.pass(&mut hpet, 0x20);
    assert_eq!(read(&mut hpet, COUNTER), 0x1_0000_0010);
    assert_eq!(read_half(&mut hpet, COUNTER), 0x10);
    assert_eq!(read_half(&mut hpet, COUNTER + 4), 1);
    write(&mut hpet, CONFIGURATION, 0);
    world.pass(&mut hpet, 100);
    assert_eq!(read(&mut hpet, COUNTER), 0x1_0000_0010);
    write_half(&mut hpet, COUNTER + 4, 7);
    assert_eq!(read(&mut hpet, COUNTER), 0x7_0000_0010);
}

#[test]
fn one_shot_pulses_its_route_once() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(&mut hpet, configuration(0), INTERRUPT | route(21));
    write(&mut hpet, comparator(0), 1000);
    assert_eq!(hpet.deadline(), None);
    write(&mut hpet, CONFIGURATION, ENABLE);
    assert_eq!(hpet.deadline(), Some(10_000));
    world.pass(&mut hpet, 999);
    assert_eq!(world.pins[1].rises(), 0);
    world.pass(&mut hpet, 1);
    assert_eq!(world.pins[1].rises(), 1);
    assert_eq!(world.levels(), [Level::Low; 7]);
    world.pass(&mut hpet, 1_000_000);
    assert_eq!(world.pins[1].rises(), 1);
    assert_eq!(read(&mut hpet, comparator(0)), 1000);
}

/// What Linux does: set the comparator with VAL_SET, then the period.
#[test]
fn periodic_comparator_moves_on_by_its_period() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(
        &mut hpet,
        configuration(0),
        INTERRUPT | PERIODIC | SET_VALUE | NARROW | route(20),
    );
    write_half(&mut hpet, comparator(0), 5000);
    assert_eq!(read(&mut hpet, configuration(0)) & SET_VALUE, 0);
    write_half(&mut hpet, comparator(0), 1000);
    assert_eq!(read(&mut hpet, comparator(0)), 5000);
    write(&mut hpet, CONFIGURATION, ENABLE);
    for tick in 1..=20 {
        world.pass(&mut hpet, 500);
        let expected = if tick < 10 { 0 } else { (tick - 10) / 2 + 1 };
        assert_eq!(world.pins[0].rises(), expected, "{tick}");
    }
    assert_eq!(read(&mut hpet, comparator(0)), 11_000);
    assert_eq!(hpet.deadline(), Some(110_000));
}

/// However late the host is: the phase is kept, and the edge is there once.
#[test]
fn late_look_keeps_the_phase() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(
        &mut hpet,
        configuration(0),
        INTERRUPT | PERIODIC | SET_VALUE | route(20),
    );
    write(&mut hpet, comparator(0), 1000);
    write(&mut hpet, CONFIGURATION, ENABLE);
    world.pass(&mut hpet, 1_234_567);
    assert_eq!(world.pins[0].rises(), 1);
    assert_eq!(read(&mut hpet, comparator(0)), 1_235_000);
    world.pass(&mut hpet, 432);
    assert_eq!(world.pins[0].rises(), 1);
    world.pass(&mut hpet, 1);
    assert_eq!(world.pins[0].rises(), 2);
}

#[test]
fn narrow_comparator_matches_again_when_the_low_half_comes_round() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(&mut hpet, configuration(2), INTERRUPT | NARROW | route(11));
    write(&mut hpet, comparator(2), 0xABC_0000_0064);
    assert_eq!(read(&mut hpet, comparator(2)), 100);
    write(&mut hpet, CONFIGURATION, ENABLE);
    world.pass(&mut hpet, 100);
    assert_eq!(world.irq11.rises(), 1);
    world.pass(&mut hpet, 0xFFFF_FFFF);
    assert_eq!(world.irq11.rises(), 1);
    world.pass(&mut hpet, 1);
    assert_eq!(world.irq11.rises(), 2);
}

#[test]
fn wide_comparator_behind_the_counter_does_not_match() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(&mut hpet, configuration(0), INTERRUPT | route(20));
    write(&mut hpet, CONFIGURATION, ENABLE);
    world.pass(&mut hpet, 1000);
    write(&mut hpet, comparator(0), 999);
    world.pass(&mut hpet, 1 << 40);
    assert_eq!(world.pins[0].rises(), 0);
}

#[test]
fn comparator_set_to_the_counter_matches_at_once() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(&mut hpet, configuration(0), INTERRUPT | route(20));
    write(&mut hpet, CONFIGURATION, ENABLE);
    world.pass(&mut hpet, 1000);
    write(&mut hpet, comparator(0), 1000);
    assert_eq!(world.pins[0].rises(), 1);
}

#[test]
fn level_interrupt_stands_until_its_status_is_written() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(&mut hpet, configuration(1), INTERRUPT | LEVEL | route(23));
    write(&mut hpet, comparator(1), 10);
    write(&mut hpet, CONFIGURATION, ENABLE);
    world.pass(&mut hpet, 10);
    assert_eq!(world.pins[3].level(), Level::High);
    assert_eq!(hpet.deadline(), None);
    assert_eq!(read(&mut hpet, STATUS), 0b010);
    write(&mut hpet, STATUS, 0b101);
    assert_eq!(world.pins[3].level(), Level::High);
    write_half(&mut hpet, STATUS, 0b010);
    assert_eq!(world.pins[3].level(), Level::Low);
    assert_eq!(read(&mut hpet, STATUS), 0);
}

#[test]
fn status_is_set_without_interrupt_while_it_is_not_enabled() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(&mut hpet, configuration(0), LEVEL | route(20));
    write(&mut hpet, comparator(0), 10);
    write(&mut hpet, CONFIGURATION, ENABLE);
    world.pass(&mut hpet, 10);
    assert_eq!(world.levels(), [Level::Low; 7]);
    assert_eq!(read(&mut hpet, STATUS), 1);
    write(&mut hpet, configuration(0), INTERRUPT | LEVEL | route(20));
    assert_eq!(world.pins[0].level(), Level::High);
    write(&mut hpet, CONFIGURATION, 0);
    assert_eq!(world.pins[0].level(), Level::Low);
}

#[test]
fn legacy_replacement_drives_the_timer_and_clock_lines() {
    let world = World::default();
    let mut hpet = world.hpet();
    for index in 0..3 {
        write(&mut hpet, configuration(index), INTERRUPT | route(22));
        write(&mut hpet, comparator(index), 10 * (index + 1));
    }
    write(&mut hpet, CONFIGURATION, ENABLE | LEGACY);
    assert!(hpet.is_legacy_replacement());
    world.pass(&mut hpet, 30);
    assert_eq!((world.timer.rises(), world.rtc.rises()), (1, 1));
    assert_eq!(world.pins[2].rises(), 1);
    hpet.reset();
    assert!(!hpet.is_legacy_replacement());
}

#[test]
fn route_a_comparator_does_not_have_is_not_taken() {
    let world = World::default();
    let mut hpet = world.hpet();
    write(&mut hpet, configuration(0), INTERRUPT | route(21));
    for pin in [2, 11, 16, 31] {
        write(&mut hpet, configuration(0), INTERRUPT | route(pin));
        assert_eq!(read(&mut hpet, configuration(0)) >> 9 & 0x1F, 21);
    }
}

#[test]
fn registers_are_taken_whole_or_by_halves_only() {
    let world = World::default();
    let mut hpet = world.hpet();
    for (offset, len) in [(0, 1), (0, 2), (2, 4), (4, 8), (1, 4), (0, 16)] {
        let error = hpet.mmio_read(offset, &mut std::vec![0; len]);
        assert_eq!(error, Err(AccessError::Width), "{offset} {len}");
        let error = hpet.mmio_write(offset, &std::vec![0; len]);
        assert_eq!(error, Err(AccessError::Width), "{offset} {len}");
    }
    let beyond = hpet.mmio_read(0x400, &mut [0; 4]);
    assert_eq!(beyond, Err(AccessError::NoRegister));
    assert_eq!(read(&mut hpet, 0x3F8), 0);
}

#[test]
fn impossible_states_are_refused() {
    let world = World::default();
    let mut hpet = world.hpet();
    let good = hpet.save();
    let mut version = good.clone();
    version.version = 2;
    assert_eq!(hpet.restore(&version), Err(RestoreError::Version(2)));
    let mut route = good.clone();
    route.comparators[0].configuration = 0;
    let mut asking = good.clone();
    asking.comparators[1].is_asking = true;
    let mut legacy = good.clone();
    legacy.configuration = 4;
    for state in [route, asking, legacy] {
        let error = hpet.restore(&state).unwrap_err();
        assert!(matches!(error, RestoreError::Impossible(_)));
    }
    assert_eq!(hpet.restore(&good), Ok(()));
}

fn offsets() -> impl Strategy<Value = u64> {
    prop::sample::select(&[
        0x10_u64, 0x20, 0xF0, 0x100, 0x108, 0x110, 0x120, 0x128, 0x140, 0x148,
    ])
}

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0_u64..0x4000, Just(ENABLE), Just(u64::MAX)]
}

proptest! {
    #[test]
    fn traffic_never_panics_and_restored_timer_agrees(
        traffic in prop::collection::vec((offsets(), values(), 0_u64..3, 0_u64..50_000), 0..60),
        after in prop::collection::vec((offsets(), 0_u64..50_000), 0..20),
    ) {
        let a = World::default();
        let mut hpet = a.hpet();
        for (offset, value, width, wait) in traffic {
            a.clock.advance(wait);
            hpet.advance();
            match width {
                0 => write(&mut hpet, offset, value),
                1 => write_half(&mut hpet, offset, u32::try_from(value >> 32).unwrap()),
                _ => write_half(&mut hpet, offset + 4, u32::try_from(value & 0xFFFF_FFFF).unwrap()),
            }
        }
        let b = World::default();
        b.clock.advance(a.clock.now_ns());
        let mut restored = b.hpet();
        restored.restore(&hpet.save()).unwrap();
        for (offset, wait) in after {
            prop_assert_eq!(hpet.deadline(), restored.deadline());
            a.clock.advance(wait);
            b.clock.advance(wait);
            hpet.advance();
            restored.advance();
            prop_assert_eq!(a.levels(), b.levels());
            prop_assert_eq!(read(&mut hpet, offset), read(&mut restored, offset));
        }
    }

    /// Looking at every deadline gives as many edges as periods have passed.
    #[test]
    fn every_period_is_one_edge_however_time_is_cut(
        period in 1_u64..5000,
        cuts in prop::collection::vec(1_u64..20_000, 1..40),
    ) {
        let world = World::default();
        let mut hpet = world.hpet();
        write(&mut hpet, configuration(0), INTERRUPT | PERIODIC | SET_VALUE | route(20));
        write(&mut hpet, comparator(0), period);
        write(&mut hpet, CONFIGURATION, ENABLE);
        for cut in cuts {
            let until = world.clock.now_ns() + cut * 10;
            while let Some(due) = hpet.deadline().filter(|due| *due <= until) {
                world.clock.advance(due - world.clock.now_ns());
                hpet.advance();
            }
            world.clock.advance(until - world.clock.now_ns());
            hpet.advance();
        }
        let ticks = world.clock.now_ns() / 10;
        prop_assert_eq!(world.pins[0].rises() as u64, ticks / period);
    }
}
