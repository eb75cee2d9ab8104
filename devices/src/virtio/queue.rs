//! Virtqueues, the device's side: split and packed rings in guest memory (Virtio 1.2, 2.6 to 2.8).
//!
//! A front-end pops [`Chain`]s and pushes their [`Head`]s back as used. Whatever the guest writes is copied once and checked: the rings and
//! every buffer lie in guest RAM, chains end, nothing follows the writable part that is to be read. What is wrong is a [`Violation`].

mod access;
mod chain;
mod descriptor;
mod packed;
mod ring_queue;
mod segment;
mod split;
mod violation;

pub use chain::{Chain, ChainState, Head};
pub use packed::{PackedState, Position};
pub use ring_queue::{Listening, Queue, QueueState, RingState, Used};
pub use segment::{Pieces, Segment, gather, pieces, scatter, total};
pub use split::SplitState;
pub use violation::Violation;

use stockade_bus::Gpa;

/// The most entries of a queue (Virtio 1.2, 2.7 and 2.8).
pub const QUEUE_SIZE_LIMIT: u16 = 1 << 15;

/// Where the driver put a queue, and how large it is: allegations until the queue is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueConfig {
    /// Entries.
    pub size: u16,
    /// The descriptor table of a split ring, the descriptor ring of a packed one.
    pub descriptors: Gpa,
    /// The driver area: available ring, or the driver's event suppression.
    pub driver: Gpa,
    /// The device area: used ring, or the device's event suppression.
    pub device: Gpa,
}

#[cfg(test)]
mod tests;
