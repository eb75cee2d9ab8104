//! What a lie sees of a queue between device and driver, and what it can do there.

use super::block::BlockRequest;
use super::chain::{self, GuestBytes, Segment};
use super::lie::{Lie, Who};
use super::queue::{Element, Queue};
use alloc::vec::Vec;

/// A queue in use, and the memory it lies in.
pub struct Exchange<'a> {
    /// Whose it is.
    pub who: Who,
    /// The queue.
    pub queue: &'a mut Queue,
    /// The guest's shared memory.
    pub memory: &'a dyn GuestBytes,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(who: Who, queue: &'a mut Queue, memory: &'a dyn GuestBytes) -> Self {
        Self { who, queue, memory }
    }

    /// The buffers of the chain that begins at `head`.
    #[must_use]
    pub fn chain(&self, head: u32) -> Vec<Segment> {
        match u16::try_from(head) {
            Ok(head) if head < self.queue.size => {
                chain::segments(self.memory, self.queue.descriptors, head)
            }
            _ => Vec::new(),
        }
    }

    /// The chain as a request to a disk.
    #[must_use]
    pub fn request(&self, head: u32) -> Option<BlockRequest> {
        BlockRequest::parse(self.memory, &self.chain(head))
    }

    /// Heads of chains the driver made available since the last call.
    #[must_use]
    pub fn posted(&mut self) -> Vec<u16> {
        self.queue.posted(self.memory)
    }

    /// Puts an element before the driver at once.
    pub fn tell(&mut self, element: Element) {
        self.queue.put(self.memory, element);
        self.publish();
    }

    /// Has the driver see more elements than there are.
    pub fn jump(&mut self, entries: u16) {
        self.queue.jump(entries);
        self.publish();
    }

    /// Lets the lie have its way with everything the device has done.
    pub(super) fn forward(&mut self, lie: &dyn Lie) {
        let mut told = Vec::new();
        while let Some(element) = self.queue.take() {
            lie.completed(self, element, &mut told);
            for element in told.drain(..) {
                self.queue.put(self.memory, element);
            }
        }
    }

    pub(super) fn publish(&self) {
        self.queue.publish(self.memory);
    }
}
