//! Builds, measures, inspects and runs unmodified guests as confidential VMs.

#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

pub mod run;
pub mod setup;
