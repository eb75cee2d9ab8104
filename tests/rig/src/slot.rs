//! At most so many machines at once, over all threads and all test programs.

use std::fs::File;
use std::time::Duration;

use crate::workshop;

/// How many machines may run at once: QEMU TCG takes a processor each, and time-outs assume that it gets one.
const SLOTS: usize = 2;
const POLL: Duration = Duration::from_millis(100);

/// The right to run a machine, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    /// Closing the file unlocks it, even if the test is killed.
    _file: File,
}

impl Slot {
    /// Waits for a free slot.
    #[must_use]
    pub fn take() -> Self {
        loop {
            if let Some(slot) = (0..SLOTS).find_map(Self::try_take) {
                return slot;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until no other machine runs and keeps it so: for measuring.
    #[must_use]
    pub fn take_all() -> Vec<Self> {
        let slot = |number| {
            loop {
                if let Some(slot) = Self::try_take(number) {
                    return slot;
                }
                std::thread::sleep(POLL);
            }
        };
        (0..SLOTS).map(slot).collect()
    }

    fn try_take(number: usize) -> Option<Self> {
        let path = workshop().locks.join(format!("slot-{number}.lock"));
        let file = File::create(path).expect("target/ is writable");
        file.try_lock().ok().map(|()| Self { _file: file })
    }
}
