//! The GHCB page as a host reads and answers it (GHCB 2.6 and 4).
//!
//! Start from [`Ghcb::copy_in`] with a private copy of the guest's page, ask for its [`Request`], answer through
//! [`Ghcb::answer`], and write [`Ghcb::bytes`] back over the guest's page. Nothing is ever read twice from the guest.

mod answer;
mod decode;
mod fields;
pub mod page_state;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{Answer, EventInjection};
pub use fields::{Ghcb, PAGE_BYTES, SHARED_BUFFER, Scratch};
pub use request::{ApCreation, Direction, DoorbellRequest, Request, Width};
