//! Frames from outside into the guest's buffers (Virtio 1.2, 5.1.6.3 and 5.1.6.4).

use stockade_bus::{Gpa, GuestMemory};

use super::config::{Address, features};
use super::header::{HEADER_BYTES, Header, NUM_BUFFERS};
use super::{LEAST_FRAME, Net, RECEIVE};
use crate::virtio::queue::{Chain, Head, Queue, Used, Violation, pieces, total};

/// Buffers one frame may lie in: 64 KiB in buffers of 1 KiB.
const MAX_BUFFERS: usize = 64;
/// Bytes of a VLAN tag.
const TAG: usize = 4;

/// What became of a frame from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Given {
    /// The guest has it.
    Delivered,
    /// The guest does not want it, or cannot take it, or something is wrong with it.
    Dropped,
    /// The guest has no room now. The driver will notify when it has more; give the frame again then, or forget it.
    NoRoom,
}

impl Net {
    /// Returns whether the guest takes a frame of which so much is left undone.
    #[must_use]
    pub fn takes(&self, header: Header, frame: &[u8]) -> bool {
        header.checked_for_guest(frame, self.offloads).is_some()
    }

    /// Gives the guest a frame.
    pub fn give_frame<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        header: Header,
        frame: &[u8],
    ) -> Given {
        if !self.link.is_running() {
            return Given::Dropped;
        }
        let target = frame.first_chunk().copied().map(Address);
        if target.is_some_and(|target| !self.filter.wants(target, self.address)) {
            return Given::Dropped;
        }
        let checked = header.checked_for_guest(frame, self.offloads);
        let Some(header) = checked.filter(|header| self.is_sized_well(*header, frame)) else {
            self.dropped = self.dropped.saturating_add(1);
            return Given::Dropped;
        };
        let most = if self.link.features.contains(features::MRG_RXBUF) {
            MAX_BUFFERS
        } else {
            1
        };
        let Some(queue) = &mut self.queues[RECEIVE] else {
            return Given::Dropped;
        };
        let mut delivery = Delivery::new(header.to_bytes(1), frame);
        let outcome = delivery.run(memory, queue, &mut self.chain, most);
        if outcome != Ok(Given::Delivered) {
            delivery.undo(queue);
        }
        if outcome == Ok(Given::Dropped) {
            self.dropped = self.dropped.saturating_add(1);
        }
        self.link.check(outcome.map(Some)).unwrap_or(Given::Dropped)
    }

    /// A driver that was told the largest packet gets none that is larger, but for what it splits itself (Virtio 1.2, 5.1.4.1).
    fn is_sized_well(&self, header: Header, frame: &[u8]) -> bool {
        let is_tagged = matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xA8]));
        let around = LEAST_FRAME + if is_tagged { TAG } else { 0 };
        let limit = match self.options.mtu {
            Some(mtu) if self.link.features.contains(features::MTU) => usize::from(mtu) + around,
            _ => usize::MAX,
        };
        frame.len() >= LEAST_FRAME && (frame.len() <= limit || header.is_split())
    }
}

/// A frame on its way into buffers.
struct Delivery<'a> {
    header: [u8; HEADER_BYTES],
    frame: &'a [u8],
    /// The buffers filled so far.
    used: [Used; MAX_BUFFERS],
    count: usize,
    /// Where the number of buffers goes: two bytes that may lie apart.
    number_at: [Gpa; 2],
}

impl<'a> Delivery<'a> {
    fn new(header: [u8; HEADER_BYTES], frame: &'a [u8]) -> Self {
        let none = Used {
            head: Head::default(),
            written: 0,
        };
        Self {
            header,
            frame,
            used: [none; MAX_BUFFERS],
            count: 0,
            number_at: [Gpa(0); 2],
        }
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        queue: &mut Queue,
        chain: &mut Chain,
        most: usize,
    ) -> Result<Given, Violation> {
        let mut rest = self.frame;
        while self.count == 0 || !rest.is_empty() {
            if self.count == most {
                return Ok(Given::Dropped);
            }
            if !queue.pop(memory, chain)? {
                return Ok(Given::NoRoom);
            }
            let (count, head) = (self.count, chain.head());
            self.count += 1;
            if let Some(place) = self.used.get_mut(count) {
                place.head = head;
            }
            let start = if count == 0 {
                self.put_header(memory, chain)?
            } else {
                0
            };
            let written = chain.write(memory, start, rest)?;
            if written == 0 && start == 0 {
                return Err(Violation::ShortRequest);
            }
            rest = rest.get(written..).unwrap_or_default();
            if let Some(place) = self.used.get_mut(count) {
                let written = start + written as u64;
                place.written = u32::try_from(written).unwrap_or(u32::MAX);
            }
        }
        self.hand_over(memory, queue)
    }

    /// Writes the header into the first buffer; returns where the frame begins.
    fn put_header<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &Chain,
    ) -> Result<u64, Violation> {
        let len = HEADER_BYTES as u64;
        if total(chain.writable()) < len {
            return Err(Violation::ShortRequest);
        }
        chain.write(memory, 0, &self.header)?;
        for (place, offset) in self.number_at.iter_mut().zip(NUM_BUFFERS..) {
            *place = pieces(chain.writable(), offset, 1)
                .next()
                .map_or(Gpa(0), |piece| piece.gpa);
        }
        Ok(len)
    }

    /// Writes how many buffers there are and gives all of them back at once.
    fn hand_over<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        queue: &mut Queue,
    ) -> Result<Given, Violation> {
        if let Some(number) = u16::try_from(self.count).ok().filter(|number| *number > 1) {
            for (gpa, byte) in self.number_at.iter().zip(number.to_le_bytes()) {
                memory.write(*gpa, &[byte])?;
            }
        }
        queue.push(memory, self.used.get(..self.count).unwrap_or_default())?;
        Ok(Given::Delivered)
    }

    /// Takes the pops back, last first.
    fn undo(&self, queue: &mut Queue) {
        for used in self.used.iter().take(self.count).rev() {
            queue.undo_pop(used.head);
        }
    }
}
