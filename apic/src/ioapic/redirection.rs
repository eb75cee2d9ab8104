//! An entry of the IOAPIC's redirection table.

use bitfield_struct::bitfield;

use crate::msi::{DeliveryMode, DestinationMode, Message, Trigger, widen};

/// A redirection table entry (82093AA, 3.2.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Redirection {
    pub(super) vector: u8,
    #[bits(3)]
    delivery: u8,
    is_logical: bool,
    __is_busy: bool,
    is_active_low: bool,
    /// Only where the entry is read: [`IoApic`](super::IoApic) keeps it apart.
    pub(super) remote_irr: bool,
    is_level: bool,
    pub(super) is_masked: bool,
    #[bits(39)]
    __reserved: u64,
    destination: u8,
}

impl Redirection {
    pub(super) const RESET: Self = Self::new().with_is_masked(true);
    pub(super) const WRITABLE: u64 = Self::new()
        .with_vector(0xFF)
        .with_delivery(7)
        .with_is_logical(true)
        .with_is_active_low(true)
        .with_is_level(true)
        .with_is_masked(true)
        .with_destination(0xFF)
        .into_bits();

    /// Returns whether the pin is level-triggered; only vectors are, whatever the bit says (82093AA, 3.2.4, delivery mode).
    pub(super) fn is_level_triggered(self) -> bool {
        self.is_level()
            && DeliveryMode::from_bits(self.delivery()).is_some_and(DeliveryMode::has_vector)
    }

    /// Returns the message a pin sends, `None` for the reserved delivery modes.
    pub(super) fn message(self) -> Option<Message> {
        let mode = DestinationMode::from(self.is_logical());
        let delivery = DeliveryMode::from_bits(self.delivery())?;
        (delivery != DeliveryMode::StartUp).then(|| Message {
            destination: widen(u32::from(self.destination()), mode),
            mode,
            vector: self.vector(),
            trigger: Trigger::from(self.is_level_triggered()),
            delivery,
        })
    }
}
