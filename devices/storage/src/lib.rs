//! Sealed disks and the sealed store: what a host keeps for a guest and can neither read nor change unnoticed.
//!
//! Both are state machines without I/O of their own. [`SealedDisk`] takes requests of a guest and says which blocks of the
//! host's file to read and write; [`SealedStore`] does the same for small records by name, among them the [`Anchor`] of each
//! disk, by which an older copy of a whole disk is told from the newest. Keys come from a [`RootSecret`], one a purpose. The
//! formats are in `docs/sealed-disk.md`. A disk's key may instead be [`release`]d elsewhere, to a machine that was attested.
//!
//! Nothing is allocated after construction, nothing the host says is believed, and ciphertext is copied into private memory
//! before it is looked at: the caller lends that copying through [`Memory`].

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        reason = "tests"
    )
)]

extern crate alloc;

pub mod disk;
pub mod host;
pub mod key;
pub mod release;
pub mod store;

mod nonce;

pub use disk::{
    Access, Anchor, Anchoring, Completion, Config, ConfigError, Event, Fault, Freshness, Kind,
    Request, RequestError, SealedDisk, State, Trust, Work,
};
pub use host::{
    BLOCK_BYTES, HostBlock, HostError, HostIo, HostOp, IoId, Memory, MemoryError, SECTOR_BYTES,
    Slot, Token,
};
pub use key::{DiskKey, KeyId, RootSecret, StoreKey};
pub use store::{
    SealedStore, StoreError, StoreFault, StoreFreshness, StoreState, StoreTrust, Ticket,
};
