//! Who holds the keys of disks, and gives them to machines that were attested: `docs/key-release.md`.
//!
//! A [`Holder`] judges what a machine says of itself and seals the keys for it, and may remember machines' starts in a
//! [`Ledger`]; a [`server`] lets machines ask by a network or a socket; an [`Address`] is where.

mod address;
mod holder;
mod ledger;
pub mod server;

pub use address::{Address, Stream};
pub use holder::{FindCertificates, Given, Holder, HolderError};
pub use ledger::{Ledger, LedgerError, Stale};
