//! The vCPUs as a crew: who of them is with the guest or asleep, and how they begin and end together.
//!
//! A vCPU that is *here* looks at its mailbox before it goes to the guest or to sleep; one that is *away* must be kicked. So a
//! sender posts and then asks whether its receiver is away ([`Crew::must_kick`]), and a receiver says that it goes and then looks
//! once more ([`Crew::depart`]): one of them sees the other, whatever the order.
//!
//! The guest's life ends for all vCPUs when it ends for one ([`Crew::end_with`]). Between two lives they meet: each reports that
//! it has stopped, the first puts the machine back, each reports that it is ready, and the first gives the word ([`Crew::order`]).

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use stockade_abi::terminate::StopReason;

/// Why the guest no longer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PowerOff,
    /// It asked to start over.
    Reset,
    /// It ended with this status: a test kernel.
    Exit(u8),
    /// It cannot go on.
    Stop(StopReason),
}

impl From<StopReason> for End {
    fn from(reason: StopReason) -> Self {
        Self::Stop(reason)
    }
}

impl End {
    const NONE: u32 = 0;
    const STOP: u32 = 0x100;
    const EXIT: u32 = 0x200;

    fn to_word(self) -> u32 {
        match self {
            Self::PowerOff => 1,
            Self::Reset => 2,
            Self::Exit(status) => Self::EXIT | u32::from(status),
            Self::Stop(reason) => Self::STOP | u32::from(reason.code()),
        }
    }

    fn from_word(word: u32) -> Option<Self> {
        match word {
            Self::NONE => None,
            1 => Some(Self::PowerOff),
            2 => Some(Self::Reset),
            _ => {
                let [code, ..] = word.to_le_bytes();
                Some(if word & Self::EXIT != 0 {
                    Self::Exit(code)
                } else {
                    Self::Stop(StopReason(code))
                })
            }
        }
    }
}

/// One vCPU's own words, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Seat {
    is_away: AtomicBool,
    is_called: AtomicBool,
}

/// What all vCPUs know of each other.
#[derive(Debug)]
pub struct Crew {
    seats: Box<[Seat]>,
    /// The end of the guest's life, as a word.
    end: AtomicU32,
    /// How many orders the first vCPU has given.
    orders: AtomicU32,
    /// How many others have reported since the last order.
    reports: AtomicUsize,
}

impl Crew {
    /// Returns a crew of `vcpus` that are all here.
    #[must_use]
    pub fn new(vcpus: usize) -> Self {
        Self {
            seats: (0..vcpus).map(|_| Seat::default()).collect(),
            end: AtomicU32::new(End::NONE),
            orders: AtomicU32::new(0),
            reports: AtomicUsize::new(0),
        }
    }

    /// Notes that `vcpu` is about to go to its guest or to sleep, and returns whether it may: nobody has called it and the guest's life
    /// goes on. The caller looks at its mailbox after this and before it goes; [`Self::back`] follows in either case.
    #[must_use]
    pub fn depart(&self, vcpu: usize) -> bool {
        let Some(seat) = self.seats.get(vcpu) else {
            return false;
        };
        seat.is_away.store(true, Ordering::SeqCst);
        !seat.is_called.load(Ordering::SeqCst) && self.end.load(Ordering::SeqCst) == End::NONE
    }

    /// Notes that `vcpu` is here.
    pub fn back(&self, vcpu: usize) {
        if let Some(seat) = self.seats.get(vcpu) {
            seat.is_away.store(false, Ordering::Release);
        }
    }

    /// Returns whether `vcpu` would miss what was just posted for it.
    #[must_use]
    pub fn must_kick(&self, vcpu: usize) -> bool {
        self.seats
            .get(vcpu)
            .is_some_and(|seat| seat.is_away.load(Ordering::SeqCst))
    }

    /// Asks `vcpu` to look at what its mailbox does not hold. The caller then kicks it like for mail.
    pub fn call(&self, vcpu: usize) {
        if let Some(seat) = self.seats.get(vcpu) {
            seat.is_called.store(true, Ordering::SeqCst);
        }
    }

    /// Takes a call; to be done before the look.
    pub fn take_call(&self, vcpu: usize) {
        if let Some(seat) = self.seats.get(vcpu)
            && seat.is_called.load(Ordering::Relaxed)
        {
            seat.is_called.store(false, Ordering::SeqCst);
        }
    }

    /// Ends the guest's life for all. Returns whether it went on until now: then the caller kicks all others.
    pub fn end_with(&self, end: End) -> bool {
        let word = end.to_word();
        self.end
            .compare_exchange(End::NONE, word, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Returns how the guest's life has ended.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        End::from_word(self.end.load(Ordering::Relaxed))
    }

    /// Begins a new life. Nobody runs the guest meanwhile.
    pub fn begin(&self) {
        self.end.store(End::NONE, Ordering::SeqCst);
    }

    /// Returns the others: all but `vcpu`.
    pub fn others(&self, vcpu: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.seats.len()).filter(move |other| *other != vcpu)
    }

    /// Notes that a vCPU other than the first has done as ordered.
    pub fn report(&self) {
        self.reports.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns whether all others have reported since the last order.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.reports.load(Ordering::SeqCst) + 1 >= self.seats.len()
    }

    /// Gives the next order. To be given when the crew is complete.
    pub fn order(&self) {
        self.reports.store(0, Ordering::SeqCst);
        self.orders.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the number of the last order.
    #[must_use]
    pub fn last_order(&self) -> u32 {
        self.orders.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::{Crew, End};
    use stockade_abi::terminate::StopReason;

    #[test]
    fn a_receiver_that_is_here_needs_no_kick() {
        let crew = Crew::new(2);
        assert!(!crew.must_kick(1));
        assert!(crew.depart(1));
        assert!(crew.must_kick(1));
        crew.back(1);
        assert!(!crew.must_kick(1) && !crew.must_kick(7));
    }

    /// A call between the last look and the departure would otherwise be missed until the next exit.
    #[test]
    fn a_called_vcpu_does_not_leave() {
        let crew = Crew::new(1);
        crew.call(0);
        assert!(!crew.depart(0));
        crew.back(0);
        crew.take_call(0);
        assert!(crew.depart(0));
    }

    #[test]
    fn the_first_end_counts_for_all_until_a_new_life() {
        let crew = Crew::new(2);
        assert!(crew.end_with(End::Stop(StopReason::HOST_LIED)));
        assert!(!crew.end_with(End::PowerOff));
        assert_eq!(crew.end(), Some(End::Stop(StopReason::HOST_LIED)));
        assert!(!crew.depart(1));
        crew.begin();
        assert_eq!(crew.end(), None);
    }

    #[test]
    fn every_end_survives_its_word() {
        let stops = (0..=255).map(|code| End::Stop(StopReason(code)));
        let exits = (0..=255).map(End::Exit);
        for end in stops.chain(exits).chain([End::PowerOff, End::Reset]) {
            assert_eq!(End::from_word(end.to_word()), Some(end));
        }
    }

    #[test]
    fn crew_is_complete_when_all_others_have_reported() {
        let crew = Crew::new(3);
        crew.report();
        assert!(!crew.is_complete());
        crew.report();
        assert!(crew.is_complete());
        let before = crew.last_order();
        crew.order();
        assert!(!crew.is_complete() && crew.last_order() != before);
        assert!(Crew::new(1).is_complete());
    }
}
