//! Keys from elsewhere: what a machine and the holder of its disks' keys say to each other, `docs/key-release.md`.
//!
//! The machine [`ask()`]s once, before it opens the disks. Its question carries an attestation report bound to a public key made for it;
//! the holder judges that and seals the keys for it in an [`envelope`]. All in between, the host above all, may carry or drop
//! [`message`]s, and gain nothing by changing them: an envelope opens for one machine's one question, and a key counts only if it is
//! the one whose id the machine's image names. The question says which starts the machine's sealed store remembers, so
//! that a holder can notice an older copy of it.

mod ask;
pub mod envelope;
pub mod message;

pub use ask::{Line, ReleaseError, Silent, Wanted, ask};
pub use message::{Evidence, MAX_KEYS, Nonce, REPORT_BYTES, RefusalCode, StartId, Starts};
