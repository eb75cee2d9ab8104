//! Why a saved state was refused.

/// Why a saved state was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The state was written by another version of the format.
    #[error("saved state has version {found}, expected {expected}")]
    Version {
        /// The version it says it has.
        found: u32,
        /// The version this code writes.
        expected: u32,
    },
    /// The state is that of another APIC.
    #[error("saved state belongs to APIC {0:#x}")]
    Identity(u32),
    /// A register holds a value that no sequence of guest writes can produce.
    #[error("saved register {0:?} holds an impossible value")]
    Register(Register),
}

/// The register a saved state got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// IA32_APIC_BASE.
    Base,
    /// Task priority.
    TaskPriority,
    /// Spurious interrupt vector.
    Spurious,
    /// Logical destination or destination format.
    LogicalDestination,
    /// ISR, IRR or TMR.
    Vectors,
    /// Error status.
    ErrorStatus,
    /// Interrupt command.
    Command,
    /// A local vector table entry.
    LocalVector,
    /// Timer counts, divisor or deadline.
    Timer,
    /// Wires and latches.
    Wires,
    /// An IOAPIC redirection entry.
    Redirection,
    /// IOAPIC index or identity.
    Identity,
    /// Priority, initialisation or read state of an 8259.
    Sequence,
    /// Edge/level control of an 8259.
    EdgeLevel,
}

/// Returns an error unless `found` is `expected`.
pub(crate) fn check_version(found: u32, expected: u32) -> Result<(), RestoreError> {
    if found == expected {
        Ok(())
    } else {
        Err(RestoreError::Version { found, expected })
    }
}

/// Returns an error naming `register` unless `holds`.
pub(crate) fn check(holds: bool, register: Register) -> Result<(), RestoreError> {
    if holds {
        Ok(())
    } else {
        Err(RestoreError::Register(register))
    }
}
