//! A network card that claims to leave more undone to frames than it does, so that what it says of them is listened to.

use super::lie::Who;
use crate::host::pci::{Register, VirtioKind};
use core::sync::atomic::{AtomicU64, Ordering};

/// GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN. Virtio 1.2, 5.1.3.
const CLAIMED: u64 = 1 << 1 | 0b111 << 7;
/// Which half of the features is shown, the half, and the same of the driver's. Virtio 1.2, 4.1.4.3.
const OFFERED_SELECT: Register = Register::Common(0x00);
const OFFERED: Register = Register::Common(0x04);
const CHOSEN_SELECT: Register = Register::Common(0x08);
const CHOSEN: Register = Register::Common(0x0C);

/// Which halves of the features are selected.
#[derive(Debug, Default)]
pub struct Offloads {
    offered: AtomicU64,
    chosen: AtomicU64,
}

impl Offloads {
    /// None selected yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            offered: AtomicU64::new(0),
            chosen: AtomicU64::new(0),
        }
    }

    /// What the driver is told for its read of a register.
    pub fn read(&self, who: Who, register: Register, value: u64) -> u64 {
        let is_it = who.kind == VirtioKind::Net && register == OFFERED;
        if is_it && self.offered.load(Ordering::Relaxed) == 0 {
            value | CLAIMED
        } else {
            value
        }
    }

    /// What the device is told for the driver's write of one.
    pub fn write(&self, who: Who, register: Register, value: u64) -> u64 {
        if who.kind != VirtioKind::Net {
            return value;
        }
        match register {
            OFFERED_SELECT => self.offered.store(value, Ordering::Relaxed),
            CHOSEN_SELECT => self.chosen.store(value, Ordering::Relaxed),
            CHOSEN if self.chosen.load(Ordering::Relaxed) == 0 => return value & !CLAIMED,
            _ => {}
        }
        value
    }
}
