use std::cell::RefCell;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const LEN: usize = 0x4000;

/// What a guest reads.
struct Screen(RefCell<Vec<u8>>);

impl Screen {
    fn new() -> Self {
        Self(RefCell::new(vec![0; LEN]))
    }

    fn byte(&self, offset: usize) -> u8 {
        self.0.borrow()[offset]
    }
}

impl Window for Screen {
    fn show(&self, offset: u32, bytes: &[u8]) {
        let offset = offset as usize;
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

fn chip(screen: &Screen) -> Pflash<&Screen> {
    let array = (0..LEN).map(|index| index.to_le_bytes()[0]).collect();
    Pflash::try_new(screen, array).unwrap()
}

fn write(chip: &mut Pflash<&Screen>, offset: u64, values: &[u8]) {
    for value in values {
        chip.mmio_write(offset, &[*value]).unwrap();
    }
}

fn read(chip: &mut Pflash<&Screen>, offset: u64) -> u8 {
    let mut byte = [0];
    chip.mmio_read(offset, &mut byte).unwrap();
    byte[0]
}

/// The sequence by which edk2 tells flash from RAM and ROM, the older and the newer one; it looks where it wrote.
#[test]
fn edk2_s_probe_finds_writable_flash() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    let seen = |chip: &mut Pflash<&Screen>| {
        assert_eq!(read(chip, 0x10), screen.byte(0x10));
        screen.byte(0x10)
    };
    let original = seen(&mut chip);
    write(&mut chip, 0x10, &[0x50]);
    assert_eq!(seen(&mut chip), original);
    write(&mut chip, 0x10, &[0x70]);
    assert_eq!(seen(&mut chip), 0x00);
    write(&mut chip, 0x10, &[0x10, original, 0x70]);
    assert_eq!(seen(&mut chip) & 0x10, 0);
    write(&mut chip, 0x10, &[0xFF]);
    assert_eq!(seen(&mut chip), original);
    assert_eq!(chip.changed().count(), 0);
}

/// edk2 writes byte after byte and goes back to the array at the end.
#[test]
fn programmed_bytes_are_shown_once_the_array_is() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    write(&mut chip, 0x1000, &[0x20, 0xD0]);
    for (offset, value) in (0x10FE..).zip([1, 2, 3, 4]) {
        write(&mut chip, offset, &[0x10, value]);
        assert_eq!(screen.byte(0x10FE), if offset < 0x1100 { 0x80 } else { 1 });
    }
    assert!(!chip.is_at_rest());
    write(&mut chip, 0x1101, &[0xFF]);
    assert!(chip.is_at_rest());
    assert_eq!(&screen.0.borrow()[0x10FD..0x1103], [0xFF, 1, 2, 3, 4, 0xFF]);
    assert_eq!(&*screen.0.borrow(), chip.array());
    assert!(chip.changed().eq([1]));
}

#[test]
fn programming_clears_bits_and_erasing_sets_those_of_a_block() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    write(&mut chip, 0x2003, &[0x40, 0xFE, 0xFF]);
    assert_eq!(read(&mut chip, 0x2003), 0x02);
    write(&mut chip, 0x2FFF, &[0x20, 0xD0]);
    assert_eq!(read(&mut chip, 0), 0x80, "status after erasing");
    write(&mut chip, 0x2FFF, &[0xFF]);
    assert!(chip.block(2).iter().all(|byte| *byte == 0xFF));
    assert_eq!(chip.block(1)[3], 3);
    assert_eq!(chip.block(3)[3], 3);
    assert!(chip.changed().eq([2]));
    chip.take_changed();
    assert_eq!(chip.changed().count(), 0);
}

/// A byte that stays as it is has not to be kept again.
#[test]
fn what_changes_nothing_is_no_change() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    write(&mut chip, 0x2003, &[0x40, 0x03, 0x40, 0xFF]);
    assert_eq!(chip.changed().count(), 0);
}

#[test]
fn erasing_needs_its_confirmation() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    write(&mut chip, 0, &[0x20, 0x12]);
    assert_eq!(read(&mut chip, 0), 0xB0);
    write(&mut chip, 0, &[0x50, 0x20, 0xFF]);
    assert_eq!(chip.changed().count(), 0);
    assert_eq!(read(&mut chip, 5), 5);
}

#[test]
fn buffered_write_takes_as_many_bytes_as_were_said() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    write(&mut chip, 0x3000, &[0x20, 0xD0]);
    write(&mut chip, 0x3000, &[0xE8, 2]);
    for (offset, value) in (0x3010..).zip([7, 8, 9]) {
        write(&mut chip, offset, &[value]);
    }
    assert_eq!(read(&mut chip, 0), 0x80);
    write(&mut chip, 0x3010, &[0xD0, 0xFF]);
    assert_eq!(chip.block(3)[0x0F..0x14], [0xFF, 7, 8, 9, 0xFF]);
}

#[test]
fn buffered_write_beyond_its_block_or_its_buffer_fails() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    write(&mut chip, 0x1000, &[0xE8, 0]);
    write(&mut chip, 0x2000, &[0]);
    assert_eq!(read(&mut chip, 0), 0xB0);
    write(&mut chip, 0x1000, &[0x50, 0xE8, 64]);
    assert_eq!(read(&mut chip, 0), 0xB0);
    assert_eq!(chip.changed().count(), 0);
}

#[test]
fn query_describes_the_chip() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    write(&mut chip, 0x55, &[0x98]);
    let bytes: Vec<u8> = (0..0x38).map(|offset| read(&mut chip, offset)).collect();
    assert_eq!(&bytes[0x10..0x13], b"QRY");
    assert_eq!(bytes[0x13..0x15], [1, 0]);
    assert_eq!(bytes[0x27], 14, "16 KiB");
    assert_eq!(bytes[0x2C..0x31], [1, 3, 0, 16, 0], "four blocks of 4 KiB");
    assert_eq!(&bytes[0x31..0x36], b"PRI10");
    assert_eq!(&screen.0.borrow()[..0x38], bytes);
    write(&mut chip, 0, &[0x90]);
    assert_eq!([0, 1, 2].map(|at| read(&mut chip, at)), [0x89, 0x18, 0]);
    write(&mut chip, 0, &[0xFF]);
    assert_eq!(&*screen.0.borrow(), chip.array());
}

#[test]
fn wide_accesses_are_those_of_their_bytes() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    let mut word = [0; 4];
    chip.mmio_read(0x101, &mut word).unwrap();
    assert_eq!(word, [1, 2, 3, 4]);
    chip.mmio_write(0x1000, &[0x20, 0xD0]).unwrap();
    assert!(chip.changed().eq([1]));
    let beyond = LEN as u64 - 3;
    assert_eq!(
        chip.mmio_read(beyond, &mut word),
        Err(AccessError::NoRegister)
    );
    assert_eq!(
        chip.mmio_write(u64::MAX, &word),
        Err(AccessError::NoRegister)
    );
}

#[test]
fn reset_shows_the_array_and_keeps_it() {
    let screen = Screen::new();
    let mut chip = chip(&screen);
    write(&mut chip, 0x10, &[0x40, 0]);
    screen.0.borrow_mut().fill(0);
    chip.reset();
    assert_eq!(&*screen.0.borrow(), chip.array());
    assert_eq!(read(&mut chip, 0x10), 0);
    assert_eq!(read(&mut chip, 0x11), 0x11);
}

#[test]
fn arrays_of_no_whole_blocks_are_refused() {
    for len in [0, 1, 4095, 4097, (8 << 20) + 4096] {
        let refused = Pflash::try_new((), vec![0; len]).map(drop);
        assert_eq!(refused, Err(PflashError::Size(len)));
    }
}

proptest! {
    /// Whatever is written, a byte the window shows is the array's or what the chip answers, it is the array's at rest, and every
    /// block that differs from before is noted.
    #[test]
    fn window_and_changes_agree_with_the_array(
        traffic in prop::collection::vec((0_u16..0x4000, prop::sample::select(
            vec![0x10_u8, 0x20, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xD0, 0xD0, 0xE8, 0xFF, 0, 1, 2]
        )), 0..200),
    ) {
        let screen = Screen::new();
        let mut chip = chip(&screen);
        let before = chip.array().to_vec();
        for (offset, value) in traffic {
            write(&mut chip, u64::from(offset & 0x3103), &[value]);
            for at in [usize::from(offset & 0x3103), 0, 0x1000] {
                let own = read(&mut chip, at as u64);
                prop_assert!(screen.byte(at) == own || screen.byte(at) == chip.array()[at]);
            }
            if chip.mode == Mode::Array {
                prop_assert_eq!(&*screen.0.borrow(), chip.array());
            }
        }
        for number in 0..4 {
            let start = number as usize * 4096;
            if chip.block(number) != &before[start..start + 4096] {
                prop_assert!(chip.changed().any(|changed| changed == number));
            }
        }
        let other = Screen::new();
        let mut restored = self::chip(&other);
        restored.restore(&chip.save()).unwrap();
        for at in (0..LEN as u64).step_by(7) {
            prop_assert_eq!(read(&mut restored, at), read(&mut chip, at));
        }
        prop_assert_eq!(restored.save(), chip.save());
    }
}
