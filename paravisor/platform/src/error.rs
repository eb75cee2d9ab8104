//! What a host can get wrong.

use stockade_abi::ghcb::NaeExit;

/// Why a call to the host did not succeed. None of it is the guest's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The host answered, by the protocol's rules, that it will not do it.
    #[error("host refused {event}: result {result}, detail {detail:#x}")]
    Refused {
        /// What was asked.
        event: NaeExit,
        /// Bits 31:0 of SW_EXITINFO1.
        result: u32,
        /// SW_EXITINFO2.
        detail: u64,
    },
    /// The answer breaks the protocol: a missing valid bit, an impossible value, an answer to another question.
    #[error("host broke the protocol in {event}: {what}")]
    Lied {
        /// What was asked.
        event: NaeExit,
        /// What is wrong with the answer.
        what: &'static str,
    },
    /// The answer of the MSR protocol is none to this request.
    #[error("host broke the MSR protocol: {answer:#x} is no answer to {request:#x}")]
    MsrProtocol {
        /// The word we wrote.
        request: u64,
        /// The word we read.
        answer: u64,
    },
    /// We asked for something the protocol cannot say.
    #[error("{event} cannot be asked for: {what}")]
    Malformed {
        /// What was to be asked.
        event: NaeExit,
        /// What does not fit.
        what: &'static str,
    },
}
