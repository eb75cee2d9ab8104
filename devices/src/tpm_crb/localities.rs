//! Which locality has the TPM, which wait for it, and which lost it to a higher one (PC Client PTP 1.05, 6.5.3.4 and 6.5.3.5).

use crate::RestoreError;
use crate::tpm::command::Locality;

/// Who has the TPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Localities {
    active: Option<Locality>,
    /// A bit each that asked while another had it.
    waiting: u8,
    /// A bit each that lost it and did not ask again since.
    seized: u8,
}

/// Whether the TPM went to another locality, or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Passed {
    Yes,
    No,
}

fn bit(locality: Locality) -> u8 {
    1 << locality.number()
}

impl Localities {
    pub(super) fn active(&self) -> Option<Locality> {
        self.active
    }

    pub(super) fn is_seized(&self, locality: Locality) -> bool {
        self.seized & bit(locality) != 0
    }

    /// The TPM is given to who asks for it, or waits until it is free.
    pub(super) fn request(&mut self, locality: Locality) -> Passed {
        match self.active {
            None => {
                self.grant(locality);
                Passed::Yes
            }
            Some(active) => {
                if active != locality {
                    self.waiting |= bit(locality);
                }
                Passed::No
            }
        }
    }

    /// Who gives it up makes room for the highest that waits; who only waits does so no longer.
    pub(super) fn relinquish(&mut self, locality: Locality) -> Passed {
        self.waiting &= !bit(locality);
        if self.active != Some(locality) {
            return Passed::No;
        }
        self.active = None;
        let highest = (0..Locality::COUNT)
            .rev()
            .filter_map(Locality::try_new)
            .find(|other| self.waiting & bit(*other) != 0);
        if let Some(next) = highest {
            self.grant(next);
        }
        Passed::Yes
    }

    /// A higher locality takes the TPM away; from the same or a higher one it cannot.
    pub(super) fn seize(&mut self, locality: Locality) -> Passed {
        match self.active {
            Some(active) if active >= locality => Passed::No,
            Some(active) => {
                self.seized |= bit(active);
                self.grant(locality);
                Passed::Yes
            }
            None => {
                self.grant(locality);
                Passed::Yes
            }
        }
    }

    fn grant(&mut self, locality: Locality) {
        self.active = Some(locality);
        self.waiting &= !bit(locality);
        self.seized &= !bit(locality);
    }

    pub(super) fn save(&self) -> (Option<u8>, u8, u8) {
        (self.active.map(Locality::number), self.waiting, self.seized)
    }

    pub(super) fn restore(
        (active, waiting, seized): (Option<u8>, u8, u8),
    ) -> Result<Self, RestoreError> {
        const ALL: u8 = (1 << Locality::COUNT) - 1;
        let active = match active {
            None => None,
            Some(number) => {
                Some(Locality::try_new(number).ok_or(RestoreError::Impossible("TPM locality"))?)
            }
        };
        let own = active.map_or(0, bit);
        let is_possible = (waiting | seized) & !ALL == 0
            && (waiting | seized) & own == 0
            && (active.is_some() || waiting == 0);
        if !is_possible {
            return Err(RestoreError::Impossible("TPM localities"));
        }
        Ok(Self {
            active,
            waiting,
            seized,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locality(number: u8) -> Locality {
        Locality::try_new(number).unwrap()
    }

    #[test]
    fn first_who_asks_has_it_and_the_highest_who_waits_is_next() {
        let mut localities = Localities::default();
        assert_eq!(localities.request(locality(0)), Passed::Yes);
        assert_eq!(localities.request(locality(1)), Passed::No);
        assert_eq!(localities.request(locality(3)), Passed::No);
        assert_eq!(localities.relinquish(locality(0)), Passed::Yes);
        assert_eq!(localities.active(), Some(locality(3)));
        assert_eq!(localities.relinquish(locality(3)), Passed::Yes);
        assert_eq!(localities.active(), Some(locality(1)));
        assert_eq!(localities.relinquish(locality(1)), Passed::Yes);
        assert_eq!(localities.active(), None);
    }

    #[test]
    fn every_pair_seizes_only_upwards_and_the_loser_is_told_until_it_asks_again() {
        for (low, high) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
            let mut localities = Localities::default();
            assert_eq!(localities.request(locality(low)), Passed::Yes);
            let expected = if high > low { Passed::Yes } else { Passed::No };
            assert_eq!(localities.seize(locality(high)), expected);
            assert_eq!(localities.is_seized(locality(low)), high > low);
            if high > low {
                assert_eq!(localities.request(locality(low)), Passed::No);
                assert!(localities.is_seized(locality(low)));
                assert_eq!(localities.relinquish(locality(high)), Passed::Yes);
                assert_eq!(localities.active(), Some(locality(low)));
                assert!(!localities.is_seized(locality(low)));
            }
        }
    }

    #[test]
    fn who_stops_waiting_is_not_given_it() {
        let mut localities = Localities::default();
        assert_eq!(localities.request(locality(0)), Passed::Yes);
        assert_eq!(localities.request(locality(2)), Passed::No);
        assert_eq!(localities.relinquish(locality(2)), Passed::No);
        assert_eq!(localities.relinquish(locality(0)), Passed::Yes);
        assert_eq!(localities.active(), None);
    }

    #[test]
    fn impossible_states_are_refused() {
        for state in [
            (Some(5), 0, 0),
            (None, 1, 0),
            (Some(1), 2, 0),
            (Some(1), 0, 2),
            (Some(0), 0x20, 0),
        ] {
            assert!(Localities::restore(state).is_err(), "{state:?}");
        }
        assert!(Localities::restore((Some(1), 4, 1)).is_ok());
    }
}
