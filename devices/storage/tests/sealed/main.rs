//! Sealed disks and the sealed store by their public interface only, with a host that answers in any order, fails, lies and loses power.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod both;
mod crashes;
mod requests;
mod rig;
mod store;
mod tampering;
