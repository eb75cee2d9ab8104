use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use spin::Mutex;
use stockade_backend::block::Block;
use stockade_backend::fake::{FakeHost, FakeMemory as SharedFake};
use stockade_backend::shared::AnyShared;
use stockade_backend::transport::Doorbell;
use stockade_boot::manifest::screen::{DISK_BYTES, Header, PICTURE_OFFSET, SHARED_BYTES};
use stockade_bus::{Gpa, GuestMemory, MemoryError};

use super::{PAUSE_NS, Screen, Surface};
use crate::virtio::{Bays, Turn};

const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xEE,
    change_vector: 0xEF,
};
const MIB: u64 = 1 << 20;
/// Where a device is, in the middle of memory.
const HOLE: Range<u64> = 20 * MIB..21 * MIB;
/// The end of memory.
const END: u64 = 22 * MIB;

/// Guest memory with a hole, for which no device answers here: reading one has effects.
struct Ram(Mutex<Vec<u8>>);

impl Ram {
    fn leak() -> &'static Self {
        let bytes = (0..=250).cycle().take(usize::try_from(END).unwrap());
        Box::leak(Box::new(Self(Mutex::new(bytes.collect()))))
    }

    fn range(gpa: Gpa, len: usize) -> Result<Range<usize>, MemoryError> {
        let end = gpa.0.checked_add(len as u64);
        let end = end.filter(|end| *end <= END && (gpa.0 >= HOLE.end || *end <= HOLE.start));
        let end = end.ok_or(MemoryError::NotMemory(gpa))?;
        Ok(usize::try_from(gpa.0).unwrap()..usize::try_from(end).unwrap())
    }
}

impl GuestMemory for Ram {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let range = Self::range(gpa, buffer.len())?;
        buffer.copy_from_slice(&self.0.lock()[range]);
        Ok(())
    }

    fn write(&self, gpa: Gpa, _: &[u8]) -> Result<(), MemoryError> {
        unreachable!("a screen writes to {gpa:?}")
    }

    fn is_ram(&self, gpa: Gpa) -> bool {
        Self::range(gpa, 1).is_ok()
    }

    fn compare_exchange(&self, gpa: Gpa, _: u8, _: u64, _: u64) -> Result<bool, MemoryError> {
        unreachable!("a screen writes to {gpa:?}")
    }
}

/// A guest's memory, what carries its picture, and a host that keeps it.
struct Rig {
    ram: &'static Ram,
    screen: Screen,
    host: FakeHost,
    now_ns: u64,
}

impl Rig {
    fn new() -> Self {
        let shared = SharedFake::new(usize::try_from(SHARED_BYTES).unwrap());
        let mut host = FakeHost::disk(shared.clone(), DISK_BYTES / 512);
        let shared: AnyShared = Box::new(shared);
        let block = Block::open(&mut host, FakeHost::function(), shared, DOORBELL).unwrap();
        let ram = Ram::leak();
        let surface = Surface::new(Bays::default().attention_of_screen());
        Self {
            ram,
            screen: Screen::new(block, ram, surface),
            host,
            now_ns: 0,
        }
    }

    /// Writes the file as a guest does: 32 bits a pixel, lines that follow each other.
    fn say(&self, gpa: u64, width: u32, height: u32) {
        self.screen.surface().set(&file(gpa, width, height, 0));
    }

    fn turn(&mut self) -> Turn {
        self.screen.turn(&mut self.host, self.now_ns)
    }

    /// Turns, and a host that answers, until neither has anything to do.
    fn settle(&mut self) {
        let is_settled = |rig: &mut Self| rig.turn() == Turn::Done && rig.host.serve_disk() == 0;
        assert!((0..1000).any(|_| is_settled(self)));
    }

    /// Goes on when the next picture is due.
    fn settle_later(&mut self) {
        self.now_ns += PAUSE_NS;
        self.settle();
    }

    /// Number, width and height of the picture the host has.
    fn shown(&self) -> Option<(u32, u32, u32)> {
        let header = Header::parse(&self.host.disk)?;
        let (width, height, stride) = header.shape();
        assert_eq!(stride, width * 4);
        Some((header.frame(), width, height))
    }

    /// Returns whether the host has what is in guest memory.
    fn is_shown(&self, gpa: u64, len: usize) -> bool {
        let at = usize::try_from(PICTURE_OFFSET).unwrap();
        let range = Ram::range(Gpa(gpa), len).unwrap();
        self.host.disk[at..at + len] == self.ram.0.lock()[range]
    }
}

fn file(gpa: u64, width: u32, height: u32, stride: u32) -> Vec<u8> {
    let mut file = gpa.to_be_bytes().to_vec();
    file.extend(*b"42RX");
    for word in [0, width, height, stride] {
        file.extend(u32::to_be_bytes(word));
    }
    file
}

/// Not one byte of memory behind the picture goes with it, whose last sector is not full.
#[test]
fn the_host_gets_the_picture_and_nothing_beside_it() {
    let mut rig = Rig::new();
    rig.settle();
    assert_eq!(rig.shown(), None);
    rig.say(MIB + 4, 301, 211);
    rig.settle();
    assert_eq!(rig.shown(), Some((1, 301, 211)));
    let len = 301 * 211 * 4;
    assert!(rig.is_shown(MIB + 4, len));
    let behind = usize::try_from(PICTURE_OFFSET).unwrap() + len;
    assert!(rig.host.disk[behind..].iter().all(|byte| *byte == 0));
    rig.settle_later();
    assert_eq!(rig.shown(), Some((2, 301, 211)));
}

#[test]
fn the_largest_picture_fits_and_a_larger_one_is_none() {
    let mut rig = Rig::new();
    rig.say(0, 4096, 1024);
    rig.settle();
    assert_eq!(rig.shown(), Some((1, 4096, 1024)));
    assert!(rig.is_shown(0, 16 << 20));
    rig.say(0, 4096, 1025);
    rig.settle_later();
    assert_eq!(rig.shown(), Some((1, 4096, 1024)));
}

/// Each is an allegation: beyond memory, at a device, from memory into one, at the end of all addresses, of no or too large a side,
/// with lines that reach into each other, in a format nobody knows, of no bytes at all. The next that is true is shown.
#[test]
fn what_is_no_picture_in_memory_is_not_shown_and_the_next_that_is_one_is() {
    let mut strange = file(0, 640, 480, 0);
    strange[8..12].copy_from_slice(b"YUYV");
    for lie in [
        file(END, 640, 480, 0),
        file(END - 640 * 480 * 4 + 4, 640, 480, 0),
        file(HOLE.start, 64, 64, 0),
        file(HOLE.start - MIB / 2, 640, 480, 0),
        file(u64::MAX, 640, 480, 0),
        file(u64::MAX - 640 * 480 * 2, 640, 480, 0),
        file(0, 0, 480, 0),
        file(0, 640, 0, 0),
        file(0, u32::MAX, u32::MAX, 0),
        file(0, 1 << 30, 4, 0),
        file(0, 640, 480, 640 * 4 - 1),
        file(0, 640, 480, u32::MAX),
        strange,
        vec![0; 28],
        Vec::new(),
    ] {
        let mut rig = Rig::new();
        rig.screen.surface().set(&lie);
        rig.settle();
        rig.settle_later();
        assert_eq!(rig.shown(), None, "{lie:?}");
        rig.say(HOLE.end, 320, 200);
        rig.settle();
        assert_eq!(rig.shown(), Some((1, 320, 200)), "{lie:?}");
        assert!(rig.is_shown(HOLE.end, 320 * 200 * 4));
    }
}

/// The picture on its way is finished as it began, and the new one follows without a pause.
#[test]
fn a_file_written_in_the_middle_of_a_copy_counts_from_the_next_picture_on() {
    let mut rig = Rig::new();
    rig.say(0, 1024, 512);
    for _ in 0..3 {
        assert_eq!(rig.turn(), Turn::More);
        rig.host.serve_disk();
    }
    rig.say(4 * MIB, 512, 256);
    let mut headers = Vec::new();
    for _ in 0..100 {
        let _ = rig.turn();
        rig.host.serve_disk();
        if headers.last() != Some(&rig.shown()) {
            headers.push(rig.shown());
            let (gpa, len) = match rig.shown() {
                Some((1, ..)) => (0, 1024 * 512 * 4),
                Some(_) => (4 * MIB, 512 * 256 * 4),
                None => continue,
            };
            assert!(rig.is_shown(gpa, len));
        }
    }
    assert_eq!(headers, [None, Some((1, 1024, 512)), Some((2, 512, 256))]);
}

/// As at a reset.
#[test]
fn a_file_emptied_in_the_middle_of_a_copy_ends_the_pictures() {
    let mut rig = Rig::new();
    rig.say(0, 1024, 512);
    let _ = (rig.turn(), rig.turn());
    rig.screen.surface().set(&[0; 28]);
    rig.settle();
    assert_eq!(rig.shown(), Some((1, 1024, 512)));
    for _ in 0..3 {
        rig.settle_later();
    }
    assert_eq!(rig.shown(), Some((1, 1024, 512)));
    assert_eq!(rig.screen.due_ns(), u64::MAX);
}

/// What the host asks for is not the guest's to decide: a host that answers nothing has two pieces and no more.
#[test]
fn a_host_that_answers_nothing_gets_two_pieces() {
    let mut rig = Rig::new();
    rig.say(0, 1024, 512);
    assert!((0..10).any(|_| rig.turn() == Turn::Done));
    rig.settle_later();
    assert_eq!(rig.shown(), Some((1, 1024, 512)));
    let sectors: Vec<u64> = rig.host.asked.iter().map(|(_, sector)| *sector).collect();
    assert_eq!((sectors[0], sectors[1], sectors.last()), (8, 264, Some(&0)));
}
