//! The end: a coded reason for the host, and nothing after it (GHCB specification, section 2.3.1, termination request).

use stockade_abi::ghcb_msr::{GHCB_MSR, terminate_request};
use stockade_abi::terminate::{STOCKADE_REASON_SET, StopReason};

use crate::processor;

/// Stops the machine for `reason`. Needs no GHCB and no memory.
pub fn stop(reason: StopReason) -> ! {
    loop {
        let request = terminate_request(STOCKADE_REASON_SET, reason.code());
        // SAFETY: 1. every SNP processor has the register. 2. it holds no address Rust relies on any more.
        unsafe { processor::write_msr(GHCB_MSR, request) };
        processor::vmgexit();
        // A host that comes back from this gains nothing but another request.
        processor::halt();
    }
}

/// Says why on the log, then stops for `reason`.
pub(crate) fn refuse(reason: StopReason, why: &dyn core::fmt::Display) -> ! {
    log::error!("{why}");
    stop(reason)
}
