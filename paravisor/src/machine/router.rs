//! The way of interrupts from chips and functions to the vCPUs.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use stockade_apic::{Mailbox, Message, MessageSink, route};
use stockade_bus::{IrqLine, Level};

/// Sends messages of the IOAPIC to the vCPUs' mailboxes and notes whose they were.
#[derive(Clone, Debug)]
pub struct Router {
    pub(super) mailboxes: Arc<[Mailbox]>,
    pub(super) wake: Arc<AtomicU64>,
}

impl MessageSink for Router {
    fn send(&self, message: Message) {
        route::send_message(&self.mailboxes, &message, |vcpu| self.wake(vcpu));
    }
}

impl Router {
    /// Up to 64 vCPUs can be woken one by one; the bit of any other is not there to take.
    fn wake(&self, vcpu: usize) {
        let bit = u32::try_from(vcpu)
            .ok()
            .and_then(|vcpu| 1_u64.checked_shl(vcpu));
        self.wake.fetch_or(bit.unwrap_or(0), Ordering::Relaxed);
    }
}

/// INTR of the 8259 pair goes to LINT0 of the first vCPU.
impl IrqLine for Router {
    fn set(&self, level: Level) {
        if let Some(first) = self.mailboxes.first()
            && first.set_lint0(level)
        {
            self.wake(0);
        }
    }
}
