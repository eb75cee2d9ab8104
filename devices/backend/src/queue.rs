//! One split virtqueue (virtio 1.2, section 2.7), one descriptor a request.
//!
//! The rings lie in shared memory and are written only; what was posted is kept in a private shadow, and a used element is
//! held against it: an index that ran ahead, an id not in flight or a length beyond what was posted is an error, after which
//! the queue answers nothing more. Longer chains are the caller's: a table of descriptors reached by [`Posted::indirect`].

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::BackendError;
use crate::shared::SharedMemory;

/// Bytes of a descriptor.
pub const DESCRIPTOR_SIZE: usize = 16;
/// The most entries that fit one page.
pub const MAX_SIZE: u16 = 128;
/// Bytes of shared memory a queue takes.
pub const QUEUE_BYTES: usize = 4096;

/// The buffer is followed by the one in `next`.
const NEXT: u16 = 1;
/// The device writes the buffer.
const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
const INDIRECT: u16 = 4;
/// Flag of the used ring: the device wants no notifications.
const NO_NOTIFY: u16 = 1;

/// Who writes a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The driver did.
    Readable,
    /// The device will.
    Writable,
}

/// A descriptor as it lies in memory.
#[must_use]
pub fn descriptor(address: u64, len: u32, access: Access, next: Option<u16>) -> [u8; 16] {
    let write = match access {
        Access::Readable => 0,
        Access::Writable => WRITE,
    };
    let flags = write | if next.is_some() { NEXT } else { 0 };
    words(address, len, flags, next.unwrap_or(0))
}

fn words(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let word = u128::from(address)
        | u128::from(len) << 64
        | u128::from(flags) << 96
        | u128::from(next) << 112;
    word.to_le_bytes()
}

/// What is put into the queue.
#[derive(Clone, Copy, Debug)]
pub struct Posted {
    address: u64,
    len: u32,
    flags: u16,
    writable: u32,
}

impl Posted {
    /// Returns a single buffer the device fills.
    #[must_use]
    pub fn writable(address: u64, len: u32) -> Self {
        Self {
            address,
            len,
            flags: WRITE,
            writable: len,
        }
    }

    /// Returns a single buffer the device reads.
    #[must_use]
    pub fn readable(address: u64, len: u32) -> Self {
        Self {
            address,
            len,
            flags: 0,
            writable: 0,
        }
    }

    /// Returns a table of `len` bytes whose buffers take `writable` bytes from the device.
    #[must_use]
    pub fn indirect(address: u64, len: u32, writable: u32) -> Self {
        Self {
            address,
            len,
            flags: INDIRECT,
            writable,
        }
    }
}

/// What came back, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// As [`Queue::post`] returned it.
    pub id: u16,
    /// How many bytes the device says it wrote; at most what was posted.
    pub written: u32,
}

/// Where the three parts of a queue lie, as the device reaches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring.
    pub driver: u64,
    /// The used ring.
    pub device: u64,
}

/// Offsets of the parts in shared memory.
#[derive(Clone, Copy, Debug)]
struct Layout {
    base: usize,
    size: u16,
}

impl Layout {
    fn entries(self) -> usize {
        usize::from(self.size)
    }
    fn descriptor(self, id: u16) -> usize {
        self.base + usize::from(id) * DESCRIPTOR_SIZE
    }
    fn available(self) -> usize {
        self.base + self.entries() * DESCRIPTOR_SIZE
    }
    fn available_index(self) -> usize {
        self.available() + 2
    }
    fn available_entry(self, index: u16) -> usize {
        self.available() + 4 + 2 * usize::from(index % self.size)
    }
    fn used_event(self) -> usize {
        self.available() + 4 + 2 * self.entries()
    }
    fn used(self) -> usize {
        (self.used_event() + 2).next_multiple_of(4)
    }
    fn used_index(self) -> usize {
        self.used() + 2
    }
    fn used_entry(self, index: u16) -> usize {
        self.used() + 4 + 8 * usize::from(index % self.size)
    }
    fn available_event(self) -> usize {
        self.used() + 4 + 8 * self.entries()
    }
}

const _: () = {
    let size = MAX_SIZE as usize;
    let available = size * DESCRIPTOR_SIZE + 4 + 2 * size + 2;
    assert!(available.next_multiple_of(4) + 4 + 8 * size + 2 <= QUEUE_BYTES);
};

/// A virtqueue of the host's device.
#[derive(Debug)]
pub struct Queue {
    layout: Layout,
    has_event_index: bool,
    /// By descriptor: how many bytes the device may write, while it is in flight.
    posted: Box<[Option<u32>]>,
    free: Vec<u16>,
    /// The next index of the available ring.
    next: u16,
    /// The index the device was last told.
    published: u16,
    /// The next index of the used ring.
    seen: u16,
    /// The host lied: nothing it says here counts any more.
    is_dead: bool,
}

impl Queue {
    /// Returns an empty queue of `size` entries in the page of shared memory at `base`, which the caller has zeroed.
    ///
    /// A size that is no power of two up to [`MAX_SIZE`] becomes the next smaller one.
    #[must_use]
    pub fn new_truncate(base: usize, size: u16, has_event_index: bool) -> Self {
        let size = 1 << size.clamp(1, MAX_SIZE).ilog2();
        Self {
            layout: Layout { base, size },
            has_event_index,
            posted: vec![None; usize::from(size)].into_boxed_slice(),
            free: (0..size).rev().collect(),
            next: 0,
            published: 0,
            seen: 0,
            is_dead: false,
        }
    }

    /// Returns how many entries there are.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Returns whether nothing more can be posted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Returns how many requests the device has.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        let free = u16::try_from(self.free.len()).unwrap_or(u16::MAX);
        self.layout.size.saturating_sub(free)
    }

    /// Returns where the device finds the queue.
    #[must_use]
    pub fn addresses(&self, memory: &impl SharedMemory) -> Addresses {
        Addresses {
            descriptors: memory.bus_address(self.layout.base),
            driver: memory.bus_address(self.layout.available()),
            device: memory.bus_address(self.layout.used()),
        }
    }

    /// Posts a request, which the device sees with the next [`Self::publish`]. `None` if the queue is full or dead.
    pub fn post(&mut self, memory: &impl SharedMemory, posted: Posted) -> Option<u16> {
        if self.is_dead {
            return None;
        }
        let id = self.free.pop()?;
        if let Some(slot) = self.posted.get_mut(usize::from(id)) {
            *slot = Some(posted.writable);
        }
        let descriptor = words(posted.address, posted.len, posted.flags, 0);
        memory.write(self.layout.descriptor(id), &descriptor);
        memory.write(self.layout.available_entry(self.next), &id.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        Some(id)
    }

    /// Shows the device what was posted. Returns whether it wants to be notified of it.
    pub fn publish(&mut self, memory: &impl SharedMemory) -> bool {
        if self.next == self.published || self.is_dead {
            return false;
        }
        let before = core::mem::replace(&mut self.published, self.next);
        memory.store(self.layout.available_index(), self.next);
        if self.has_event_index {
            let event = memory.load(self.layout.available_event());
            is_passed(event, self.next, before)
        } else {
            memory.load(self.layout.used()) & NO_NOTIFY == 0
        }
    }

    /// Takes the next request the device has finished.
    ///
    /// # Errors
    /// The host's used ring contradicts what was posted; the queue is dead from then on.
    pub fn take(&mut self, memory: &impl SharedMemory) -> Result<Option<Used>, BackendError> {
        if self.is_dead {
            return Ok(None);
        }
        let outcome = self.take_unmarked(memory);
        self.is_dead = outcome.is_err();
        outcome
    }

    fn take_unmarked(&mut self, memory: &impl SharedMemory) -> Result<Option<Used>, BackendError> {
        let found = memory.load(self.layout.used_index());
        let new = found.wrapping_sub(self.seen);
        if new == 0 {
            return Ok(None);
        }
        // Only what the device has been shown can come back.
        let unseen = self.next.wrapping_sub(self.published);
        let shown = self.in_flight().saturating_sub(unseen);
        if new > shown {
            let limit = self.seen.wrapping_add(shown);
            return Err(BackendError::UsedIndex { found, limit });
        }
        let mut element = [0; 8];
        memory.read(self.layout.used_entry(self.seen), &mut element);
        let word = u64::from_le_bytes(element);
        let (id, written) = halves(word);
        let index = usize::try_from(id).map_err(|_| BackendError::UnknownId(id))?;
        let posted = self.posted.get_mut(index).and_then(Option::take);
        let posted = posted.ok_or(BackendError::UnknownId(id))?;
        if written > posted {
            let found = written;
            return Err(BackendError::TooLong { found, posted });
        }
        let id = u16::try_from(id).map_err(|_| BackendError::UnknownId(id))?;
        self.free.push(id);
        self.seen = self.seen.wrapping_add(1);
        Ok(Some(Used { id, written }))
    }

    /// Asks for an interrupt with the next used element. Returns whether there already is one, of which none may come.
    pub fn listen(&mut self, memory: &impl SharedMemory) -> bool {
        self.listen_after(memory, 0)
    }

    /// Asks for an interrupt with the used element after the next `count`. Returns whether there already are so many.
    ///
    /// Without event indexes every element is told of.
    pub fn listen_after(&mut self, memory: &impl SharedMemory, count: u16) -> bool {
        if self.is_dead {
            return false;
        }
        if self.has_event_index {
            memory.store(self.layout.used_event(), self.seen.wrapping_add(count));
        }
        let used = memory.load(self.layout.used_index());
        used.wrapping_sub(self.seen) > count
    }

    /// Asks for no interrupt until the next [`Self::listen`]. Without event indexes they go on.
    pub fn hush(&mut self, memory: &impl SharedMemory) {
        if self.has_event_index && !self.is_dead {
            // Behind what the device has done, it is passed no more.
            memory.store(self.layout.used_event(), self.seen.wrapping_sub(1));
        }
    }

    /// Returns whether so many used elements seem to be there; [`Self::take`] judges them.
    #[must_use]
    pub fn has_used(&self, memory: &impl SharedMemory, count: u16) -> bool {
        let used = memory.load(self.layout.used_index());
        !self.is_dead && used.wrapping_sub(self.seen) >= count
    }

    /// Gives up: what is in flight stays so.
    pub fn kill(&mut self) {
        self.is_dead = true;
    }
}

fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// Whether an index that went from `before` to `new` passed `event` (virtio 1.2, 2.7.7.2).
fn is_passed(event: u16, new: u16, before: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(before)
}

#[cfg(test)]
mod tests;
