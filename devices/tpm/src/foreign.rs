//! The one place with unsafe code: two C libraries, and the descriptors a module is started with.
//!
//! Outside the paravisor this is an ordinary process; inside, a module at CPL 3 that sees no memory but its own. What goes wrong here
//! costs the guest its TPM and nobody anything else, which is why this folder may do what no other code of the machine may
//! ([decision 13](../../../docs/decisions/0013-libtpms-as-the-engine.md)).

mod bindings;
mod callbacks;
mod cancel;
mod descriptors;
mod libtpms;

pub use descriptors::{Descriptors, is_cancelled};
pub use libtpms::Libtpms;
