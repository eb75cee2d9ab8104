//! Which frames from outside the driver wants (Virtio 1.2, 5.1.6.5.1 and 5.1.6.5.2).

use super::config::Address;

/// Addresses a table holds. A driver that names more gets all frames of the kind.
pub const TABLE_SIZE: usize = 64;

/// A table of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressTable {
    /// The addresses, of which the first `len` count.
    pub addresses: [Address; TABLE_SIZE],
    /// How many.
    pub len: usize,
    /// There were more than fit.
    pub is_overfull: bool,
}

impl AddressTable {
    pub(super) const EMPTY: Self = Self {
        addresses: [Address([0; 6]); TABLE_SIZE],
        len: 0,
        is_overfull: false,
    };

    pub(super) fn push(&mut self, address: Address) {
        match self.addresses.get_mut(self.len) {
            Some(place) => {
                *place = address;
                self.len += 1;
            }
            None => self.is_overfull = true,
        }
    }

    fn has(&self, address: Address) -> bool {
        self.is_overfull || self.addresses.iter().take(self.len).any(|a| *a == address)
    }
}

/// The filter's state, which is part of the card's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterState {
    /// All frames.
    pub is_promiscuous: bool,
    /// All frames to groups.
    pub has_all_groups: bool,
    /// All frames to single stations.
    pub has_all_singles: bool,
    /// No frames to groups.
    pub has_no_groups: bool,
    /// No frames to single stations.
    pub has_no_singles: bool,
    /// No frames to all stations.
    pub has_no_broadcasts: bool,
    /// Single stations.
    pub singles: AddressTable,
    /// Groups.
    pub groups: AddressTable,
}

/// The filter.
#[derive(Clone, Debug)]
pub(super) struct Filter(pub(super) FilterState);

impl Filter {
    /// Until the driver chooses, it gets everything: some never do.
    pub(super) fn new() -> Self {
        Self(FilterState {
            is_promiscuous: true,
            has_all_groups: false,
            has_all_singles: false,
            has_no_groups: false,
            has_no_singles: false,
            has_no_broadcasts: false,
            singles: AddressTable::EMPTY,
            groups: AddressTable::EMPTY,
        })
    }

    /// Returns whether the driver of a card of address `own` wants a frame to `target`.
    pub(super) fn wants(&self, target: Address, own: Address) -> bool {
        let state = &self.0;
        if state.is_promiscuous {
            true
        } else if target == Address::BROADCAST {
            !state.has_no_broadcasts
        } else if target.is_group() {
            !state.has_no_groups && (state.has_all_groups || state.groups.has(target))
        } else {
            let is_known = target == own || state.singles.has(target);
            !state.has_no_singles && (state.has_all_singles || is_known)
        }
    }
}
