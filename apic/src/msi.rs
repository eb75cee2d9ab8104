//! Interrupt messages: what an MSI write, an IOAPIC pin or an IPI puts on the bus (SDM 10.11, APM vol. 2, 16.11).
//!
//! Start from [`Message`]; [`route`](crate::route) brings it to the vCPUs it names.

/// The destination that names every APIC, in physical as in logical mode.
pub const BROADCAST: u32 = 0xFFFF_FFFF;

/// The destination that names every APIC where destinations have eight bits.
const BROADCAST_8: u32 = 0xFF;

/// What the receiver does with a message (SDM 10.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector, at each receiver named.
    Fixed,
    /// The vector, at one of the receivers named.
    LowestPriority,
    /// A system management interrupt.
    Smi,
    /// A non-maskable interrupt; the vector means nothing.
    Nmi,
    /// An INIT.
    Init,
    /// A start-up IPI; the vector is the page the receiver starts in.
    StartUp,
    /// An interrupt whose vector the 8259 pair gives.
    ExtInt,
}

impl DeliveryMode {
    /// Returns the mode of a three-bit field, `None` for the reserved one.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => return None,
        })
    }

    /// Returns whether the mode delivers a vector into IRR.
    #[must_use]
    pub const fn has_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// How a destination is read (SDM 10.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationMode {
    /// It is an APIC ID.
    Physical,
    /// It is a message destination address, compared with each LDR.
    Logical,
}

impl From<bool> for DestinationMode {
    fn from(is_logical: bool) -> Self {
        if is_logical {
            Self::Logical
        } else {
            Self::Physical
        }
    }
}

/// Whether an EOI matters to the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// An event: sent once.
    #[default]
    Edge,
    /// A state: the EOI is broadcast to the IOAPICs, which send again while it lasts.
    Level,
}

impl From<bool> for Trigger {
    fn from(is_level: bool) -> Self {
        if is_level { Self::Level } else { Self::Edge }
    }
}

/// An interrupt message on its way to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who shall receive it. An eight-bit physical 0xFF was widened to [`BROADCAST`].
    pub destination: u32,
    /// How to read the destination.
    pub mode: DestinationMode,
    /// The vector, where the delivery mode has one.
    pub vector: u8,
    /// Edge or level.
    pub trigger: Trigger,
    /// What the receivers do with it.
    pub delivery: DeliveryMode,
}

impl Message {
    /// Decodes a device's memory write: `None` if it is no MSI, or one that has no effect (a reserved delivery mode, the
    /// de-assertion of a level).
    ///
    /// The redirection hint turns a fixed message to a logical destination into one for the lowest priority (SDM 10.11.1).
    #[must_use]
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xFEE {
            return None;
        }
        let [low, middle, high, _] = u32::try_from(address).ok()?.to_le_bytes();
        let destination = u32::from(high & 0xF) << 4 | u32::from(middle >> 4);
        let mode = DestinationMode::from(low & 1 << 2 != 0);
        let is_redirected = low & 1 << 3 != 0 && mode == DestinationMode::Logical;
        let [vector, flags, ..] = data.to_le_bytes();
        let trigger = Trigger::from(flags & 1 << 7 != 0);
        if trigger == Trigger::Level && flags & 1 << 6 == 0 {
            return None;
        }
        let delivery = match DeliveryMode::from_bits(flags & 7)? {
            DeliveryMode::StartUp => return None,
            DeliveryMode::Fixed if is_redirected => DeliveryMode::LowestPriority,
            other => other,
        };
        Some(Self {
            destination: widen(destination, mode),
            mode,
            vector,
            trigger,
            delivery,
        })
    }
}

/// Returns an eight-bit destination as one of 32 bits. Physical 0xFF means everybody; logical 0xFF stays, since an APIC in
/// x2APIC mode reads it as eight members of cluster 0.
pub(crate) fn widen(destination: u32, mode: DestinationMode) -> u32 {
    if destination == BROADCAST_8 && mode == DestinationMode::Physical {
        BROADCAST
    } else {
        destination
    }
}

/// Where messages go: the wiring, which routes them to the vCPUs.
pub trait MessageSink {
    /// Sends a message on its way.
    fn send(&self, message: Message);
}

impl<T: MessageSink + ?Sized> MessageSink for &T {
    fn send(&self, message: Message) {
        (**self).send(message);
    }
}

#[cfg(test)]
mod tests {
    use super::{BROADCAST, DeliveryMode, DestinationMode, Message, Trigger};

    #[test]
    fn stock_linux_msi_is_fixed_edge_to_a_logical_destination() {
        assert_eq!(
            Message::from_msi(0xFEE0_2004, 0x0000_4026),
            Some(Message {
                destination: 2,
                mode: DestinationMode::Logical,
                vector: 0x26,
                trigger: Trigger::Edge,
                delivery: DeliveryMode::Fixed,
            })
        );
    }

    #[test]
    fn physical_ff_is_everybody_and_logical_ff_is_a_mask() {
        let physical = Message::from_msi(0xFEEF_F000, 0x40).unwrap();
        assert_eq!(physical.destination, BROADCAST);
        let logical = Message::from_msi(0xFEEF_F004, 0x40).unwrap();
        assert_eq!(logical.destination, 0xFF);
    }

    #[test]
    fn redirection_hint_asks_for_one_receiver_of_a_logical_group() {
        let hinted = Message::from_msi(0xFEE0_300C, 0x40).unwrap();
        assert_eq!(hinted.delivery, DeliveryMode::LowestPriority);
        let physical = Message::from_msi(0xFEE0_3008, 0x40).unwrap();
        assert_eq!(physical.delivery, DeliveryMode::Fixed);
    }

    #[test]
    fn writes_that_are_no_msi_decode_to_nothing() {
        assert_eq!(Message::from_msi(0xFED0_0000, 0x40), None);
        assert_eq!(Message::from_msi(0x1_FEE0_0000, 0x40), None);
        assert_eq!(
            Message::from_msi(0xFEE0_0000, 0x0340),
            None,
            "reserved mode"
        );
        assert_eq!(Message::from_msi(0xFEE0_0000, 0x0640), None, "start-up");
        assert_eq!(
            Message::from_msi(0xFEE0_0000, 0x8040),
            None,
            "level de-assert"
        );
    }

    #[test]
    fn asserted_level_msi_is_level_triggered() {
        let message = Message::from_msi(0xFEE0_1000, 0xC040).unwrap();
        assert_eq!(message.trigger, Trigger::Level);
        assert_eq!(message.destination, 1);
    }
}
