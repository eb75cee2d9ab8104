//! What a host's device can do wrong, each with a number that logs and figures keep.

use crate::host::HostFault;

/// A number for logs and figures. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u8);

/// Why a device is refused or taken offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The host did not carry out an access to the device.
    #[error("the host refused an access to its device")]
    Refused,
    /// A capability or register that cannot be: out of its bounds, or missing.
    #[error("the device's {0} makes no sense")]
    Malformed(&'static str),
    /// The device does not offer what its driver cannot do without.
    #[error("the device lacks {0}")]
    Lacks(&'static str),
    /// The device did not take the features it had offered.
    #[error("the device took back features it had offered")]
    FeaturesRefused,
    /// A queue is not there, or not of the size it was set to.
    #[error("queue {0} is not as it was set up")]
    Queue(u16),
    /// The used index ran ahead of what was posted, or back.
    #[error("used index {found} where at most {limit} is possible")]
    UsedIndex {
        /// What the host wrote.
        found: u16,
        /// The last index there could be.
        limit: u16,
    },
    /// A used element names a descriptor that is not in flight: never posted, or answered before.
    #[error("used id {0} is not in flight")]
    UnknownId(u32),
    /// A used element says more bytes than were posted for writing.
    #[error("{found} bytes written where {posted} were posted")]
    TooLong {
        /// What the host says.
        found: u32,
        /// What it could have written.
        posted: u32,
    },
    /// The device says that it needs a reset, or does not answer at all.
    #[error("the device is gone or broken (status {0:#x})")]
    Gone(u8),
    /// The device is in good order, as far as it says, and does not answer.
    #[error("the device has not answered a request for a minute")]
    Silent,
    /// What the device once said of itself has changed.
    #[error("the device's {0} has changed")]
    Changed(&'static str),
    /// The memory for the device is too small for its queues.
    #[error("too little shared memory for the device")]
    NoMemory,
}

impl BackendError {
    /// Returns the error's number.
    #[must_use]
    pub fn code(&self) -> Code {
        Code(match self {
            Self::Refused => 1,
            Self::Malformed(_) => 2,
            Self::Lacks(_) => 3,
            Self::FeaturesRefused => 4,
            Self::Queue(_) => 5,
            Self::UsedIndex { .. } => 6,
            Self::UnknownId(_) => 7,
            Self::TooLong { .. } => 8,
            Self::Gone(_) => 9,
            Self::Changed(_) => 10,
            Self::NoMemory => 11,
            Self::Silent => 12,
        })
    }
}

impl From<HostFault> for BackendError {
    fn from(_: HostFault) -> Self {
        Self::Refused
    }
}
