//! Builds what the end-to-end tests run and watches it run.
//!
//! A test takes the [`Workshop`] (programs, kernel and initramfs, made once), starts the command `stockade` as a user would
//! ([`Stockade`]), talks to the guest's console ([`Running`]) and judges the end ([`Finished`]). [`Slot`] keeps more than two
//! machines from running at once, however many tests there are; [`host_view`] and [`tamper`] are the two hands of a bad host.
//! An [`Initrd`] brings programs of the distribution into a guest, a [`stock_disk`] is a whole installation of it,
//! and [`firmware`] the PC that starts it.
//!
//! Everything here is for tests: what cannot go on panics with what was seen so far.

#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a test ends by panicking")]

mod command;
pub mod conformance;
mod finished;
pub mod firmware;
pub mod guest;
pub mod host_view;
mod id_keys;
mod initrd;
mod processes;
mod running;
pub mod shell;
mod slot;
pub mod stock_disk;
mod stream;
pub mod suites;
pub mod tamper;
mod tools;
pub mod tpm;
mod transcript;
mod whereabouts;
pub mod word_disk;
mod workshop;

pub use command::{Stockade, appended, command_line};
pub use finished::Finished;
pub use id_keys::ID_KEYS;
pub use initrd::{Initrd, package_file};
pub use running::Running;
pub use slot::Slot;
pub use workshop::{Workshop, workshop};
