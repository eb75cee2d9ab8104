//! What a guest sees of the controller and its timers.

use std::vec::Vec;

use proptest::prelude::*;
use stockade_bus::Gpa;
use stockade_bus::fake::FakeMemory;

use super::*;

const CONFIG0: u32 = 0x4000_00B0;
const COUNT0: u32 = 0x4000_00B1;
const SOURCE2: u32 = 0x4000_0092;
/// Enabled, direct, vector ED: as Linux sets it.
const DIRECT: u64 = 1 | 1 << 12 | 0xED << 4;
/// Started by its count, a message for source 2.
const BY_MESSAGE: u64 = 1 << 3 | 2 << 16;
const PAGE: u64 = 0x2000;
const SLOT2: Gpa = Gpa(PAGE + 2 * 256);

fn written(synthetic: &mut Synthetic, writes: &[(u32, u64)], now: u64) {
    for (msr, value) in writes {
        assert!(synthetic.write(*msr, *value, now).is_ok(), "{msr:#x}");
    }
}

fn raised(synthetic: &mut Synthetic, now: u64, memory: &FakeMemory) -> Vec<u8> {
    let mut vectors = Vec::new();
    synthetic.advance(now, memory, |vector| vectors.push(vector));
    vectors
}

fn with_messages() -> (Synthetic, FakeMemory) {
    let mut synthetic = Synthetic::new();
    let writes = [
        (0x4000_0080, 1),
        (0x4000_0083, PAGE | 1),
        (SOURCE2, 0x52),
        (CONFIG0, BY_MESSAGE),
    ];
    written(&mut synthetic, &writes, 0);
    (synthetic, FakeMemory::new(0x4000))
}

#[test]
fn a_direct_timer_raises_its_vector_once_at_its_moment() {
    let (mut synthetic, memory) = (Synthetic::new(), FakeMemory::new(0x1000));
    written(&mut synthetic, &[(COUNT0, 500), (CONFIG0, DIRECT)], 100);
    assert_eq!(synthetic.deadline(), Some(500));
    assert_eq!(raised(&mut synthetic, 499, &memory), []);
    assert_eq!(raised(&mut synthetic, 500, &memory), [0xED]);
    assert_eq!(synthetic.deadline(), None);
    assert_eq!(synthetic.read(CONFIG0), Ok(DIRECT & !1), "it is over");
    assert_eq!(raised(&mut synthetic, 9999, &memory), []);
}

#[test]
fn a_moment_that_is_over_comes_due_at_once() {
    let (mut synthetic, memory) = (Synthetic::new(), FakeMemory::new(0x1000));
    written(
        &mut synthetic,
        &[(CONFIG0, DIRECT | 1 << 3), (COUNT0, 5)],
        1000,
    );
    assert_eq!(raised(&mut synthetic, 1000, &memory), [0xED]);
}

#[test]
fn a_period_skips_what_was_missed() {
    let (mut synthetic, memory) = (Synthetic::new(), FakeMemory::new(0x1000));
    written(
        &mut synthetic,
        &[(COUNT0, 100), (CONFIG0, DIRECT | 2)],
        1000,
    );
    assert_eq!(synthetic.deadline(), Some(1100));
    assert_eq!(raised(&mut synthetic, 1350, &memory), [0xED]);
    assert_eq!(synthetic.deadline(), Some(1400));
    assert_eq!(raised(&mut synthetic, 1400, &memory), [0xED]);
    written(&mut synthetic, &[(COUNT0, 0)], 1400);
    assert_eq!(synthetic.deadline(), None);
}

#[test]
fn a_message_is_left_in_the_slot_of_its_source() {
    let (mut synthetic, memory) = with_messages();
    written(&mut synthetic, &[(COUNT0, 300)], 0);
    assert_eq!(raised(&mut synthetic, 310, &memory), [0x52]);
    let mut message = [0; 40];
    memory.read(SLOT2, &mut message).unwrap();
    let word = |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().unwrap());
    assert_eq!(message[..8], [0x10, 0, 0, 0x80, 24, 0, 0, 0]);
    assert_eq!((word(16), word(24), word(32)), (0, 300, 310));
}

#[test]
fn an_occupied_slot_holds_the_message_back_until_it_is_emptied() {
    let (mut synthetic, memory) = with_messages();
    written(&mut synthetic, &[(COUNT0, 300)], 0);
    memory.write(SLOT2, &[1, 0, 0, 0]).unwrap();
    assert_eq!(raised(&mut synthetic, 400, &memory), []);
    assert_eq!(synthetic.deadline(), None, "nothing but the guest helps");
    let mut flags = [0];
    memory.read(Gpa(SLOT2.0 + 5), &mut flags).unwrap();
    assert_eq!(flags, [1], "the guest is asked to say when it is empty");
    memory.write(SLOT2, &[0; 8]).unwrap();
    written(&mut synthetic, &[(0x4000_0084, 0)], 500);
    assert_eq!(raised(&mut synthetic, 500, &memory), [0x52]);
}

#[test]
fn a_masked_source_and_a_missing_page_take_no_message() {
    let (mut synthetic, memory) = with_messages();
    written(&mut synthetic, &[(SOURCE2, 0x1_0052), (COUNT0, 300)], 0);
    assert_eq!(raised(&mut synthetic, 400, &memory), []);
    let nowhere = 0x4000_0000_0000 | 1;
    written(
        &mut synthetic,
        &[(SOURCE2, 0x52), (0x4000_0083, nowhere)],
        400,
    );
    assert_eq!(raised(&mut synthetic, 500, &memory), []);
    written(&mut synthetic, &[(0x4000_0083, PAGE | 1)], 600);
    assert_eq!(raised(&mut synthetic, 700, &memory), [0x52]);
}

#[test]
fn a_polled_source_gets_its_message_without_an_interrupt() {
    let (mut synthetic, memory) = with_messages();
    written(&mut synthetic, &[(SOURCE2, 0x4_0000), (COUNT0, 300)], 0);
    assert_eq!(raised(&mut synthetic, 400, &memory), []);
    let mut kind = [0; 4];
    memory.read(SLOT2, &mut kind).unwrap();
    assert_eq!(u32::from_le_bytes(kind), 0x8000_0010);
}

#[test]
fn source_0_starts_no_timer() {
    let mut synthetic = Synthetic::new();
    written(&mut synthetic, &[(COUNT0, 500), (CONFIG0, 1)], 0);
    assert_eq!(synthetic.read(CONFIG0), Ok(0));
    assert_eq!(synthetic.deadline(), None);
}

#[test]
fn illegal_values_and_unknown_registers_are_refused() {
    let mut synthetic = Synthetic::new();
    let before = synthetic.clone();
    for (msr, value) in [
        (CONFIG0, 1 | 1 << 12 | 0xF << 4),
        (SOURCE2, 0x0F),
        (SOURCE2, 0x2_0052),
        (0x4000_0081, 0),
        (0x4000_0085, 0),
        (0x4000_00A0, 0),
        (0x4000_00B8, 0),
    ] {
        assert!(synthetic.write(msr, value, 0).is_err(), "{msr:#x}");
    }
    assert_eq!(synthetic, before);
    assert_eq!(synthetic.read(0x4000_0081), Ok(1));
    assert_eq!(synthetic.read(SOURCE2), Ok(0x1_0000), "masked");
    assert!(synthetic.read(0x4000_00A0).is_err());
}

#[test]
fn pages_are_handed_over_empty() {
    let mut synthetic = Synthetic::new();
    assert_eq!(synthetic.write(0x4000_0083, PAGE, 0), Ok(Written::Done));
    for msr in [0x4000_0082, 0x4000_0083] {
        let outcome = synthetic.write(msr, PAGE | 1, 0);
        assert_eq!(outcome, Ok(Written::Page(PAGE | 1)));
        assert_eq!(synthetic.read(msr), Ok(PAGE | 1));
    }
}

proptest! {
    /// Whatever a guest writes and whenever: no panic, and nothing stays due.
    #[test]
    fn any_traffic_leaves_nothing_overdue(
        writes in proptest::collection::vec((FIRST..=LAST, any::<u64>(), 0_u64..1000), 0..60),
    ) {
        let (mut synthetic, memory) = (Synthetic::new(), FakeMemory::new(0x4000));
        let mut now = 0_u64;
        for (msr, value, step) in writes {
            now += step;
            let value = if step % 2 == 0 { value } else { value & 0xF_FFFF };
            let _ = synthetic.write(msr, value, now);
            let _ = synthetic.read(msr);
            synthetic.advance(now, &memory, |vector| assert!(vector >= FIRST_VECTOR));
            prop_assert!(synthetic.deadline().is_none_or(|due| due > now));
        }
    }
}
