//! Vigils for what hosts of devices do: looks instead of signals ([`crate::vigil`]).

use core::sync::atomic::Ordering;

use super::{Bay, Bays};
use crate::machine::SlotFunction;

/// Devices somebody keeps a vigil for, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched(u32);

impl Bays {
    /// Returns whether any host has something that nobody keeps a vigil for.
    pub(crate) fn are_expecting(&self) -> bool {
        self.expecting.load(Ordering::Relaxed) != 0
    }

    /// Has hosts signal no more that have something to do. [`Self::end_vigil`] follows.
    pub(crate) fn begin_vigil(&self) -> Watched {
        let expecting = self.expecting.swap(0, Ordering::Relaxed);
        let mut watched = 0;
        for bay in self.watched(Watched(expecting)) {
            // One that is being served asks its host for signals when it is done.
            if bay.card.try_lock().is_some_and(|mut card| card.hush()) {
                watched |= bay.attention.bit();
            }
        }
        Watched(watched)
    }

    /// Returns whether one of their hosts has done something.
    pub(crate) fn have_news(&self, watched: Watched) -> bool {
        let has_news = |bay: &Bay| bay.card.try_lock().is_some_and(|card| card.has_news());
        self.watched(watched).any(has_news)
    }

    /// Gives them their turns, with which they ask for signals again.
    pub(crate) fn end_vigil(&self, watched: Watched) {
        self.watched(watched).for_each(SlotFunction::accessed);
    }

    fn watched(&self, Watched(bits): Watched) -> impl Iterator<Item = &Bay> {
        let bays = self.bays.iter().map(|(_, bay)| &**bay);
        bays.filter(move |bay| bay.attention.is_in(bits))
    }
}

impl Watched {
    /// Returns whether there is none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}
