//! A device of the host's, driven by the probe: found, spoken to, given shared memory, heard by its message.
//!
//! The first virtio disk of bus 0, if there is one: configuration ports, windows, DMA both where it may and where it may
//! not, a message on the doorbell. Virtio 1.2: 2.1 status, 2.7 split queues, 4.1.4 PCI, 5.2 block.

use super::WORK;
use super::cpu::{self, Doorbell, Ghcb, HV_COUNT};
use super::guest::PATIENCE;
use super::report::{check, figure};
use core::sync::atomic::Ordering;

/// Queue, and the buffers of a request: header, data, status.
const QUEUE: u64 = WORK + 0x4_0000;
const BUFFERS: u64 = WORK + 0x4_1000;
/// A private page.
const PRIVATE: u64 = WORK + 0x4_2000;
/// Within the queue's page: descriptors, available ring, used ring.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Entries of the queue.
const ENTRIES: u64 = 8;
/// Within the buffers' page.
const DATA: u64 = 0x200;
const STATUS: u64 = 0x800;
const UNTOUCHED: u64 = 0x5555_5555_5555_5555;
/// What the test wrote at the beginning of the disk: "stockade".
const MAGIC: u64 = u64::from_le_bytes(*b"stockade");

/// The lowest vector a device may use.
const VECTOR: u64 = 0xE2;
/// ACKNOWLEDGE and DRIVER; FEATURES_OK; DRIVER_OK.
const DRIVER: u64 = 3;
const FEATURES_OK: u64 = 8;
const DRIVER_OK: u64 = 4;
/// VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM, in the upper half.
const VERSION_1_AND_IOMMU: u64 = 0b11;

/// The disk.
struct Disk {
    ghcb: Ghcb,
    common: u64,
    notify: u64,
    messages: u64,
}

pub(super) fn run(ghcb: Ghcb, doorbell: &Doorbell) {
    ports(ghcb);
    let Some(disk) = Disk::find(ghcb) else {
        return figure("no disk: first functions", config(ghcb, 2, 0));
    };
    windows(&disk);
    let is_shared = cpu::share(QUEUE) && cpu::share(BUFFERS);
    let is_set_up = disk.start();
    check(
        "a disk takes its driver's features and queue",
        is_shared && is_set_up,
        disk.status(),
    );
    disk.message(doorbell);
    disk.refused(doorbell);
}

/// The address port is a latch, and keeps its value over the host's own looks.
fn ports(ghcb: Ghcb) {
    ghcb.port_out(0xCF8, 4, 0x8000_F800);
    let bridge = ghcb.port_in(0xCFC, 4);
    check(
        "the host's bus has an LPC bridge",
        bridge == 0x2918_8086,
        bridge,
    );
    let latch = ghcb.port_in(0xCF8, 4);
    check(
        "the address port keeps its value",
        latch == 0x8000_F800,
        latch,
    );
    let halves = [ghcb.port_in(0xCFE, 2), ghcb.port_in(0xCFD, 1)];
    check(
        "and data come by word and byte",
        halves == [0x2918, 0x80],
        halves[0],
    );
}

fn config(ghcb: Ghcb, device: u64, register: u64) -> u64 {
    ghcb.port_out(0xCF8, 4, 1 << 31 | device << 11 | register & 0xFC);
    ghcb.port_in(0xCFC, 4)
}

fn windows(disk: &Disk) {
    let ghcb = disk.ghcb;
    let wide = ghcb.mmio_read(disk.common + 0x14, 4);
    let narrow = ghcb.mmio_read(disk.common + 0x14, 1);
    check(
        "registers are read by their width",
        narrow == wide & 0xFF,
        wide,
    );
    let nowhere = [
        ghcb.mmio_read(0xFED9_0000, 4),
        ghcb.mmio_read(0x10_0000, 8),
        ghcb.mmio_read(0xFEBF_FFFE, 4),
    ];
    let floats = nowhere == [0xFFFF_FFFF, u64::MAX, 0xFFFF_FFFF];
    check("what is no window floats", floats, nowhere[0]);
    let table = disk.messages;
    ghcb.mmio_write(table + 8, 4, 0xE5);
    ghcb.mmio_write(table + 8, 4, 0x12);
    let kept = ghcb.mmio_read(table + 8, 4);
    check(
        "a message cannot have an exception's vector",
        kept == 0xE5,
        kept,
    );
}

impl Disk {
    fn find(ghcb: Ghcb) -> Option<Self> {
        let device = (1..31).find(|device| config(ghcb, *device, 0) == 0x1042_1AF4)?;
        let read = |register| config(ghcb, device, register);
        let window = |bar: u64| {
            let low = read(0x10 + 4 * bar);
            let high = if low & 4 != 0 {
                read(0x14 + 4 * bar)
            } else {
                0
            };
            high << 32 | low & !0xF
        };
        // Memory space and bus master.
        ghcb.port_out(0xCF8, 4, 1 << 31 | device << 11 | 4);
        ghcb.port_out(0xCFC, 2, 6);
        let mut disk = Self {
            ghcb,
            common: 0,
            notify: 0,
            messages: 0,
        };
        let mut at = read(0x34) & 0xFC;
        while at != 0 {
            let head = read(at);
            match (head & 0xFF, head >> 24) {
                (9, 1) => disk.common = window(read(at + 4) & 7) + read(at + 8),
                (9, 2) => disk.notify = window(read(at + 4) & 7) + read(at + 8),
                (0x11, _) => {
                    disk.messages = window(read(at + 4) & 7) + (read(at + 4) & !7);
                    // Messages on.
                    ghcb.port_out(0xCF8, 4, 1 << 31 | device << 11 | at);
                    ghcb.port_out(0xCFE, 2, 0x8000);
                }
                _ => {}
            }
            at = head >> 8 & 0xFC;
        }
        Some(disk)
    }

    fn write(&self, register: u64, len: u64, value: u64) {
        self.ghcb.mmio_write(self.common + register, len, value);
    }

    fn status(&self) -> u64 {
        self.ghcb.mmio_read(self.common + 0x14, 1)
    }

    fn start(&self) -> bool {
        self.write(0x14, 1, 0);
        self.write(0x14, 1, DRIVER);
        for (half, features) in [(0, 0), (1, VERSION_1_AND_IOMMU)] {
            self.write(0x08, 4, half);
            self.write(0x0C, 4, features);
        }
        self.write(0x14, 1, DRIVER | FEATURES_OK);
        let is_agreed = self.status() & FEATURES_OK != 0;
        for (word, value) in [(0, 0xFEE0_0000), (4, 0), (8, VECTOR), (12, 0)] {
            self.ghcb.mmio_write(self.messages + word, 4, value);
        }
        self.write(0x16, 2, 0);
        self.write(0x18, 2, ENTRIES);
        self.write(0x1A, 2, 0);
        let queue = cpu::gpa(QUEUE);
        for (register, address) in [
            (0x20, queue),
            (0x28, queue + AVAILABLE),
            (0x30, queue + USED),
        ] {
            self.write(register, 4, address & 0xFFFF_FFFF);
            self.write(register + 4, 4, address >> 32);
        }
        self.write(0x1C, 2, 1);
        self.write(0x14, 1, DRIVER | FEATURES_OK | DRIVER_OK);
        is_agreed && self.status() == DRIVER | FEATURES_OK | DRIVER_OK
    }

    /// Asks for the first sector, its data to go to `data`.
    fn read_first_sector(&self, index: u64, data: u64) {
        let queue = cpu::shared(QUEUE);
        let buffers = cpu::shared(BUFFERS);
        for offset in (0..0x1000).step_by(8) {
            cpu::word(buffers + offset).store(UNTOUCHED, Ordering::Relaxed);
        }
        // Type IN and sector 0.
        cpu::word(buffers).store(0, Ordering::Relaxed);
        cpu::word(buffers + 8).store(0, Ordering::Relaxed);
        let request = cpu::gpa(BUFFERS);
        // Address; length, flags (next, written by the device) and the next one.
        let chain = [
            (request, 16 | 1 << 32 | 1 << 48),
            (data, 512 | 3 << 32 | 2 << 48),
            (request + STATUS, 1 | 2 << 32),
        ];
        for ((address, rest), at) in chain.into_iter().zip((queue..).step_by(16)) {
            cpu::word(at).store(address, Ordering::Relaxed);
            cpu::word(at + 8).store(rest, Ordering::Relaxed);
        }
        // Flags 0, index, and every ring entry names descriptor 0.
        cpu::word(queue + AVAILABLE).store((index + 1) << 16, Ordering::SeqCst);
        self.ghcb.mmio_write(self.notify, 2, 0);
    }

    fn used(&self) -> u64 {
        cpu::word(cpu::shared(QUEUE) + USED).load(Ordering::SeqCst) >> 16 & 0xFFFF
    }

    fn message(&self, doorbell: &Doorbell) {
        let before = HV_COUNT.load(Ordering::Relaxed);
        self.read_first_sector(0, cpu::gpa(BUFFERS) + DATA);
        let rang = cpu::wait(PATIENCE, || HV_COUNT.load(Ordering::Relaxed) > before);
        let vector = u64::from(doorbell.take());
        check(
            "its message raises #HV with its vector",
            rang && vector == VECTOR,
            vector,
        );
        let data = cpu::word(cpu::shared(BUFFERS) + DATA).load(Ordering::Relaxed);
        let status = cpu::word(cpu::shared(BUFFERS) + STATUS).load(Ordering::Relaxed) & 0xFF;
        let is_read = self.used() == 1 && status == 0 && data == MAGIC;
        check(
            "it reads and writes shared memory at guest addresses",
            is_read,
            data,
        );
        // It may come before HLT, which then only the timer ends.
        self.ghcb.write_msr(0x6E0, cpu::tsc() + PATIENCE);
        self.read_first_sector(1, cpu::gpa(BUFFERS) + DATA);
        if self.used() == 1 {
            cpu::halt();
        }
        self.ghcb.write_msr(0x6E0, 0);
        let vectors = [doorbell.take(), doorbell.take()].map(u64::from);
        let is_done = vectors.contains(&VECTOR) && self.used() == 2;
        check(
            "its message comes again, into HLT, too",
            is_done,
            vectors[0],
        );
    }

    /// A private page is not there for a device, and what it was told to write there is lost.
    fn refused(&self, doorbell: &Doorbell) {
        cpu::word(PRIVATE).store(UNTOUCHED, Ordering::Relaxed);
        self.read_first_sector(2, cpu::gpa(PRIVATE));
        cpu::wait(1 << 28, || self.used() == 3);
        let kept = cpu::word(PRIVATE).load(Ordering::Relaxed);
        // Whatever it says of it: QEMU's disk loses the data and calls that done.
        let is_refused = kept == UNTOUCHED;
        check("it does not reach a private page", is_refused, kept);
        // What was shared and is no more.
        let is_back = self.ghcb.change_page(BUFFERS, 1, 0) == 0;
        self.write(0x14, 1, 0);
        let queue = cpu::shared(QUEUE);
        cpu::word(queue + USED).store(0, Ordering::SeqCst);
        cpu::word(queue + AVAILABLE).store(0, Ordering::SeqCst);
        let is_set_up = self.start();
        cpu::word(queue + AVAILABLE).store(1 << 16, Ordering::SeqCst);
        self.ghcb.mmio_write(self.notify, 2, 0);
        cpu::wait(1 << 26, || self.used() == 1);
        let needs_reset = self.status() & 0x40;
        check(
            "nor one that is shared no more",
            is_back && is_set_up && self.used() == 0,
            needs_reset,
        );
        self.write(0x14, 1, 0);
        while doorbell.take() != 0 {}
    }
}
