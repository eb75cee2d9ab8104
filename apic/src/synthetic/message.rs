//! Messages in the guest's message page (TLFS, "SynIC message page"): a slot of 256 bytes a source.

use stockade_bus::{Gpa, GuestMemory};
use zerocopy::{Immutable, IntoBytes};

/// Bytes of a slot.
const SLOT_BYTES: u64 = 256;
/// `HvMessageTypeTimerExpired`.
const TIMER_EXPIRED: u32 = 0x8000_0010;
/// A slot without a message.
const NONE: u32 = 0;
/// Where the flags of a slot are, and the one that asks for an end of message.
const FLAGS: u64 = 5;
const PENDING: u8 = 1;

/// A message about a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct TimerMessage {
    kind: u32,
    payload_bytes: u8,
    flags: u8,
    reserved: u16,
    sender: u64,
    timer: u32,
    reserved_too: u32,
    due: u64,
    delivered: u64,
}

const _: () = assert!(size_of::<TimerMessage>() == 40);

/// Returns what tells of a timer that was due at `due`, delivered at `now`.
pub(super) fn timer_expired(timer: usize, due: u64, now: u64) -> TimerMessage {
    TimerMessage {
        kind: TIMER_EXPIRED,
        payload_bytes: 24,
        flags: 0,
        reserved: 0,
        sender: 0,
        timer: u32::try_from(timer).unwrap_or(u32::MAX),
        reserved_too: 0,
        due,
        delivered: now,
    }
}

/// A source's place in the message page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(Gpa);

impl Slot {
    /// Returns the slot of `source`, which is less than 16, in the page a register's value names.
    pub(super) const fn new(page: u64, source: u8) -> Self {
        Self(Gpa((page & !0xFFF) | (source as u64 * SLOT_BYTES)))
    }

    /// Puts a message there if the slot is empty; if not, asks the guest to say when it is. A page that is no memory takes nothing.
    pub(super) fn put(self, message: &TimerMessage, memory: &dyn GuestMemory) -> bool {
        let mut kind = [0; 4];
        if memory.read(self.0, &mut kind).is_err() {
            return false;
        }
        if u32::from_le_bytes(kind) != NONE {
            let flags = Gpa(self.0.0 | FLAGS);
            let _ = memory.write(flags, &[PENDING]);
            return false;
        }
        // The kind is what makes it a message: it goes last.
        let (kind, rest) = message.as_bytes().split_at(4);
        memory.write(Gpa(self.0.0 | 4), rest).is_ok() && memory.write(self.0, kind).is_ok()
    }
}
