//! What waits for more of its kind between a guest's driver and a host's disk: completions for one interrupt, requests for one notification.
//!
//! Entering and leaving the guest costs more than what there is to do for a small request. So completions wait for each other
//! ([`awaited`]), and a driver with several requests at a time is not asked to notify when none is on its way: it puts them into the ring,
//! halts, and the halt finds all of them ([`Pace`]). Nobody waits for long: what gathers is looked at soon
//! ([`super::Engine::gathers`]).

use stockade_backend::block::Block;
use stockade_backend::shared::AnyShared;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::blk::{Blk, Listening};

/// As many completions are waited for together.
const FEW: u16 = 4;
/// Requests between two trials, at first and at most.
const FIRST_SPAN: u16 = 64;
const LONGEST_SPAN: u16 = 4096;
/// So many looks in a row that found one request, or came too late, and the driver is asked to notify again.
const PATIENCE: u8 = 4;

/// Whether a round left anything for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Something came meanwhile, and nobody will signal it.
    Came,
    /// No: who has something says so.
    Quiet,
}

/// What an engine has gathered, and waits for.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    pace: Pace,
    /// How many of the host's requests are to be over before it signals.
    awaited: u16,
    /// Requests of the guest taken in this round, and on their way before it.
    taken: usize,
    before: usize,
}

impl Gathering {
    /// Notes that the next turn is a look nobody but the clock asked for.
    pub(super) fn late(&mut self) {
        self.pace.is_late = true;
    }

    /// Begins a round of taking requests and ending them. What the host does meanwhile it need not signal: the end of the round, or
    /// the turn after it, looks.
    pub(super) fn begin_round(&mut self, blk: &Blk, block: &mut Block<AnyShared>) {
        (self.taken, self.before) = (0, blk.in_flight());
        block.hush();
    }

    /// Notes that a request was taken from the guest.
    pub(super) fn took_one(&mut self) {
        self.taken += 1;
    }

    /// Asks host and driver to tell of what comes next, as far as nothing brings the engine back anyway.
    pub(super) fn end_round(
        &mut self,
        blk: &mut Blk,
        memory: &dyn GuestMemory,
        block: &mut Block<AnyShared>,
    ) -> Rest {
        let in_flight = blk.in_flight();
        let wish = self.pace.end_round(Did {
            taken: self.taken,
            ended: (self.before + self.taken).saturating_sub(in_flight),
            in_flight,
        });
        let has_heard = wish == Wish::Notify && blk.listen(memory) == Listening::FromNow;
        self.awaited = awaited(block.in_flight());
        if block.listen_for(self.awaited) || has_heard {
            return Rest::Came;
        }
        Rest::Quiet
    }

    /// Returns whether the engine is to be looked at soon, though nobody signals.
    pub(super) fn is_due_soon(&self, blk: &Blk) -> bool {
        self.awaited > 1 || !blk.is_listening()
    }

    /// Returns how many of the host's requests are to be over for the next turn.
    pub(super) fn awaited(&self) -> u16 {
        self.awaited
    }
}

/// Returns how many of `in_flight` requests are to be over before the host signals: all of a few, half of many, so that it is never
/// without work.
fn awaited(in_flight: u16) -> u16 {
    in_flight.min(FEW).max(in_flight / 2).max(1)
}

/// Whether the driver is asked to notify of the next request when none is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// It is.
    Notify,
    /// Whoever looks soon finds it.
    Gather,
}

/// What a round of the engine did.
#[derive(Clone, Copy, Debug)]
struct Did {
    /// Requests taken from the guest.
    taken: usize,
    /// Requests ended.
    ended: usize,
    /// Requests on their way.
    in_flight: usize,
}

/// How the driver goes about its requests, learned from what a look finds.
///
/// Now and then it is not asked to notify, on trial. Two requests or more in the ring before the vCPU halts say that it has several at a
/// time; one says that it waits for each, and a look that came too late that the guest has other things to do. Both shall have
/// their requests with the host at once: a host that is quick has answered before the exit that notified is over.
#[derive(Debug)]
struct Pace {
    gathers: bool,
    /// Requests until the next trial.
    left: u16,
    /// Between this trial and the next.
    span: u16,
    /// Looks in a row that found one request, or came too late.
    poor: u8,
    /// The driver was not asked.
    is_unasked: bool,
    is_late: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            gathers: false,
            left: FIRST_SPAN,
            span: FIRST_SPAN,
            poor: 0,
            is_unasked: false,
            is_late: false,
        }
    }
}

impl Pace {
    /// Ends a round.
    fn end_round(&mut self, did: Did) -> Wish {
        let is_late = core::mem::take(&mut self.is_late);
        if core::mem::take(&mut self.is_unasked) && did.taken > 0 {
            self.judge(did.taken, is_late);
        } else {
            let taken = u16::try_from(did.taken).unwrap_or(u16::MAX);
            self.left = self.left.saturating_sub(taken);
        }
        // Who has just been given something asks for the next thing soon; else the next request may be an hour away.
        let may_gather = did.ended > 0 && did.in_flight == 0;
        if may_gather && (self.gathers || self.left == 0) {
            self.is_unasked = true;
            return Wish::Gather;
        }
        Wish::Notify
    }

    fn judge(&mut self, taken: usize, is_late: bool) {
        if taken > 1 && !is_late {
            *self = Self {
                gathers: true,
                left: 0,
                ..Self::default()
            };
            return;
        }
        self.poor = self.poor.saturating_add(1);
        // Other vCPUs halt, too, and a guest may be kept from running for a moment.
        if !self.gathers || self.poor >= PATIENCE {
            let span = (self.span * 2).min(LONGEST_SPAN);
            *self = Self {
                left: span,
                span,
                ..Self::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Did, FIRST_SPAN, PATIENCE, Pace, Wish, awaited};

    /// A turn that took so many and ended all there were.
    fn turn(pace: &mut Pace, taken: usize) -> Wish {
        pace.end_round(Did {
            taken,
            ended: 1,
            in_flight: 0,
        })
    }

    /// The same, by a look that nothing but the clock brought.
    fn late_turn(pace: &mut Pace, taken: usize) -> Wish {
        pace.is_late = true;
        turn(pace, taken)
    }

    /// A driver of which the next look finds several requests, each time.
    fn gathering() -> Pace {
        let mut pace = Pace::default();
        while turn(&mut pace, 1) == Wish::Notify {}
        assert_eq!(turn(&mut pace, 2), Wish::Gather);
        pace
    }

    /// Requests until the next trial.
    fn span(pace: &mut Pace) -> usize {
        (1..).find(|_| turn(pace, 1) == Wish::Gather).unwrap()
    }

    #[test]
    fn a_lone_request_is_told_of_at_once_and_of_many_half() {
        let pairs = [
            (0, 1),
            (1, 1),
            (2, 2),
            (4, 4),
            (5, 4),
            (9, 4),
            (10, 5),
            (128, 64),
        ];
        for (in_flight, expected) in pairs {
            assert_eq!(awaited(in_flight), expected, "{in_flight}");
        }
    }

    #[test]
    fn a_driver_that_waits_for_each_request_notifies_of_all_but_a_few() {
        let mut pace = Pace::default();
        assert_eq!(span(&mut pace), usize::from(FIRST_SPAN));
        for factor in [2, 4, 8, 16, 32, 64, 64, 64] {
            // The request of the trial itself is one of them.
            assert_eq!(turn(&mut pace, 1), Wish::Notify);
            assert_eq!(span(&mut pace), factor * usize::from(FIRST_SPAN));
        }
    }

    #[test]
    fn a_driver_with_several_requests_at_a_time_is_not_asked_any_more() {
        let mut pace = gathering();
        for _ in 0..1000 {
            assert_eq!(turn(&mut pace, 4), Wish::Gather);
        }
    }

    /// Other vCPUs halt, too, and look before the driver has put all into the ring.
    #[test]
    fn lone_requests_now_and_then_change_nothing_and_some_in_a_row_do() {
        let mut pace = gathering();
        for taken in [1, 1, 1, 2, 1, 1, 1, 3] {
            assert_eq!(turn(&mut pace, taken), Wish::Gather);
        }
        for _ in 1..PATIENCE {
            assert_eq!(turn(&mut pace, 1), Wish::Gather);
        }
        assert_eq!(turn(&mut pace, 1), Wish::Notify);
    }

    /// The host has its processor taken away now and then: one such moment shall not cost thousands of exits.
    #[test]
    fn late_looks_now_and_then_change_nothing_and_some_in_a_row_do() {
        let mut pace = gathering();
        for _ in 1..PATIENCE {
            assert_eq!(late_turn(&mut pace, 3), Wish::Gather);
        }
        assert_eq!(turn(&mut pace, 4), Wish::Gather);
        for _ in 1..PATIENCE {
            assert_eq!(late_turn(&mut pace, 3), Wish::Gather);
        }
        assert_eq!(late_turn(&mut pace, 3), Wish::Notify);
    }

    #[test]
    fn a_guest_with_other_things_to_do_is_asked_to_notify_after_one_trial() {
        let mut pace = Pace::default();
        while turn(&mut pace, 1) == Wish::Notify {}
        assert_eq!(late_turn(&mut pace, 4), Wish::Notify);
    }

    /// A disk nobody uses would be looked at for ever.
    #[test]
    fn a_look_that_finds_nothing_has_the_driver_asked() {
        let mut pace = gathering();
        let nothing = Did {
            taken: 0,
            ended: 0,
            in_flight: 0,
        };
        pace.is_late = true;
        assert_eq!(pace.end_round(nothing), Wish::Notify);
        // It still is a driver with several.
        assert_eq!(turn(&mut pace, 4), Wish::Gather);
    }

    #[test]
    fn while_requests_are_on_their_way_their_end_is_who_looks() {
        let mut pace = gathering();
        let did = Did {
            taken: 4,
            ended: 2,
            in_flight: 2,
        };
        assert_eq!(pace.end_round(did), Wish::Notify);
    }
}
