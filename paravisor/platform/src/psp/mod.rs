//! The way to the secure processor: attestation reports, derived keys, TSC parameters (SNP ABI, section 7; GHCB, 4.1.7).
//!
//! The host carries sealed messages and can drop, repeat or swap them, never read or make one ([`message`]). What it must not
//! gain is a second message under a sequence number already used. So a number is spent the moment its message leaves: a host that
//! is busy gets the very same bytes the next time, whatever is asked by then; if anything else goes wrong, the key is wiped and
//! [`Psp`] answers nothing more.

pub mod message;

use alloc::vec::Vec;

use stockade_abi::ghcb::GuestRequestStatus;
use stockade_abi::guest_message::{
    HEADER_SIZE, KeyRequest, KeyResponse, MessageType, PAYLOAD_MAX_SIZE, ReportRequest,
    ReportResponse, TscInfoRequest, TscInfoResponse, status,
};
use stockade_abi::report::AttestationReport;
use stockade_abi::secrets::VMPCK_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zeroize::{Zeroize, Zeroizing};

use crate::error::HostError;
use crate::ghcb::{Gate, Ghcb};
use crate::shared::{SHARED_PAGE_SIZE, SharedPage};
use message::{MessageError, Sealed};

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PspError {
    /// The key is wiped: an earlier exchange went wrong.
    #[error("the key to the secure processor is wiped")]
    Closed,
    /// The processor has no GHCB yet.
    #[error("the processor has no page to speak with its host")]
    NoGhcb,
    /// The host has no time to pass the message on. Whoever asks the same again, after a pause, has it sent again.
    #[error("the host is too busy to pass the message on")]
    Busy,
    /// The host did not pass the message on.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The host or the firmware answered with an error.
    #[error("guest request failed: firmware {firmware:#x}, host {host:#x}")]
    Request {
        /// Status of the firmware's command.
        firmware: u32,
        /// The host's own status.
        host: u32,
    },
    /// The answer is no message to us.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The secure processor understood us and declined.
    #[error("the secure processor answers status {0:#x}")]
    Declined(u32),
}

impl PspError {
    /// Returns whether no other requests can be made.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Declined(_) | Self::NoGhcb | Self::Busy)
    }
}

/// The channel to the secure processor.
pub struct Psp {
    key: Option<Zeroizing<[u8; VMPCK_SIZE]>>,
    /// The number of the next request, odd from 1 on; of the one that waits, if one does.
    next_sequence: u64,
    /// What the host has seen and was too busy for. As long as it is there, no other message is sealed.
    waiting: Option<(Question, Sealed)>,
    request: SharedPage,
    response: SharedPage,
}

/// A request, and the kinds of it and of its answer.
#[derive(PartialEq, Eq)]
struct Question {
    kinds: (MessageType, MessageType),
    request: Vec<u8>,
}

type Page = [u8; SHARED_PAGE_SIZE];

/// Has the host pass on the message on the page at the first address; its answer is on that at the second.
type Pass<'a> = &'a dyn Fn(u64, u64) -> Result<GuestRequestStatus, HostError>;

impl core::fmt::Debug for Psp {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Psp").finish_non_exhaustive()
    }
}

impl Psp {
    /// Returns the channel of a machine just launched: no message was sent under `key` (VMPCK0) before.
    ///
    /// Shared pages are mapped at their guest-physical address.
    #[must_use]
    pub fn new(
        key: Zeroizing<[u8; VMPCK_SIZE]>,
        request: SharedPage,
        response: SharedPage,
    ) -> Self {
        let is_wiped = key.iter().all(|byte| *byte == 0);
        Self {
            key: (!is_wiped).then_some(key),
            next_sequence: 1,
            waiting: None,
            request,
            response,
        }
    }

    /// Returns an attestation report of VMPL0 with `report_data` bound to it.
    pub fn report<G: Gate>(
        &mut self,
        ghcb: &Ghcb<G>,
        report_data: &[u8; 64],
    ) -> Result<AttestationReport, PspError> {
        let request = ReportRequest::new(*report_data, 0);
        let kinds = (MessageType::REPORT_REQUEST, MessageType::REPORT_RESPONSE);
        let response: ReportResponse = self.exchange(ghcb, kinds, &request)?;
        check_status(response.status)?;
        Ok(response.report)
    }

    /// Returns such a report by way of the GHCB of the processor that executes this.
    #[cfg(feature = "image")]
    pub fn report_here(&mut self, report_data: &[u8; 64]) -> Result<AttestationReport, PspError> {
        let ghcb = crate::cpu::current().and_then(|area| area.ghcb());
        self.report(ghcb.ok_or(PspError::NoGhcb)?, report_data)
    }

    /// Returns the key the secure processor derives from what `request` selects.
    pub fn derived_key<G: Gate>(
        &mut self,
        ghcb: &Ghcb<G>,
        request: &KeyRequest,
    ) -> Result<Zeroizing<[u8; 32]>, PspError> {
        let kinds = (MessageType::KEY_REQUEST, MessageType::KEY_RESPONSE);
        let mut response: KeyResponse = self.exchange(ghcb, kinds, request)?;
        let key = Zeroizing::new(response.derived_key);
        response.derived_key.zeroize();
        check_status(response.status)?;
        Ok(key)
    }

    /// Returns the parameters of the Secure TSC.
    pub fn tsc_info<G: Gate>(&mut self, ghcb: &Ghcb<G>) -> Result<TscInfoResponse, PspError> {
        let kinds = (
            MessageType::TSC_INFO_REQUEST,
            MessageType::TSC_INFO_RESPONSE,
        );
        let response: TscInfoResponse = self.exchange(ghcb, kinds, &TscInfoRequest::new())?;
        check_status(response.status)?;
        Ok(response)
    }

    /// Sends one message and opens its answer; wipes the key if the exchange does not end as it should.
    fn exchange<G: Gate, Request, Response>(
        &mut self,
        ghcb: &Ghcb<G>,
        kinds: (MessageType, MessageType),
        request: &Request,
    ) -> Result<Response, PspError>
    where
        Request: IntoBytes + Immutable,
        Response: FromBytes + KnownLayout,
    {
        let request = request.as_bytes().to_vec();
        let pass = |from, to| ghcb.guest_request(from, to);
        let mut page = Zeroizing::new([0; SHARED_PAGE_SIZE]);
        let answer = self.ask(&pass, Question { kinds, request }, &mut page)?;
        match Response::read_from_prefix(answer) {
            Ok((response, _)) => Ok(response),
            Err(_) => {
                self.key = None;
                Err(MessageError::Length.into())
            }
        }
    }

    /// Returns the answer to a question, on `page`. One that waits goes first: nothing but what it was is sent under its number.
    fn ask<'a>(
        &mut self,
        pass: Pass<'_>,
        question: Question,
        page: &'a mut Page,
    ) -> Result<&'a [u8], PspError> {
        if (self.waiting.as_ref()).is_some_and(|(waiting, _)| *waiting != question) {
            // Whoever wanted this answer asks again, if anybody still wants it.
            self.send(pass, page)?;
        }
        if self.waiting.is_none() {
            let key = self.key.as_ref().ok_or(PspError::Closed)?;
            let (kind, _) = question.kinds;
            let sealed = message::seal(key, self.next_sequence, kind, &question.request)?;
            self.waiting = Some((question, sealed));
        }
        self.send(pass, page)
    }

    /// Has the host pass on what waits and returns the answer. Unless the host is busy nothing waits afterwards, and either the number is the
    /// next one or the key is gone.
    fn send<'a>(&mut self, pass: Pass<'_>, page: &'a mut Page) -> Result<&'a [u8], PspError> {
        let answer = self.carry(pass, page);
        if matches!(answer, Err(PspError::Busy)) {
            return answer;
        }
        self.waiting = None;
        match (&answer, self.next_sequence.checked_add(2)) {
            // Only now is it certain that both sides count alike.
            (Ok(_), Some(next)) => self.next_sequence = next,
            _ => self.key = None,
        }
        answer
    }

    fn carry<'a>(&self, pass: Pass<'_>, page: &'a mut Page) -> Result<&'a [u8], PspError> {
        let both = self.key.as_ref().zip(self.waiting.as_ref());
        let (key, (question, sealed)) = both.ok_or(PspError::Closed)?;
        self.response.zero();
        self.request.write(0, sealed.bytes());
        let status = pass(self.request.address(), self.response.address())?;
        match (status.firmware(), status.host()) {
            (0, 0) => {}
            (0, GuestRequestStatus::HOST_BUSY) => return Err(PspError::Busy),
            (firmware, host) => return Err(PspError::Request { firmware, host }),
        }
        self.response.read(0, page);
        let (_, kind) = question.kinds;
        Ok(message::open(key, self.next_sequence + 1, kind, page)?)
    }
}

fn check_status(answer: u32) -> Result<(), PspError> {
    match answer {
        status::SUCCESS => Ok(()),
        other => Err(PspError::Declined(other)),
    }
}

const _: () = assert!(HEADER_SIZE + PAYLOAD_MAX_SIZE == SHARED_PAGE_SIZE);

#[cfg(test)]
mod tests;
