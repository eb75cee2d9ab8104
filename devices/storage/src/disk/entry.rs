//! An entry of the tree: where a block is, and what proves that it is the right one.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::geometry::Home;
use super::seals::Seal;
use crate::host::BLOCK_BYTES;

/// Entries of a node of the tree.
pub const FAN_OUT: u32 = 128;

/// Points to a data block from a leaf, or to a node from its parent.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Entry {
    /// 0: nothing was ever written here. Of a data block its number in the data area plus 1; of a node its home, 1 or 2.
    pub location: U32,
    /// The nonce the block was sealed with.
    pub nonce: [u8; 12],
    /// The tag the block was sealed with.
    pub tag: [u8; 16],
}

const _: () = assert!(size_of::<Entry>() * FAN_OUT as usize == BLOCK_BYTES);

impl Entry {
    /// Returns an entry of a node; the default one beyond its end.
    #[must_use]
    pub fn read(node: &[u8; BLOCK_BYTES], place: usize) -> Self {
        let bytes = node.get(place * size_of::<Self>()..).unwrap_or(&[]);
        Self::read_from_prefix(bytes).map_or_else(|_| Self::default(), |(entry, _)| entry)
    }

    /// Changes an entry of a node; nothing beyond its end.
    pub fn write(&self, node: &mut [u8; BLOCK_BYTES], place: usize) {
        if let Some(bytes) = node.get_mut(place * size_of::<Self>()..) {
            // A place that is not whole does not exist: the length of a node is a multiple of an entry's.
            let _ = self.write_to_prefix(bytes);
        }
    }

    /// Returns whether nothing was ever written here.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.location.get() == 0
    }

    /// Returns the number of the data block it points to.
    #[must_use]
    pub fn data(&self) -> Option<u32> {
        self.location.get().checked_sub(1)
    }

    /// Returns an entry that points to a data block, not sealed yet.
    #[must_use]
    pub fn of_data(number: u32) -> Self {
        Self {
            location: number.wrapping_add(1).into(),
            ..Self::default()
        }
    }

    /// Returns the home of the node it points to.
    #[must_use]
    pub fn home(&self) -> Option<Home> {
        match self.location.get() {
            1 => Some(Home::First),
            2 => Some(Home::Second),
            _ => None,
        }
    }

    /// Returns the home the node is written to next: never the one it is at.
    #[must_use]
    pub fn next_home(&self) -> Home {
        match self.home() {
            Some(Home::First) => Home::Second,
            _ => Home::First,
        }
    }

    /// Returns an entry that points to a node.
    #[must_use]
    pub fn of_node(home: Home, seal: Seal) -> Self {
        let location = match home {
            Home::First => 1,
            Home::Second => 2,
        };
        Self::default().at(location).sealed(seal)
    }

    /// Returns the same entry with this seal.
    #[must_use]
    pub fn sealed(self, seal: Seal) -> Self {
        let Seal { nonce, tag } = seal;
        Self { nonce, tag, ..self }
    }

    /// Returns the seal of the block it points to.
    #[must_use]
    pub fn seal(&self) -> Seal {
        Seal {
            nonce: self.nonce,
            tag: self.tag,
        }
    }

    fn at(self, location: u32) -> Self {
        Self {
            location: location.into(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, FAN_OUT};
    use crate::disk::geometry::Home;
    use crate::disk::seals::Seal;
    use crate::host::BLOCK_BYTES;

    #[test]
    fn entries_of_a_node_do_not_overlap() {
        let mut node = [0; BLOCK_BYTES];
        let seal = |value| Seal {
            nonce: [value; 12],
            tag: [value; 16],
        };
        for place in 0..FAN_OUT as usize {
            Entry::of_data(place as u32)
                .sealed(seal(place as u8))
                .write(&mut node, place);
        }
        for place in 0..FAN_OUT as usize {
            let entry = Entry::read(&node, place);
            assert_eq!(entry.data(), Some(place as u32));
            assert_eq!(entry.seal(), seal(place as u8));
        }
        assert!(Entry::read(&node, FAN_OUT as usize).is_absent());
    }

    #[test]
    fn a_node_is_never_written_to_the_home_it_is_at() {
        let seal = Seal::default();
        let first = Entry::of_node(Home::First, seal);
        assert_eq!(
            (first.home(), first.next_home()),
            (Some(Home::First), Home::Second)
        );
        let second = Entry::of_node(Home::Second, seal);
        assert_eq!(
            (second.home(), second.next_home()),
            (Some(Home::Second), Home::First)
        );
        assert_eq!(Entry::default().next_home(), Home::First);
    }
}
