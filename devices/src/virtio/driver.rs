//! A driver, for tests: the other side of a ring, written from the specification alone.

use std::collections::BTreeMap;
use std::vec::Vec;

use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};

use super::Features;
use super::queue::{QueueConfig, Segment};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A driver of one queue.
pub struct Driver<'m> {
    /// The guest's memory.
    pub memory: &'m FakeMemory,
    /// Where the ring is.
    pub config: QueueConfig,
    /// What was agreed on.
    pub features: Features,
    /// Split: free descriptors. Packed: free IDs.
    free: Vec<u16>,
    /// Descriptors of the ring that each chain in flight takes, by its ID.
    pub chains: BTreeMap<u16, Vec<u16>>,
    /// Split: the available index. Packed: the next descriptor.
    next: u16,
    next_wrap: bool,
    /// Split: the used index as far as seen. Packed: the next descriptor to come back.
    seen: u16,
    seen_wrap: bool,
    /// Split: the available index at the last look for notifications.
    kicked: u16,
    /// Packed: descriptors made available since the last look.
    unkicked: u16,
}

impl<'m> Driver<'m> {
    /// Lays a ring out at `base`, 16 bytes aligned.
    #[must_use]
    pub fn new(memory: &'m FakeMemory, base: u64, size: u16, features: Features) -> Self {
        let ring = 16 * u64::from(size);
        let config = QueueConfig {
            size,
            descriptors: Gpa(base),
            driver: Gpa(base + ring),
            device: Gpa((base + ring + 6 + 2 * u64::from(size)).next_multiple_of(4)),
        };
        Self {
            memory,
            config,
            features,
            free: (0..size).rev().collect(),
            chains: BTreeMap::new(),
            next: 0,
            next_wrap: true,
            seen: 0,
            seen_wrap: true,
            kicked: 0,
            unkicked: 0,
        }
    }

    fn is_packed(&self) -> bool {
        self.features.contains(Features::RING_PACKED)
    }

    fn put(&self, gpa: u64, bytes: &[u8]) {
        self.memory
            .write(Gpa(gpa), bytes)
            .expect("as tests lay it out");
    }

    /// Reads a word of guest memory.
    #[must_use]
    pub fn get_u16(&self, gpa: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory
            .read(Gpa(gpa), &mut bytes)
            .expect("as tests lay it out");
        u16::from_le_bytes(bytes)
    }

    /// Writes a word of guest memory.
    pub fn put_u16(&self, gpa: u64, value: u16) {
        self.put(gpa, &value.to_le_bytes());
    }

    fn get_u32(&self, gpa: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory
            .read(Gpa(gpa), &mut bytes)
            .expect("as tests lay it out");
        u32::from_le_bytes(bytes)
    }

    /// Writes a descriptor of either kind: the last two words are flags and next, or ID and flags.
    pub fn put_descriptor(&self, at: u64, segment: Segment, words: [u16; 2]) {
        self.put(at, &segment.gpa.0.to_le_bytes());
        self.put(at + 8, &segment.len.to_le_bytes());
        self.put_u16(at + 12, words[0]);
        self.put_u16(at + 14, words[1]);
    }

    /// Returns how many descriptors are free.
    #[must_use]
    pub fn room(&self) -> usize {
        let taken: usize = self.chains.values().map(Vec::len).sum();
        usize::from(self.config.size) - taken
    }

    /// Makes a chain available, if there is room; `table` is where its table goes if it is to have one. Returns its ID.
    pub fn add(
        &mut self,
        readable: &[Segment],
        writable: &[Segment],
        table: Option<Gpa>,
    ) -> Option<u16> {
        let both = readable.iter().map(|s| (*s, 0));
        let buffers: Vec<(Segment, u16)> =
            both.chain(writable.iter().map(|s| (*s, WRITE))).collect();
        let Some(table) = table else {
            return self.add_buffers(&buffers);
        };
        let len = u16::try_from(buffers.len()).expect("as tests lay it out");
        for (index, (segment, flags)) in (0..).zip(&buffers) {
            let goes_on = if index + 1 < len { NEXT } else { 0 };
            let words = if self.is_packed() {
                [0xABCD, *flags]
            } else {
                [flags | goes_on, index + 1]
            };
            self.put_descriptor(table.0 + 16 * u64::from(index), *segment, words);
        }
        let table = Segment {
            gpa: table,
            len: u32::from(len) * 16,
        };
        self.add_buffers(&[(table, INDIRECT)])
    }

    fn add_buffers(&mut self, buffers: &[(Segment, u16)]) -> Option<u16> {
        if buffers.is_empty() || buffers.len() > self.room() {
            return None;
        }
        if self.is_packed() {
            self.add_packed(buffers)
        } else {
            self.add_split(buffers)
        }
    }

    fn add_split(&mut self, buffers: &[(Segment, u16)]) -> Option<u16> {
        let taken: Vec<u16> = buffers
            .iter()
            .map(|_| self.free.pop().expect("as tests lay it out"))
            .collect();
        for (place, (segment, flags)) in buffers.iter().enumerate() {
            let next = taken.get(place + 1).copied();
            let goes_on = next.map_or(0, |_| NEXT);
            let at = self.config.descriptors.0 + 16 * u64::from(taken[place]);
            self.put_descriptor(at, *segment, [flags | goes_on, next.unwrap_or(0xFFFF)]);
        }
        let head = taken[0];
        let slot = u64::from(self.next % self.config.size);
        self.put_u16(self.config.driver.0 + 4 + 2 * slot, head);
        self.next = self.next.wrapping_add(1);
        self.put_u16(self.config.driver.0 + 2, self.next);
        self.chains.insert(head, taken);
        Some(head)
    }

    fn add_packed(&mut self, buffers: &[(Segment, u16)]) -> Option<u16> {
        let id = self.free.pop()?;
        let mut taken = Vec::new();
        let mut writes = Vec::new();
        for (place, (segment, flags)) in buffers.iter().enumerate() {
            let goes_on = if place + 1 < buffers.len() { NEXT } else { 0 };
            let mark = if self.next_wrap { AVAIL } else { USED };
            writes.push((self.next, *segment, flags | goes_on | mark));
            taken.push(self.next);
            self.next += 1;
            if self.next == self.config.size {
                (self.next, self.next_wrap) = (0, !self.next_wrap);
            }
        }
        for (index, segment, flags) in writes.into_iter().rev() {
            let at = self.config.descriptors.0 + 16 * u64::from(index);
            self.put_descriptor(at, segment, [id, flags]);
        }
        self.unkicked += u16::try_from(taken.len()).expect("as tests lay it out");
        self.chains.insert(id, taken);
        Some(id)
    }

    /// Takes the next used chain: its ID and how many bytes were written.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        let used = if self.is_packed() {
            self.take_used_packed()
        } else {
            self.take_used_split()
        };
        if let Some((id, _)) = used {
            let taken = self.chains.remove(&id).expect("only what is in flight");
            if self.is_packed() {
                self.free.push(id);
            } else {
                self.free.extend(taken);
            }
        }
        used
    }

    fn take_used_split(&mut self) -> Option<(u16, u32)> {
        if self.get_u16(self.config.device.0 + 2) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.config.size);
        let entry = self.config.device.0 + 4 + 8 * slot;
        self.seen = self.seen.wrapping_add(1);
        let id = u16::try_from(self.get_u32(entry)).expect("as tests lay it out");
        Some((id, self.get_u32(entry + 4)))
    }

    fn take_used_packed(&mut self) -> Option<(u16, u32)> {
        let at = self.config.descriptors.0 + 16 * u64::from(self.seen);
        let flags = self.get_u16(at + 14);
        let marks = (flags & AVAIL != 0, flags & USED != 0);
        if marks != (self.seen_wrap, self.seen_wrap) {
            return None;
        }
        let id = self.get_u16(at + 12);
        let steps = self.chains.get(&id).expect("only what is in flight").len();
        self.seen += u16::try_from(steps).expect("as tests lay it out");
        if self.seen >= self.config.size {
            self.seen -= self.config.size;
            self.seen_wrap = !self.seen_wrap;
        }
        Some((id, self.get_u32(at + 8)))
    }

    /// Returns whether the device wants to be notified of what was added since the last call.
    pub fn should_kick(&mut self) -> bool {
        let has_event = self.features.contains(Features::EVENT_IDX);
        if !self.is_packed() {
            let before = core::mem::replace(&mut self.kicked, self.next);
            let event = 4 + 8 * u64::from(self.config.size);
            if !has_event {
                return self.get_u16(self.config.device.0) & 1 == 0 && before != self.next;
            }
            let event = self.get_u16(self.config.device.0 + event);
            let since = self.next.wrapping_sub(before);
            return self.next.wrapping_sub(event).wrapping_sub(1) < since;
        }
        let since = core::mem::take(&mut self.unkicked);
        let (offset, flags) = (
            self.get_u16(self.config.device.0),
            self.get_u16(self.config.device.0 + 2),
        );
        match flags {
            0 => since > 0,
            2 => {
                let size = i32::from(self.config.size);
                let lap = i32::from((offset >> 15 == 1) != self.next_wrap);
                let behind = i32::from(self.next) + lap * size - i32::from(offset & 0x7FFF);
                behind >= 1 && behind <= i32::from(since)
            }
            _ => false,
        }
    }

    /// Asks to be told when the next used chain comes.
    pub fn ask_for_next(&self) {
        if !self.features.contains(Features::EVENT_IDX) {
            return self.ask(true);
        }
        if self.is_packed() {
            let wrap = u16::from(self.seen_wrap) << 15;
            self.put_u16(self.config.driver.0, self.seen | wrap);
            self.put_u16(self.config.driver.0 + 2, 2);
        } else {
            let at = 4 + 2 * u64::from(self.config.size);
            self.put_u16(self.config.driver.0 + at, self.seen);
        }
    }

    /// Asks to be told of every used chain, or of none, by the flags.
    pub fn ask(&self, wants: bool) {
        let at = if self.is_packed() { 2 } else { 0 };
        self.put_u16(self.config.driver.0 + at, u16::from(!wants));
    }
}
