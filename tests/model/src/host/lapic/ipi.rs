//! Interrupt messages between APICs: the interrupt command register (APM vol. 2, 16.5) and messages of an IOAPIC.

use crate::host::ioapic::Delivery;

/// Delivery mode of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// A vector.
    Fixed,
    /// A vector for one of several; here every one addressed is a candidate and the host picks.
    LowestPriority,
    /// SMI.
    Smi,
    /// NMI.
    Nmi,
    /// INIT.
    Init,
    /// Start-up.
    Startup,
    /// Reserved, or external.
    Other(u8),
}

impl DeliveryMode {
    const fn decode(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            other => Self::Other(other),
        }
    }
}

/// Whom a message is for, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// See the destination.
    None,
    /// The sender.
    Own,
    /// Everyone.
    All,
    /// Everyone but the sender.
    Others,
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// The vector.
    pub vector: u8,
    /// The mode.
    pub mode: DeliveryMode,
    /// Whether the destination is logical.
    pub logical: bool,
    /// Whether a level is asserted (INIT level de-assert is ignored).
    pub assert: bool,
    /// Whether an EOI goes back to an IOAPIC.
    pub level: bool,
    /// The shorthand.
    pub shorthand: Shorthand,
    /// APIC ID, or logical destination; all ones is everyone.
    pub destination: u32,
}

impl Ipi {
    /// What a device's message makes of itself at the APIC it reached.
    #[must_use]
    pub const fn message(vector: u8) -> Self {
        Self {
            vector,
            mode: DeliveryMode::Fixed,
            logical: false,
            assert: true,
            level: false,
            shorthand: Shorthand::Own,
            destination: 0,
        }
    }

    /// Decodes an x2APIC interrupt command (APM vol. 2, 16.13.1): destination in the upper half.
    #[must_use]
    pub const fn from_icr(icr: u64) -> Self {
        let [vector, mode, flags, _, a, b, c, d] = icr.to_le_bytes();
        Self {
            vector,
            mode: DeliveryMode::decode(mode),
            logical: mode & 1 << 3 != 0,
            assert: mode & 1 << 6 != 0,
            level: false,
            shorthand: match (flags >> 2) & 3 {
                0 => Shorthand::None,
                1 => Shorthand::Own,
                2 => Shorthand::All,
                _ => Shorthand::Others,
            },
            destination: u32::from_le_bytes([a, b, c, d]),
        }
    }

    /// Decodes an xAPIC interrupt command: destination in the top byte, 0xFF is everyone.
    #[must_use]
    pub const fn from_xapic_icr(low: u32, high: u32) -> Self {
        let destination = match high >> 24 {
            0xFF => u32::MAX as u64,
            destination => destination as u64,
        };
        Self::from_icr(destination << 32 | low as u64)
    }
}

impl From<Delivery> for Ipi {
    /// An IOAPIC's eight-bit destination: 0xFF is everyone.
    fn from(delivery: Delivery) -> Self {
        Self {
            vector: delivery.vector,
            mode: DeliveryMode::decode(delivery.mode),
            logical: delivery.logical,
            assert: true,
            level: delivery.level,
            shorthand: Shorthand::None,
            destination: match delivery.destination {
                0xFF => u32::MAX,
                destination => u32::from(destination),
            },
        }
    }
}
