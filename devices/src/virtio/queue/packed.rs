//! Packed rings (Virtio 1.2, 2.8).
//!
//! The second half of a descriptor holds length, ID and flags: eight aligned bytes, read and written as one. So a descriptor that is seen as
//! available has its length and ID with it, and one given back is seen whole.

use core::sync::atomic::{Ordering, fence};

use stockade_bus::{Gpa, GuestMemory};

use super::access::read_u64;
use super::chain::{Chain, Head};
use super::descriptor::{self, DESCRIPTOR_BYTES, Flags, Table};
use super::ring_queue::{Used, is_passed};
use super::{QUEUE_SIZE_LIMIT, QueueConfig, Violation};
use crate::virtio::Features;

/// Size of either event suppression structure.
const EVENT_BYTES: u64 = 4;
/// Event suppression flags: no events; events at a descriptor (Virtio 1.2, 2.8.10).
const EVENT_DISABLE: u16 = 1;
const EVENT_DESCRIPTOR: u16 = 2;
const EVENT_FLAGS: u16 = 3;
/// The wrap counter's bit in the event offset.
const EVENT_WRAP: u16 = 1 << 15;

/// A descriptor of the ring, and the lap one is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Index of the descriptor.
    pub index: u16,
    /// The wrap counter.
    pub wrap: bool,
}

impl Position {
    /// Where both sides begin.
    pub(super) const START: Self = Self {
        index: 0,
        wrap: true,
    };

    fn advanced(self, descriptors: u16, size: u16) -> Self {
        // Neither is more than 2^15.
        let index = self.index + descriptors;
        if index >= size {
            Self {
                index: index - size,
                wrap: !self.wrap,
            }
        } else {
            Self { index, ..self }
        }
    }

    fn moved_back(self, descriptors: u16, size: u16) -> Self {
        match self.index.checked_sub(descriptors) {
            Some(index) => Self { index, ..self },
            None => Self {
                index: self.index + size - descriptors,
                wrap: !self.wrap,
            },
        }
    }

    fn to_word(self) -> u16 {
        self.index | if self.wrap { EVENT_WRAP } else { 0 }
    }
}

/// The device's side of a packed ring.
#[derive(Clone, Debug)]
pub(super) struct PackedRing {
    config: QueueConfig,
    features: Features,

    pub(super) state: PackedState,
}

/// Where the device is in a packed ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedState {
    /// The next descriptor to be popped.
    pub popped: Position,
    /// The next descriptor to be given back.
    pub used: Position,
    /// How many descriptors are popped and not given back.
    pub in_flight: u16,
    /// How many descriptors were given back since the driver was last told of any.
    pub unsignalled: u16,
}

impl PackedRing {
    pub(super) fn try_new<M: GuestMemory + ?Sized>(
        config: QueueConfig,
        features: Features,
        memory: &M,
    ) -> Result<Self, Violation> {
        if config.size == 0 || config.size > QUEUE_SIZE_LIMIT {
            return Err(Violation::QueueSize(config.size));
        }
        let ring_bytes = DESCRIPTOR_BYTES * u64::from(config.size);
        descriptor::check_part(memory, config.descriptors, ring_bytes, 16)?;
        descriptor::check_part(memory, config.driver, EVENT_BYTES, 4)?;
        descriptor::check_part(memory, config.device, EVENT_BYTES, 4)?;
        Ok(Self {
            config,
            features,
            state: PackedState {
                popped: Position::START,
                used: Position::START,
                in_flight: 0,
                unsignalled: 0,
            },
        })
    }

    /// Pops the next chain, if there is one.
    pub(super) fn pop<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &mut Chain,
    ) -> Result<bool, Violation> {
        let mut position = self.state.popped;
        let mut descriptors = 0;
        chain.clear();
        loop {
            let second = Second::from_word(read_u64(memory, self.second_half(position)?)?);
            if !second.is_available(position.wrap) {
                return match descriptors {
                    0 => Ok(false),
                    _ => Err(Violation::NotAvailable(position.index)),
                };
            }
            if self.state.in_flight + descriptors >= self.config.size {
                return Err(Violation::TooManyInFlight);
            }
            // The rest of the descriptor is read after what says that it is there.
            fence(Ordering::Acquire);
            let gpa = Gpa(read_u64(memory, self.descriptor(position)?)?);
            if second.flags.contains(Flags::INDIRECT) {
                self.walk_table(memory, gpa, second, descriptors, chain)?;
            } else {
                chain.push(memory, gpa, second.len, second.flags.direction())?;
            }
            descriptors += 1;
            position = position.advanced(1, self.config.size);
            if !second.flags.contains(Flags::NEXT) {
                chain.set_head(Head {
                    id: second.id,
                    descriptors,
                });
                break;
            }
        }
        chain.check()?;
        self.state.popped = position;
        self.state.in_flight += descriptors;
        Ok(true)
    }

    /// A table stands alone in its chain (Virtio 1.2, 2.8.19).
    fn walk_table<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        second: Second,
        before: u16,
        chain: &mut Chain,
    ) -> Result<(), Violation> {
        let is_alone = before == 0 && !second.flags.contains(Flags::NEXT);
        if !is_alone || !self.features.contains(Features::INDIRECT_DESC) {
            return Err(Violation::Indirect);
        }
        let table = Table::try_indirect(gpa, second.len)?;
        descriptor::walk_packed_table(memory, table, chain)
    }

    /// Takes the last pop back, which was of `head`.
    pub(super) fn undo_pop(&mut self, head: Head) {
        let descriptors = head.descriptors.min(self.state.in_flight);
        self.state.in_flight -= descriptors;
        self.state.popped = self.state.popped.moved_back(descriptors, self.config.size);
    }

    /// Gives chains back, all at once: the driver looks at the first one first, so that is written last.
    pub(super) fn push<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        used: &[Used],
    ) -> Result<(), Violation> {
        let descriptors = used
            .iter()
            .fold(0_u16, |sum, used| sum.saturating_add(used.head.descriptors));
        if descriptors > self.state.in_flight {
            return Err(Violation::TooManyInFlight);
        }
        let end = self.state.used.advanced(descriptors, self.config.size);
        let mut position = end;
        for Used { head, written } in used.iter().rev() {
            position = position.moved_back(head.descriptors, self.config.size);
            let second = Second {
                len: *written,
                id: head.id,
                flags: Flags::of_used(position.wrap, *written),
            };
            fence(Ordering::Release);
            memory.write(self.second_half(position)?, &second.to_word().to_le_bytes())?;
        }
        self.state.used = end;
        self.state.in_flight -= descriptors;
        self.state.unsignalled = self.state.unsignalled.saturating_add(descriptors);
        Ok(())
    }

    /// Asks the driver to notify, or says that it need not.
    pub(super) fn set_listening<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        is_listening: bool,
    ) -> Result<(), Violation> {
        let has_event_index = self.features.contains(Features::EVENT_IDX);
        let (offset, flags) = match (is_listening, has_event_index) {
            (true, true) => (self.state.popped.to_word(), EVENT_DESCRIPTOR),
            (true, false) => (0, 0),
            (false, _) => (0, EVENT_DISABLE),
        };
        let ([a, b], [c, d]) = (offset.to_le_bytes(), flags.to_le_bytes());
        Ok(memory.write(self.config.device, &[a, b, c, d])?)
    }

    /// Returns whether the driver wants to hear of what was given back since the last call.
    pub(super) fn take_signal<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
    ) -> Result<bool, Violation> {
        let since = core::mem::take(&mut self.state.unsignalled);
        if since == 0 {
            return Ok(false);
        }
        // The driver sees the used descriptors before its wish is read.
        fence(Ordering::SeqCst);
        let mut bytes = [0; 4];
        memory.read(self.config.driver, &mut bytes)?;
        let [a, b, c, d] = bytes;
        let event = u16::from_le_bytes([a, b]);
        Ok(match u16::from_le_bytes([c, d]) & EVENT_FLAGS {
            EVENT_DISABLE => false,
            EVENT_DESCRIPTOR if self.features.contains(Features::EVENT_IDX) => {
                self.is_event_passed(event, since)
            }
            _ => true,
        })
    }

    /// Returns whether the descriptor the driver waits for is among the last `since`.
    fn is_event_passed(&self, event: u16, since: u16) -> bool {
        let (index, size) = (u32::from(event & !EVENT_WRAP), u32::from(self.config.size));
        let used = self.state.used;
        let is_same_lap = (event & EVENT_WRAP != 0) == used.wrap;
        let behind = match (is_same_lap, u32::from(used.index)) {
            // An index that is none of the ring's is better told too much than too little.
            _ if index >= size => return true,
            (true, now) => now.checked_sub(index),
            (false, now) => Some(now + size - index),
        };
        behind.is_some_and(|behind| is_passed(behind, since.into()))
    }

    fn descriptor(&self, position: Position) -> Result<Gpa, Violation> {
        let offset = u64::from(position.index) * DESCRIPTOR_BYTES;
        let ring = self.config.descriptors;
        ring.checked_add(offset).ok_or(Violation::NotMemory(ring))
    }

    fn second_half(&self, position: Position) -> Result<Gpa, Violation> {
        let descriptor = self.descriptor(position)?;
        descriptor
            .checked_add(8)
            .ok_or(Violation::NotMemory(descriptor))
    }

    /// Checks a saved state.
    pub(super) fn is_possible(&self, state: &PackedState) -> bool {
        let size = self.config.size;
        let in_flight_from = |used: Position| used.advanced(state.in_flight, size);
        state.popped.index < size
            && state.used.index < size
            && state.in_flight <= size
            && in_flight_from(state.used) == state.popped
    }
}

/// The second half of a descriptor: length, ID and flags.
#[derive(Clone, Copy, Debug)]
struct Second {
    len: u32,
    id: u16,
    flags: Flags,
}

impl Second {
    fn from_word(word: u64) -> Self {
        let [l0, l1, l2, l3, i0, i1, f0, f1] = word.to_le_bytes();
        Self {
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            id: u16::from_le_bytes([i0, i1]),
            flags: Flags::from_bits_retain(u16::from_le_bytes([f0, f1])),
        }
    }

    fn to_word(self) -> u64 {
        u64::from(self.len) | u64::from(self.id) << 32 | u64::from(self.flags.bits()) << 48
    }

    /// Available: the driver's mark is that of this lap, the device's is not (Virtio 1.2, 2.8.1).
    fn is_available(self, wrap: bool) -> bool {
        self.flags.contains(Flags::AVAIL) == wrap && self.flags.contains(Flags::USED) != wrap
    }
}

impl Flags {
    fn of_used(wrap: bool, written: u32) -> Self {
        let mut flags = Self::empty();
        flags.set(Self::AVAIL | Self::USED, wrap);
        flags.set(Self::WRITE, written > 0);
        flags
    }
}
