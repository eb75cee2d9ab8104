//! From a message to the mailboxes of the vCPUs it names (SDM 10.6.2).
//!
//! A lowest-priority message goes to one of its receivers, chosen by its vector: which one is the chipset's affair (SDM 10.6.2.4),
//! and priorities of other vCPUs cannot be read without stopping them.

use core::borrow::Borrow;

use crate::local::{Address, Ipi};
use crate::mailbox::Mailbox;
use crate::msi::{DeliveryMode, DestinationMode, Message, Trigger};

/// Posts a message to all it names; `wake` gets the index of each mailbox whose owner must be made to look.
pub fn send_message<M: Borrow<Mailbox>>(
    mailboxes: &[M],
    message: &Message,
    wake: impl FnMut(usize),
) {
    let parcel = Parcel {
        delivery: message.delivery,
        vector: message.vector,
        trigger: message.trigger,
    };
    let (mode, destination) = (message.mode, message.destination);
    let mut wake = wake;
    if mode == DestinationMode::Physical
        && let Ok(index) = usize::try_from(destination)
        && let Some(mailbox) = mailboxes.get(index)
        && mailbox.borrow().address().id() == destination
    {
        // The usual case: APIC IDs count from zero, as the mailboxes do.
        parcel.post(
            index,
            mailbox.borrow(),
            |a| a.matches(mode, destination),
            &mut wake,
        );
        return;
    }
    send(mailboxes, &parcel, |a| a.matches(mode, destination), wake);
}

/// Posts an IPI to all it names, as [`send_message`] does.
pub fn send_ipi<M: Borrow<Mailbox>>(mailboxes: &[M], ipi: &Ipi, wake: impl FnMut(usize)) {
    let parcel = Parcel {
        delivery: ipi.delivery,
        vector: ipi.vector,
        trigger: Trigger::Edge,
    };
    send(mailboxes, &parcel, |address| ipi.matches(address), wake);
}

/// What each receiver gets.
struct Parcel {
    delivery: DeliveryMode,
    vector: u8,
    trigger: Trigger,
}

impl Parcel {
    /// Returns whether the receiver at `address` takes it at all.
    fn is_for(&self, address: &Address, is_named: impl Fn(&Address) -> bool) -> bool {
        is_named(address) && (address.accepts_vectors() || !self.delivery.has_vector())
    }

    fn post(
        &self,
        index: usize,
        mailbox: &Mailbox,
        is_named: impl Fn(&Address) -> bool,
        wake: &mut impl FnMut(usize),
    ) {
        if self.is_for(&mailbox.address(), is_named)
            && mailbox.post(self.delivery, self.vector, self.trigger)
        {
            wake(index);
        }
    }
}

fn send<M: Borrow<Mailbox>>(
    mailboxes: &[M],
    parcel: &Parcel,
    is_named: impl Fn(&Address) -> bool,
    mut wake: impl FnMut(usize),
) {
    if parcel.delivery != DeliveryMode::LowestPriority {
        for (index, mailbox) in mailboxes.iter().enumerate() {
            parcel.post(index, mailbox.borrow(), &is_named, &mut wake);
        }
        return;
    }
    let receivers = || {
        mailboxes
            .iter()
            .enumerate()
            .filter(|(_, mailbox)| parcel.is_for(&(*mailbox).borrow().address(), &is_named))
    };
    let turn = usize::from(parcel.vector).checked_rem(receivers().count());
    // The second pass may find fewer, if one was switched off meanwhile: then the message finds nobody, as on the bus.
    if let Some((index, mailbox)) = turn.and_then(|turn| receivers().nth(turn)) {
        parcel.post(index, mailbox.borrow(), &is_named, &mut wake);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{send_ipi, send_message};
    use crate::local::tests::{apic, enabled};
    use crate::local::{Ipi, IpiDestination, LocalEvent};
    use crate::mailbox::Mailbox;
    use crate::msi::{BROADCAST, DeliveryMode, DestinationMode, Message, Trigger};

    fn four() -> [Mailbox; 4] {
        [0, 1, 2, 3].map(|id| {
            let mailbox = Mailbox::new();
            enabled(id).publish(&mailbox);
            mailbox
        })
    }

    fn to(destination: u32, delivery: DeliveryMode) -> Message {
        Message {
            destination,
            mode: DestinationMode::Physical,
            vector: 0x41,
            trigger: Trigger::Edge,
            delivery,
        }
    }

    fn woken(mailboxes: &[Mailbox], message: &Message) -> Vec<usize> {
        let mut woken = Vec::new();
        send_message(mailboxes, message, |index| woken.push(index));
        woken
    }

    #[test]
    fn physical_message_reaches_the_one_it_names() {
        let mailboxes = four();
        assert_eq!(woken(&mailboxes, &to(2, DeliveryMode::Fixed)), [2]);
        assert_eq!(woken(&mailboxes, &to(4, DeliveryMode::Fixed)), []);
    }

    #[test]
    fn physical_message_finds_ids_that_are_no_indices() {
        let mailboxes = [7, 9].map(|id| {
            let mailbox = Mailbox::new();
            enabled(id).publish(&mailbox);
            mailbox
        });
        assert_eq!(woken(&mailboxes, &to(9, DeliveryMode::Fixed)), [1]);
    }

    #[test]
    fn broadcast_reaches_all() {
        assert_eq!(
            woken(&four(), &to(BROADCAST, DeliveryMode::Fixed)),
            [0, 1, 2, 3]
        );
    }

    #[test]
    fn lowest_priority_reaches_exactly_one_whatever_the_vector() {
        for vector in 16..=255 {
            let message = Message {
                vector,
                ..to(BROADCAST, DeliveryMode::LowestPriority)
            };
            assert_eq!(woken(&four(), &message).len(), 1);
        }
    }

    #[test]
    fn second_message_to_the_same_vcpu_needs_no_second_wake() {
        let mailboxes = four();
        assert_eq!(woken(&mailboxes, &to(1, DeliveryMode::Fixed)), [1]);
        assert_eq!(woken(&mailboxes, &to(1, DeliveryMode::Nmi)), []);
    }

    #[test]
    fn software_disabled_apic_gets_events_but_no_vectors() {
        let mailboxes = [Mailbox::new()];
        apic(0).publish(&mailboxes[0]);
        assert_eq!(woken(&mailboxes, &to(0, DeliveryMode::Fixed)), []);
        assert_eq!(
            woken(&mailboxes, &to(BROADCAST, DeliveryMode::LowestPriority)),
            []
        );
        assert_eq!(woken(&mailboxes, &to(0, DeliveryMode::Nmi)), [0]);
    }

    #[test]
    fn all_but_sender_leaves_the_sender_out() {
        let mailboxes = four();
        let ipi = Ipi {
            sender: 1,
            destination: IpiDestination::AllButSender,
            delivery: DeliveryMode::Init,
            vector: 0,
        };
        let mut woken = Vec::new();
        send_ipi(&mailboxes, &ipi, |index| woken.push(index));
        assert_eq!(woken, [0, 2, 3]);
        let events: Vec<_> = enabled(0).deliver_remote(&mailboxes[0]).collect();
        assert_eq!(events, [LocalEvent::Init]);
    }
}
