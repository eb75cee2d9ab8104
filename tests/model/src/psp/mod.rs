//! The platform security processor: what AMD's firmware does for SNP guests (SNP ABI 56860), seeded instead of fused.
//!
//! [`launch`] measures a guest; [`cpuid`] and [`secrets`] fill the two special pages; [`message`] answers the guest
//! afterwards, with [`report`]s signed by the [`chip`]'s key and [`certificates`] for it. Every error is a [`Status`].

pub mod certificates;
pub mod chip;
pub mod cpuid;
pub mod launch;
pub mod message;
pub mod report;
pub mod secrets;
mod status;

pub use status::Status;
