//! Answers written into a GHCB: fields, their valid bits, and the two exit-information words.

use super::{Ghcb, Scratch};
use stockade_abi::ghcb::{ExitResult, GhcbError, GhcbField};
use stockade_abi::vmsa::{EventInfo, EventType};

/// An exception a host may have its guest raise (GHCB 4.1.1: #GP and #UD only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventInjection {
    /// #GP(0).
    GeneralProtection,
    /// #UD.
    InvalidOpcode,
}

impl EventInjection {
    /// Returns the event in the format of EVENTINJ (APM vol. 2, 15.20).
    #[must_use]
    pub fn info(self) -> EventInfo {
        let event = EventInfo::new()
            .with_event_type(EventType::EXCEPTION)
            .with_valid(true);
        match self {
            Self::GeneralProtection => event.with_vector(13).with_error_code_valid(true),
            Self::InvalidOpcode => event.with_vector(6),
        }
    }
}

/// An answer being written: the valid bitmap starts empty, both information words start as 0 and valid, which is success.
pub struct Answer<'a> {
    ghcb: &'a mut Ghcb,
}

impl Ghcb {
    /// Starts an answer. Ending it at once answers "done" with no outputs.
    pub fn answer(&mut self) -> Answer<'_> {
        self.clear_valid();
        Answer { ghcb: self }.info(0, 0)
    }
}

impl Answer<'_> {
    /// Returns a register or another field to the guest.
    #[must_use = "an answer is a chain that ends with `done`"]
    pub fn with(self, field: GhcbField, value: u64) -> Self {
        self.ghcb.set(field, value);
        self
    }

    /// Returns a value split over EAX and EDX, as RDTSC and RDMSR do.
    #[must_use = "an answer is a chain that ends with `done`"]
    pub fn edx_eax(self, value: u64) -> Self {
        self.with(GhcbField::RAX, value & 0xFFFF_FFFF)
            .with(GhcbField::RDX, value >> 32)
    }

    /// Sets both information words.
    #[must_use = "an answer is a chain that ends with `done`"]
    pub fn info(self, info1: u64, info2: u64) -> Self {
        self.with(GhcbField::SW_EXIT_INFO1, info1)
            .with(GhcbField::SW_EXIT_INFO2, info2)
    }

    /// Returns bytes in a scratch area inside the GHCB; does nothing for one elsewhere or of another length.
    #[must_use = "an answer is a chain that ends with `done`"]
    pub fn scratch(self, scratch: Scratch, bytes: &[u8]) -> Self {
        if let Scratch::InGhcb { offset, len } = scratch
            && len == bytes.len()
            && let Some(buffer) = self.ghcb.scratch_mut(offset, len)
        {
            buffer.copy_from_slice(bytes);
        }
        self
    }

    /// Answers that the request was malformed.
    pub fn malformed(self, reason: GhcbError) {
        self.info(u64::from(ExitResult::MALFORMED.0), reason.0)
            .done();
    }

    /// Answers by having the guest raise an exception.
    pub fn exception(self, event: EventInjection) {
        self.info(u64::from(ExitResult::EXCEPTION.0), event.info().into_bits())
            .done();
    }

    /// Ends the chain.
    pub fn done(self) {}
}
