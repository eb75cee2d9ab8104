//! Starting a Linux kernel: bzImage files by the 64-bit boot protocol (Linux `Documentation/arch/x86/boot.rst`).
//!
//! [`header`] reads the file's setup header, [`plan`] decides where everything goes, [`boot_params`] is what the kernel is
//! told, and [`load()`] does it: payload files from staging straight to their places in guest memory.

pub mod boot_params;
pub mod header;
mod load;
pub mod plan;

pub use crate::load::LoadError;
pub use header::{HeaderError, SetupHeader};
pub use load::load;
pub(crate) use load::{finish, plan as plan_for};
pub use plan::{LoadPlan, PlanError, Sizes};
