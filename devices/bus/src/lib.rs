//! What a device is to its bus.
//!
//! A device is reached through one of three small traits, [`PortIo`], [`Mmio`] and [`PciConfig`]: an offset and bytes in,
//! bytes out. It reaches out only through what its constructor was given: an [`IrqLine`], a [`Clock`], [`GuestMemory`].
//! An access that names no register is answered by the bus, in one place: ones on a read, nothing on a write.
//! [`fake`] has the other side of each for tests.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "fake"))]
extern crate std;

mod access;
mod clock;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod irq;
mod memory;

pub use access::{AccessError, Mmio, PciConfig, PortIo};
pub use clock::{Clock, Deadline, Nanoseconds};
pub use irq::{IrqLine, Level};
pub use memory::{Gpa, GuestMemory, MemoryError};
