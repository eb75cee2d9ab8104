//! The way to the secure processor: attestation reports, derived keys, TSC parameters (SNP ABI, section 7; GHCB, 4.1.7).
//!
//! The host carries sealed messages and can drop, repeat or swap them, never read or make one ([`message`]). What it must not
//! gain is a second message under a sequence number already used. So a number is spent the moment its message leaves; if
//! anything then goes wrong but "busy", the key is wiped and [`Psp`] answers nothing more.

pub mod message;

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

/// How often a busy host is asked again with the same message.
const BUSY_TRIES: usize = 1000;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PspError {
    /// The key is wiped: an earlier exchange went wrong.
    #[error("the key to the secure processor is wiped")]
    Closed,
    /// The processor has no GHCB yet.
    #[error("the processor has no page to speak with its host")]
    NoGhcb,
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
    /// Returns whether the secure processor itself declined, so that other requests may still be made.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Declined(_) | Self::NoGhcb)
    }
}

/// The channel to the secure processor.
#[derive(Debug)]
pub struct Psp {
    key: Option<Key>,
    /// The number of the next request, odd from 1 on.
    next_sequence: u64,
    request: SharedPage,
    response: SharedPage,
}

struct Key(Zeroizing<[u8; VMPCK_SIZE]>);

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
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
            key: (!is_wiped).then_some(Key(key)),
            next_sequence: 1,
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
        (asked, answered): (MessageType, MessageType),
        request: &Request,
    ) -> Result<Response, PspError>
    where
        Request: IntoBytes + Immutable,
        Response: FromBytes + KnownLayout,
    {
        let key = self.key.take().ok_or(PspError::Closed)?;
        let sequence = self.next_sequence;
        let sealed = message::seal(&key.0, sequence, asked, request.as_bytes())?;
        self.carry(ghcb, &sealed)?;
        let mut page = Zeroizing::new([0; SHARED_PAGE_SIZE]);
        self.response.read(0, page.as_mut_slice());
        let payload = message::open(&key.0, sequence + 1, answered, &mut page)?;
        let response = Response::read_from_prefix(payload);
        let (response, _) = response.map_err(|_| MessageError::Length)?;
        // Only now is it certain that both sides count alike.
        self.next_sequence = sequence.checked_add(2).ok_or(PspError::Closed)?;
        self.key = Some(key);
        Ok(response)
    }

    /// Has the host pass `sealed` on; the very same message again while it is busy.
    fn carry<G: Gate>(&self, ghcb: &Ghcb<G>, sealed: &Sealed) -> Result<(), PspError> {
        self.response.zero();
        for _ in 0..BUSY_TRIES {
            self.request.write(0, sealed.bytes());
            let status = ghcb.guest_request(self.request.address(), self.response.address())?;
            match (status.firmware(), status.host()) {
                (0, 0) => return Ok(()),
                (0, GuestRequestStatus::HOST_BUSY) => {}
                (firmware, host) => return Err(PspError::Request { firmware, host }),
            }
        }
        Err(PspError::Request {
            firmware: 0,
            host: GuestRequestStatus::HOST_BUSY,
        })
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
