//! The way out: what the processor does between a request and its answer.

use stockade_entry::window;

use crate::doorbell::Doorbell;
use crate::processor;

/// Leaves for the host and comes back. Tests implement it as the host.
pub trait Gate: Clone {
    /// Lets the host act on the request on the GHCB page.
    fn exit(&self);
    /// Does the same unless `doorbell` is signalled, then returns whether it did.
    fn exit_unless_signalled(&self, doorbell: &Doorbell) -> bool;
}

/// The processor itself: VMGEXIT, with the GHCB's address in the GHCB MSR since the page was registered.
#[derive(Clone, Copy, Debug)]
pub struct Processor;

impl Gate for Processor {
    fn exit(&self) {
        processor::vmgexit();
    }

    fn exit_unless_signalled(&self, doorbell: &Doorbell) -> bool {
        // SAFETY: 1. a `Doorbell` is a mapped page. 2. the request was written by `Ghcb`, whose callers answer for it.
        unsafe { window::exit_unless_signalled(doorbell.start()) }
    }
}
