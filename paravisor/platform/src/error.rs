//! What a host can get wrong.

/// Why a call to the host did not succeed. None of it is the guest's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The host answered, by the protocol's rules, that it will not do it.
    #[error("host refused call {code:#x}: info1 {info1:#x}, info2 {info2:#x}")]
    Refused {
        /// The exit code of the call.
        code: u64,
        /// `SW_EXITINFO1` as answered.
        info1: u64,
        /// `SW_EXITINFO2` as answered.
        info2: u64,
    },
    /// The answer breaks the protocol: a missing valid bit, an impossible value, an answer to another question.
    #[error("host lied in call {code:#x}: {what}")]
    Lied {
        /// The exit code of the call.
        code: u64,
        /// What is wrong with the answer.
        what: &'static str,
    },
    /// The caller asked for something no host could do.
    #[error("malformed call {code:#x}")]
    Malformed {
        /// The exit code of the call.
        code: u64,
    },
}
