//! Virtio devices as the guest sees them (Virtual I/O Device specification 1.2), without their transport and without any I/O.
//!
//! A transport (PCI) holds a [`VirtioDevice`] and tells it what the driver negotiated, where its rings lie and when it was notified. On its
//! other side a front-end hands validated requests to an engine that does the I/O and gives back completions. Between
//! the two are the rings of [`queue`]: every descriptor is copied out of guest memory once and checked before anything acts on it.
//! A guest that breaks the rules loses its device until it resets it, and nothing else happens.

pub mod blk;
pub mod console;
#[cfg(any(test, feature = "fake"))]
pub mod driver;
pub mod net;
pub mod queue;
pub mod rng;

mod device;
mod features;
mod link;

pub use device::{DeviceId, FeaturesRefused, Interrupts, VirtioDevice, Work};
pub use features::Features;
pub use link::LinkState;
pub use queue::{QueueConfig, Violation};
