//! What saved states have in common.

/// Why a saved state was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The state was written by a version this one does not know.
    #[error("saved state has version {0}, which is not known")]
    Version(u32),
    /// A field holds a value the device can never have.
    #[error("saved state is impossible: {0}")]
    Impossible(&'static str),
}

/// Refuses a state of another version than `known`.
pub(crate) fn check_version(version: u32, known: u32) -> Result<(), RestoreError> {
    if version == known {
        Ok(())
    } else {
        Err(RestoreError::Version(version))
    }
}
