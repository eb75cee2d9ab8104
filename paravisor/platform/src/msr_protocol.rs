//! What is said to the host before there is a GHCB, one word each way (GHCB specification, section 2.3.1).
//!
//! Each function takes the exchange itself, so that tests can be the host. A word that is no answer to the request is an
//! attack or a bug, never a default.

use stockade_abi::ghcb::{PROTOCOL_VERSION_2, PscOperation};
use stockade_abi::ghcb_msr::{self as abi, Code, HypervisorFeatures};

use crate::error::HostError;

/// Writes a word, leaves for the host, reads its answer.
pub(crate) trait Exchange: FnMut(u64) -> u64 {}
impl<F: FnMut(u64) -> u64> Exchange for F {}

/// What the host says about encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SevInfo {
    /// Where it believes the C-bit to be.
    pub(crate) c_bit: u8,
    /// It speaks version 2 of the protocol.
    pub(crate) has_version_2: bool,
}

fn ask(exchange: &mut impl Exchange, request: u64, expected: Code) -> Result<u64, HostError> {
    let answer = exchange(request);
    if abi::code(answer) != expected {
        return Err(HostError::MsrProtocol { request, answer });
    }
    Ok(answer)
}

/// Asks for protocol versions and the C-bit.
pub(crate) fn sev_info(exchange: &mut impl Exchange) -> Result<SevInfo, HostError> {
    let request = abi::word(Code::SEV_INFO_REQUEST, 0);
    let answer = ask(exchange, request, Code::SEV_INFO_RESPONSE)?;
    let versions = abi::sev_info_min_version(answer)..=abi::sev_info_max_version(answer);
    Ok(SevInfo {
        c_bit: abi::sev_info_c_bit(answer),
        has_version_2: versions.contains(&PROTOCOL_VERSION_2),
    })
}

/// Asks what the host can do.
pub(crate) fn features(exchange: &mut impl Exchange) -> Result<HypervisorFeatures, HostError> {
    let request = abi::word(Code::FEATURES_REQUEST, 0);
    ask(exchange, request, Code::FEATURES_RESPONSE).map(abi::features)
}

/// Asks the host to make one page shared.
pub(crate) fn share_page(exchange: &mut impl Exchange, gpa: u64) -> Result<(), HostError> {
    let request = abi::page_state_request(gpa, PscOperation::SHARED);
    let answer = ask(exchange, request, Code::PAGE_STATE_RESPONSE)?;
    if answer != abi::page_state_response(0) {
        return Err(HostError::MsrProtocol { request, answer });
    }
    Ok(())
}

/// Registers the page at `gpa` as GHCB.
pub(crate) fn register_ghcb(exchange: &mut impl Exchange, gpa: u64) -> Result<(), HostError> {
    let request = abi::register_request(gpa);
    let answer = ask(exchange, request, Code::REGISTER_RESPONSE)?;
    if answer != abi::register_response(gpa) {
        return Err(HostError::MsrProtocol { request, answer });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_must_lie_in_the_offered_range() {
        for (max, min, expected) in [(2, 1, true), (3, 2, true), (1, 1, false), (4, 3, false)] {
            let info = sev_info(&mut |request| {
                assert_eq!(request, 2);
                abi::sev_info(max, min, 51)
            });
            let expected = SevInfo {
                c_bit: 51,
                has_version_2: expected,
            };
            assert_eq!(info, Ok(expected));
        }
    }

    #[test]
    fn an_answer_to_something_else_is_a_lie() {
        for answer in [0, 0x81, u64::MAX] {
            assert!(sev_info(&mut |_| answer).is_err());
            assert!(share_page(&mut |_| answer, 0x5000).is_err());
            assert!(register_ghcb(&mut |_| answer, 0x5000).is_err());
        }
        assert!(features(&mut |_| 0x80).is_err());
    }

    #[test]
    fn features_are_taken_as_they_come() {
        let offered = HypervisorFeatures::SNP | HypervisorFeatures::MULTI_VMPL;
        let answer = features(&mut |_| abi::features_response(offered));
        assert_eq!(answer, Ok(offered));
    }

    #[test]
    fn a_page_state_error_or_stray_bits_are_refused() {
        assert_eq!(share_page(&mut |_| 0x15, 0x5000), Ok(()));
        assert!(share_page(&mut |_| 1 << 32 | 0x15, 0x5000).is_err());
        assert!(share_page(&mut |_| 1 << 12 | 0x15, 0x5000).is_err());
    }

    #[test]
    fn a_ghcb_registered_elsewhere_is_refused() {
        assert_eq!(register_ghcb(&mut |_| 0x5013, 0x5000), Ok(()));
        assert!(register_ghcb(&mut |_| 0x6013, 0x5000).is_err());
    }
}
