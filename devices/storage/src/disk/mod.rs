//! Sealed disks: a copy-on-write tree whose every block is authenticated by the one above it.

pub mod cache;
pub mod entry;
pub mod fault;
pub mod format;
pub mod geometry;
pub mod request;
pub mod seals;

pub use fault::{ANCHOR_BYTES, Anchor, Event, Fault, Freshness, Trust};
pub use request::{Completion, Kind, Request, RequestError};
