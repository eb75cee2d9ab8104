//! The block device (Virtio 1.2, 5.2): requests out of the guest's rings, for an engine that does the I/O.

mod request;

pub use request::{Kind, Range, Request, SECTOR_BYTES, Status, Token};
