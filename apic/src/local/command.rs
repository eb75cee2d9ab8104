//! The interrupt command register: IPIs on their way out (SDM 10.6 and 10.12.9).

use super::address::Address;
use super::registers::{Command, Errors};
use super::{Effect, LocalApic};
use crate::msi::{DeliveryMode, DestinationMode, Trigger, widen};

/// Who shall receive an IPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpiDestination {
    /// Those this destination names; eight-bit broadcasts are widened as in [`Message`](crate::Message).
    To(DestinationMode, u32),
    /// Every local APIC, the sender's included.
    All,
    /// Every local APIC but the sender's.
    AllButSender,
}

/// An inter-processor interrupt. Always edge-triggered (SDM table 10-3: the trigger mode bit is for the INIT de-assertion only,
/// which has no effect since the Pentium 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// The APIC ID it comes from.
    pub sender: u32,
    /// Who shall receive it.
    pub destination: IpiDestination,
    /// What the receivers do with it.
    pub delivery: DeliveryMode,
    /// The vector, or the page number of a start-up IPI.
    pub vector: u8,
}

impl Ipi {
    /// Returns whether `receiver` is named.
    #[must_use]
    pub fn matches(&self, receiver: &Address) -> bool {
        match self.destination {
            IpiDestination::To(mode, destination) => receiver.matches(mode, destination),
            IpiDestination::All => receiver.is_enabled,
            IpiDestination::AllButSender => receiver.is_enabled && receiver.id != self.sender,
        }
    }
}

impl LocalApic {
    /// Sends what the command register says.
    ///
    /// Delivery modes 3 and 7 are reserved here. Of the combinations that table 10-5 of the SDM calls invalid, INIT and start-up
    /// with a shorthand that includes the sender do nothing; the others do what their parts say, as other virtual machines do.
    pub(super) fn send_command(&mut self) -> Effect {
        let command = self.command;
        let delivery = match DeliveryMode::from_bits(command.delivery()) {
            None | Some(DeliveryMode::ExtInt) => return Effect::None,
            Some(DeliveryMode::Init) if command.is_level() && !command.is_asserted() => {
                return Effect::None;
            }
            Some(delivery) => delivery,
        };
        if delivery.has_vector() && command.vector() < 16 {
            self.log_error(Errors::new().with_sent_illegal_vector(true));
            return Effect::None;
        }
        let starts = matches!(delivery, DeliveryMode::Init | DeliveryMode::StartUp);
        let destination = match command.shorthand() {
            Command::TO_DESTINATION => self.command_destination(),
            Command::TO_SELF | Command::TO_ALL if starts => return Effect::None,
            Command::TO_SELF if delivery.has_vector() => {
                self.request_external(command.vector(), Trigger::Edge);
                return Effect::None;
            }
            Command::TO_SELF => IpiDestination::To(DestinationMode::Physical, self.own_id()),
            Command::TO_ALL => IpiDestination::All,
            _ => IpiDestination::AllButSender,
        };
        Effect::Ipi(Ipi {
            sender: self.config.id,
            destination,
            delivery,
            vector: command.vector(),
        })
    }

    /// Sends to itself, as the x2APIC SELF IPI register does (SDM 10.12.11).
    pub(crate) fn send_to_self(&mut self, vector: u8) {
        if vector < 16 {
            self.log_error(Errors::new().with_sent_illegal_vector(true));
        } else {
            self.request_external(vector, Trigger::Edge);
        }
    }

    fn command_destination(&self) -> IpiDestination {
        let mode = DestinationMode::from(self.command.is_logical());
        let destination = self.command.destination();
        if self.base.is_x2apic() {
            IpiDestination::To(mode, destination)
        } else {
            IpiDestination::To(mode, widen(destination >> 24, mode))
        }
    }

    fn own_id(&self) -> u32 {
        if self.base.is_x2apic() {
            self.config.id
        } else {
            self.config.id & 0xFF
        }
    }
}
