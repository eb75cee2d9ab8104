//! One split queue: the device's used ring in the host's own pages, the driver's in the guest's. Virtio 1.2, 2.7.

use super::chain::GuestBytes;
use crate::snp::addr::Phys;
use alloc::vec::Vec;

/// A used element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Element {
    /// The head of the chain.
    pub id: u32,
    /// Bytes the device says it wrote.
    pub len: u32,
}

/// A queue.
#[derive(Default)]
pub struct Queue {
    /// Entries.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring the driver reads.
    pub used: u64,
    pub(super) is_enabled: bool,
    /// The used ring the device writes.
    shadow: Vec<Phys>,
    /// Elements taken of the device's.
    taken: u16,
    /// Elements put before the driver, and the index it was told.
    put: u16,
    /// Available entries seen.
    pub(super) seen: u16,
}

impl Queue {
    /// Whether it is set up and the device's ring is the host's.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_enabled && !self.shadow.is_empty() && self.size != 0
    }

    /// Has the device write to these pages, which are zero.
    pub fn divert(&mut self, shadow: Vec<Phys>) {
        (self.taken, self.put, self.seen) = (0, 0, 0);
        self.shadow = shadow;
    }

    /// The pages, to be used again.
    pub fn take_shadow(&mut self) -> Vec<Phys> {
        core::mem::take(&mut self.shadow)
    }

    /// The next element the device put, if it put one.
    pub(super) fn take(&mut self) -> Option<Element> {
        let index = self.shadow_word(0)? >> 16;
        if index == u32::from(self.taken) {
            return None;
        }
        let at = 4 + 8 * u64::from(self.taken % self.size.max(1));
        self.taken = self.taken.wrapping_add(1);
        Some(Element {
            id: self.shadow_word(at)?,
            len: self.shadow_word(at + 4)?,
        })
    }

    /// Puts an element before the driver, which does not know yet.
    pub(super) fn put(&mut self, memory: &dyn GuestBytes, element: Element) {
        let at = 4 + 8 * u64::from(self.put % self.size.max(1));
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&element.id.to_le_bytes());
        bytes[4..].copy_from_slice(&element.len.to_le_bytes());
        memory.write(self.used.wrapping_add(at), &bytes);
        self.put = self.put.wrapping_add(1);
    }

    /// Tells the driver how many elements there are.
    pub(super) fn publish(&self, memory: &dyn GuestBytes) {
        memory.write(self.used.wrapping_add(2), &self.put.to_le_bytes());
    }

    /// Tells the driver of elements that are not there.
    pub(super) fn jump(&mut self, entries: u16) {
        self.put = self.put.wrapping_add(entries);
    }

    /// Heads of chains the driver made available since the last call.
    pub(super) fn posted(&mut self, memory: &dyn GuestBytes) -> Vec<u16> {
        let mut index = [0; 2];
        if !memory.read(self.available.wrapping_add(2), &mut index) {
            return Vec::new();
        }
        let index = u16::from_le_bytes(index);
        let mut heads = Vec::new();
        while self.seen != index && heads.len() < usize::from(self.size) {
            let at = 4 + 2 * u64::from(self.seen % self.size.max(1));
            let mut head = [0; 2];
            memory.read(self.available.wrapping_add(at), &mut head);
            heads.push(u16::from_le_bytes(head));
            self.seen = self.seen.wrapping_add(1);
        }
        heads
    }

    fn shadow_word(&self, offset: u64) -> Option<u32> {
        let page = self.shadow.get(usize::try_from(offset / 0x1000).ok()?)?;
        let mut bytes = [0; 4];
        page.in_page(offset).read_bytes(&mut bytes);
        Some(u32::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::fake::Shared;
    use super::*;
    use crate::snp::addr::FrameSource;
    use crate::snp::addr::fake::HeapFrames;

    fn queue() -> (Queue, Phys) {
        let page = HeapFrames::new(0x20_0000).frame().unwrap();
        let mut queue = Queue {
            size: 4,
            available: 0x100,
            used: 0x200,
            is_enabled: true,
            ..Queue::default()
        };
        queue.divert(vec![page]);
        (queue, page)
    }

    #[test]
    fn what_the_device_puts_is_taken_once_and_in_order() {
        let (mut queue, page) = queue();
        assert_eq!(queue.take(), None);
        for index in 0..6_u32 {
            let at = 4 + 8 * u64::from(index % 4);
            page.in_page(at).write_bytes(&(100 + index).to_le_bytes());
            page.in_page(at + 4).write_bytes(&(7 * index).to_le_bytes());
            page.in_page(2)
                .write_bytes(&[index.to_le_bytes()[0] + 1, 0]);
            let expected = Element {
                id: 100 + index,
                len: 7 * index,
            };
            assert_eq!(queue.take(), Some(expected));
            assert_eq!(queue.take(), None);
        }
    }

    #[test]
    fn the_driver_hears_of_elements_when_they_are_published() {
        let (mut queue, _) = queue();
        let memory = Shared::new(0x1000);
        queue.put(&memory, Element { id: 3, len: 5 });
        assert_eq!((memory.word(0x202), memory.word(0x204)), (0, 3));
        queue.publish(&memory);
        assert_eq!((memory.word(0x202), memory.word(0x208)), (1, 5));
        queue.jump(1000);
        queue.publish(&memory);
        assert_eq!(memory.word(0x202), 1001);
    }

    #[test]
    fn posted_heads_are_seen_once() {
        let (mut queue, _) = queue();
        let memory = Shared::new(0x1000);
        memory.write(0x102, &[2, 0, 9, 0, 8, 0]);
        assert_eq!(queue.posted(&memory), [9, 8]);
        assert!(queue.posted(&memory).is_empty());
        memory.write(0x102, &[0xFF, 0xFF]);
        assert_eq!(queue.posted(&memory).len(), 4);
    }
}
