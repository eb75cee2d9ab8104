//! Accesses to the flash chip: what a guest sees through the window against what the chip answers, and saved states.

use std::cell::RefCell;

use stockade_bus::Mmio;
use stockade_devices::pflash::{BLOCK_BYTES, Pflash, Window};

use crate::Input;

const LEN: usize = 3 * BLOCK_BYTES as usize;

/// What a guest reads without an exit.
#[derive(Debug)]
struct Screen(RefCell<Vec<u8>>);

impl Window for Screen {
    fn show(&self, offset: u32, bytes: &[u8]) {
        let offset = offset as usize;
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// Drives the chip.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let screen = Screen(RefCell::new(vec![0; LEN]));
    let mut chip = Pflash::try_new(&screen, vec![0x5A; LEN]).expect("whole blocks");
    let mut kept = chip.array().to_vec();
    while !input.is_empty() {
        let kind = input.u8();
        let offset = u64::from(input.u16() & 0x3FFF);
        match kind & 7 {
            0..=4 => {
                let len = usize::from(kind >> 5) + 1;
                let _ = chip.mmio_write(offset, input.bytes(len));
            }
            5 => {
                let mut bytes = vec![0; usize::from(kind >> 4) + 1];
                if chip.mmio_read(offset, &mut bytes).is_ok() {
                    see(&chip, &screen, offset, &bytes);
                }
            }
            6 => keep(&mut chip, &mut kept),
            _ if kind & 8 != 0 => chip.reset(),
            _ => again(&mut chip),
        }
    }
    keep(&mut chip, &mut kept);
    chip.reset();
    assert_eq!(*screen.0.borrow(), chip.array());
}

/// A guest sees what the chip shows or what it holds.
fn see(chip: &Pflash<&Screen>, screen: &Screen, offset: u64, shown: &[u8]) {
    let start = usize::try_from(offset).expect("small");
    let place = start..start + shown.len();
    let screen = screen.0.borrow();
    let bytes = screen[place.clone()].iter().zip(&chip.array()[place]);
    for ((seen, held), shown) in bytes.zip(shown) {
        assert!(seen == shown || seen == held);
    }
}

/// Whoever keeps the blocks that were changed has the array.
fn keep(chip: &mut Pflash<&Screen>, kept: &mut [u8]) {
    let changed: Vec<u32> = chip.changed().collect();
    for number in changed {
        let start = (number * BLOCK_BYTES) as usize;
        let block = chip.block(number);
        kept[start..start + block.len()].copy_from_slice(block);
    }
    chip.take_changed();
    assert_eq!(kept, chip.array());
}

/// A restored chip is the saved one.
fn again(chip: &mut Pflash<&Screen>) {
    let saved = chip.save();
    chip.restore(&saved).expect("it was just saved");
    assert_eq!(chip.save(), saved);
}

/// A block erased and programmed; a buffered write; the query structure.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let write = |offset: u16, value: u8| {
        let [low, high] = offset.to_le_bytes();
        vec![0, low, high, value]
    };
    let erase = [write(0x1000, 0x20), write(0x1000, 0xD0)].concat();
    let program = [write(0x10FF, 0x10), write(0x10FF, 7), write(0x1100, 0x10)].concat();
    let buffered = [
        write(0x1200, 0xE8),
        write(0x1200, 1),
        write(0x1200, 3),
        write(0x1201, 4),
    ];
    let end = [
        write(0x1200, 0xD0),
        vec![5, 0, 0x12],
        write(0, 0xFF),
        vec![6, 0, 0],
    ]
    .concat();
    vec![
        [
            erase.clone(),
            program,
            write(0x1100, 9),
            end.clone(),
            vec![7, 0, 0],
        ]
        .concat(),
        [erase, buffered.concat(), end].concat(),
        [write(0x55, 0x98), vec![0xF5, 0x10, 0], vec![15, 0, 0]].concat(),
    ]
}
