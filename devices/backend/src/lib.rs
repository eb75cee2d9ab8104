//! Virtio as its driver: the host's disks, network cards and consoles, and nothing they say believed unchecked.
//!
//! From the outside in: [`host`] is how configuration space and registers are reached, [`pci`] finds the functions,
//! [`transport`] is one modern virtio function (virtio 1.2, section 4.1), [`queue`] one virtqueue in [`shared`] memory with a
//! private shadow of all that was posted, [`slots`] the memory requests are bounced through, [`block`], [`net`] and [`console`] the
//! three kinds of device. Nothing here waits, and nothing is allocated once a device is open.
//!
//! What the host says is an allegation: an index that runs ahead, an id that was not posted or is answered twice, a length
//! beyond what was posted, a device that changes its mind are each a [`BackendError`] with a code; the device is then offline
//! for good and every request it still had has failed.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod block;
pub mod console;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod host;
mod lanes;
pub mod net;
pub mod pci;
pub mod queue;
pub mod shared;
pub mod slots;
pub mod transport;
pub mod watch;

pub use error::{BackendError, Code};
pub use host::{Function, HostBus, HostFault};
pub use shared::SharedMemory;
