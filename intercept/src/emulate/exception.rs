//! Exceptions the guest gets instead of an answer.

use stockade_abi::vmsa::{EventInfo, EventType, Vmsa};

use super::flags::Flags;
use crate::debug;
use crate::walk::PageFault;

/// An exception, with what the processor pushes and sets for it. APM vol. 2, 8.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code, for vectors that have one.
    pub error_code: Option<u32>,
    /// The faulting address, for CR2.
    pub address: Option<u64>,
}

impl Exception {
    /// #DE.
    pub const DIVIDE_ERROR: Self = Self::plain(0);
    /// #DB, behind an instruction that was stepped over or met a breakpoint.
    pub const DEBUG: Self = Self::plain(1);
    /// #UD.
    pub const INVALID_OPCODE: Self = Self::plain(6);
    /// #NM.
    pub const DEVICE_NOT_AVAILABLE: Self = Self::plain(7);
    /// #SS(0).
    pub const STACK: Self = Self::with_zero(12);
    /// #GP(0).
    pub const GENERAL_PROTECTION: Self = Self::with_zero(13);
    /// #AC(0).
    pub const ALIGNMENT_CHECK: Self = Self::with_zero(17);

    /// Returns the #PF of a failed walk.
    #[must_use]
    pub const fn page_fault(fault: PageFault) -> Self {
        Self {
            vector: 14,
            error_code: Some(fault.code.bits()),
            address: Some(fault.address),
        }
    }

    const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            address: None,
        }
    }

    const fn with_zero(vector: u8) -> Self {
        Self {
            vector,
            error_code: Some(0),
            address: None,
        }
    }

    /// Sets what the processor sets before it delivers the exception: CR2 for a page fault, RF for every fault, and what #DB changes
    /// about debugging.
    ///
    /// Event injection does none of it by itself. Call it once, when [`Self::event`] is queued.
    pub fn prepare(&self, vmsa: &mut Vmsa) {
        if let Some(address) = self.address {
            vmsa.cr2 = address;
        }
        if self.vector == Self::DEBUG.vector {
            debug::deliver(vmsa);
        } else {
            vmsa.rflags |= Flags::RESUME.bits();
        }
    }

    /// Returns the word that injects the exception (VMSA EVENT_INJ). APM vol. 2, 15.20.
    ///
    /// In real mode no error code is pushed, so `vmsa` decides.
    #[must_use]
    pub fn event(&self, vmsa: &Vmsa) -> EventInfo {
        let is_protected = vmsa.cr0 & crate::walk::control::CR0_PE != 0;
        let error_code = self.error_code.filter(|_| is_protected);
        EventInfo::new()
            .with_vector(self.vector)
            .with_event_type(EventType::EXCEPTION)
            .with_error_code_valid(error_code.is_some())
            .with_error_code(error_code.unwrap_or(0))
            .with_valid(true)
    }
}
