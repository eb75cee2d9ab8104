//! Who a local APIC is on the bus, and which destinations name it (SDM 10.6.2 and 10.12.10).

use crate::msi::{BROADCAST, DestinationMode};

/// All that decides whether a message is for a local APIC, small enough to publish in one atomic word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    pub(super) id: u32,
    pub(super) logical: u8,
    pub(super) is_x2apic: bool,
    pub(super) is_cluster: bool,
    pub(super) is_enabled: bool,
    pub(super) accepts_vectors: bool,
}

impl Address {
    /// Returns the full APIC ID, which is unique.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Returns whether fixed and lowest-priority messages are accepted: the APIC is enabled by software too (SDM 10.4.7.2).
    #[must_use]
    pub const fn accepts_vectors(&self) -> bool {
        self.accepts_vectors
    }

    /// Returns whether the destination names this APIC. One that is off hears nothing.
    #[must_use]
    pub fn matches(&self, mode: DestinationMode, destination: u32) -> bool {
        if !self.is_enabled {
            return false;
        }
        if destination == BROADCAST {
            return true;
        }
        match (mode, self.is_x2apic) {
            (DestinationMode::Physical, true) => destination == self.id,
            (DestinationMode::Physical, false) => destination == self.id & 0xFF,
            (DestinationMode::Logical, true) => {
                let logical = x2apic_logical(self.id);
                destination >> 16 == logical >> 16 && destination & logical & 0xFFFF != 0
            }
            (DestinationMode::Logical, false) => {
                u8::try_from(destination).is_ok_and(|mask| self.matches_mask(mask))
            }
        }
    }

    fn matches_mask(&self, mask: u8) -> bool {
        let common = mask & self.logical;
        mask == 0xFF
            || if self.is_cluster {
                mask >> 4 == self.logical >> 4 && common & 0xF != 0
            } else {
                common != 0
            }
    }

    /// Returns the address as one word.
    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.id)
            | u64::from(self.logical) << 32
            | u64::from(self.is_x2apic) << 40
            | u64::from(self.is_cluster) << 41
            | u64::from(self.is_enabled) << 42
            | u64::from(self.accepts_vectors) << 43
    }

    /// Returns the address that [`Self::to_word`] packed.
    pub(crate) fn from_word(word: u64) -> Self {
        let [id0, id1, id2, id3, logical, flags, ..] = word.to_le_bytes();
        Self {
            id: u32::from_le_bytes([id0, id1, id2, id3]),
            logical,
            is_x2apic: flags & 1 != 0,
            is_cluster: flags & 2 != 0,
            is_enabled: flags & 4 != 0,
            accepts_vectors: flags & 8 != 0,
        }
    }
}

/// Returns the logical ID that x2APIC mode derives from an APIC ID (SDM 10.12.10.2).
pub(super) fn x2apic_logical(id: u32) -> u32 {
    (id & 0xF_FFF0) << 12 | 1 << (id & 0xF)
}

#[cfg(test)]
mod tests {
    use super::{Address, x2apic_logical};
    use crate::msi::DestinationMode::{Logical, Physical};

    const XAPIC: Address = Address {
        id: 3,
        logical: 0x21,
        is_x2apic: false,
        is_cluster: false,
        is_enabled: true,
        accepts_vectors: true,
    };

    #[test]
    fn word_of_an_address_gives_the_same_address() {
        for flags in 0..16u8 {
            let address = Address {
                id: 0x1234_5678,
                logical: 0x9A,
                is_x2apic: flags & 1 != 0,
                is_cluster: flags & 2 != 0,
                is_enabled: flags & 4 != 0,
                accepts_vectors: flags & 8 != 0,
            };
            assert_eq!(Address::from_word(address.to_word()), address);
        }
    }

    #[test]
    fn flat_model_matches_any_common_bit() {
        for mask in 0..=255u32 {
            let expected = mask & 0x21 != 0;
            assert_eq!(XAPIC.matches(Logical, mask), expected, "{mask:#x}");
        }
        assert!(!XAPIC.matches(Logical, 0x121), "no eight-bit destination");
    }

    #[test]
    fn flat_broadcast_reaches_even_an_apic_without_logical_id() {
        let nobody = Address {
            logical: 0,
            ..XAPIC
        };
        assert!(nobody.matches(Logical, 0xFF));
        assert!(!nobody.matches(Logical, 0x7F));
    }

    #[test]
    fn cluster_model_matches_members_of_its_cluster_only() {
        let cluster = Address {
            is_cluster: true,
            ..XAPIC
        };
        assert!(cluster.matches(Logical, 0x21));
        assert!(cluster.matches(Logical, 0x2F));
        assert!(!cluster.matches(Logical, 0x2E));
        assert!(!cluster.matches(Logical, 0x31));
        assert!(cluster.matches(Logical, 0xFF));
    }

    #[test]
    fn physical_destination_is_an_id_or_everybody() {
        assert!(XAPIC.matches(Physical, 3));
        assert!(!XAPIC.matches(Physical, 4));
        assert!(XAPIC.matches(Physical, u32::MAX));
    }

    #[test]
    fn x2apic_logical_ids_are_clusters_of_sixteen() {
        assert_eq!(x2apic_logical(0x00), 0x0000_0001);
        assert_eq!(x2apic_logical(0x0F), 0x0000_8000);
        assert_eq!(x2apic_logical(0x123), 0x0012_0008);
        let receiver = Address {
            id: 0x123,
            is_x2apic: true,
            ..XAPIC
        };
        assert!(receiver.matches(Logical, 0x0012_0009));
        assert!(!receiver.matches(Logical, 0x0012_0007));
        assert!(!receiver.matches(Logical, 0x0013_0008));
        assert!(receiver.matches(Physical, 0x123));
        assert!(!receiver.matches(Physical, 0x23));
    }

    #[test]
    fn apic_that_is_off_hears_nothing() {
        let off = Address {
            is_enabled: false,
            ..XAPIC
        };
        assert!(!off.matches(Physical, u32::MAX));
        assert!(!off.matches(Logical, 0xFF));
    }
}
