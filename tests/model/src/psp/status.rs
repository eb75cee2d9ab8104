//! Status codes of the firmware.

/// Why the firmware refused (SNP ABI 6, table 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Status {
    /// A length is wrong.
    #[error("INVALID_LENGTH: a length is wrong")]
    InvalidLength,
    /// The platform does not satisfy the policy.
    #[error("POLICY_FAILURE: the platform does not satisfy the guest's policy")]
    PolicyFailure,
    /// An address is wrong.
    #[error("INVALID_ADDRESS: an address is wrong")]
    InvalidAddress,
    /// A signature is wrong.
    #[error("BAD_SIGNATURE: a signature is wrong")]
    BadSignature,
    /// A digest or an authentication tag is wrong.
    #[error("BAD_MEASUREMENT: a digest or an authentication tag is wrong")]
    BadMeasurement,
    /// Not supported.
    #[error("UNSUPPORTED: not supported")]
    Unsupported,
    /// A parameter is wrong.
    #[error("INVALID_PARAM: a parameter is wrong")]
    InvalidParam,
    /// The message counter is used up.
    #[error("AEAD_OFLOW: the message counter is used up")]
    AeadOverflow,
}

impl Status {
    /// Returns the firmware's number.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::InvalidLength => 0x04,
            Self::PolicyFailure => 0x07,
            Self::InvalidAddress => 0x09,
            Self::BadSignature => 0x0A,
            Self::BadMeasurement => 0x0B,
            Self::Unsupported => 0x15,
            Self::InvalidParam => 0x16,
            Self::AeadOverflow => 0x1D,
        }
    }
}
