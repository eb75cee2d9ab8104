//! The nodes of the tree that are in private memory.
//!
//! A node is here only while its parent is, so that a changed node can always be entered in its parent without reading
//! anything. A changed node stays until the commit that writes it is durable.

use alloc::vec::Vec;

use super::entry::Entry;
use super::geometry::NodeNumber;
use crate::host::BLOCK_BYTES;

/// A place of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheIndex(usize);

/// What is in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// A node that is being read.
    Loading,
    /// A node as it is on the disk.
    Clean,
    /// A node that was changed since.
    Dirty,
    /// A node of the commit in progress, written or being written.
    Sealed,
    /// A node that could not be read, or was forged; requests up to this one are told so.
    Bad {
        /// The last request that is told.
        last: u64,
        /// Whether it was forged.
        was_forged: bool,
    },
}

#[derive(Clone, Debug)]
struct Place {
    number: NodeNumber,
    content: Content,
    parent: Option<CacheIndex>,
    /// Cached nodes below this one.
    children: u32,
    used: u64,
}

/// The cache. Its size never changes.
#[derive(Debug)]
pub struct NodeCache {
    places: Vec<Place>,
    nodes: Vec<[u8; BLOCK_BYTES]>,
    clock: u64,
}

impl NodeCache {
    /// Makes an empty cache for so many nodes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let empty = Place {
            number: NodeNumber(u32::MAX),
            content: Content::Empty,
            parent: None,
            children: 0,
            used: 0,
        };
        Self {
            places: alloc::vec![empty; capacity],
            nodes: alloc::vec![[0; BLOCK_BYTES]; capacity],
            clock: 0,
        }
    }

    /// Finds a node, and counts that as a use of it.
    pub fn find(&mut self, number: NodeNumber) -> Option<(CacheIndex, Content)> {
        let found = self
            .places
            .iter()
            .position(|place| place.number == number && place.content != Content::Empty)?;
        self.clock += 1;
        let place = self.places.get_mut(found)?;
        place.used = self.clock;
        Some((CacheIndex(found), place.content))
    }

    /// Takes the place of the node that was not used for the longest time, or returns `None` if all are needed.
    ///
    /// The new node is all zeros; its parent must be here.
    pub fn insert(
        &mut self,
        number: NodeNumber,
        parent: Option<CacheIndex>,
        content: Content,
    ) -> Option<CacheIndex> {
        let (index, _) = self
            .places
            .iter()
            .enumerate()
            .filter(|(index, place)| place.is_replaceable() && parent != Some(CacheIndex(*index)))
            .min_by_key(|(_, place)| place.used)?;
        self.remove(CacheIndex(index));
        if let Some(parent) = parent.and_then(|parent| self.places.get_mut(parent.0)) {
            parent.children += 1;
        }
        self.clock += 1;
        *self.places.get_mut(index)? = Place {
            number,
            content,
            parent,
            children: 0,
            used: self.clock,
        };
        self.nodes.get_mut(index)?.fill(0);
        Some(CacheIndex(index))
    }

    /// Forgets a node that has no children here.
    pub fn remove(&mut self, index: CacheIndex) {
        let Some(place) = self.places.get_mut(index.0) else {
            return;
        };
        place.content = Content::Empty;
        place.used = 0;
        if let Some(parent) = place.parent.take()
            && let Some(parent) = self.places.get_mut(parent.0)
        {
            parent.children -= 1;
        }
    }

    /// Returns which node is in a place.
    #[must_use]
    pub fn number(&self, index: CacheIndex) -> NodeNumber {
        self.places
            .get(index.0)
            .map_or(NodeNumber(u32::MAX), |place| place.number)
    }

    /// Returns what is in a place.
    #[must_use]
    pub fn content(&self, index: CacheIndex) -> Content {
        self.places
            .get(index.0)
            .map_or(Content::Empty, |place| place.content)
    }

    /// Returns the place of the node's parent.
    #[must_use]
    pub fn parent(&self, index: CacheIndex) -> Option<CacheIndex> {
        self.places.get(index.0).and_then(|place| place.parent)
    }

    /// Changes what a place is said to hold.
    pub fn set_content(&mut self, index: CacheIndex, content: Content) {
        if let Some(place) = self.places.get_mut(index.0) {
            place.content = content;
        }
    }

    /// Returns the bytes of a node.
    ///
    /// # Panics
    /// The index is not of this cache.
    #[must_use]
    pub fn bytes(&self, index: CacheIndex) -> &[u8; BLOCK_BYTES] {
        &self.nodes[index.0]
    }

    /// Returns the bytes of a node, to be changed.
    ///
    /// # Panics
    /// The index is not of this cache.
    pub fn bytes_mut(&mut self, index: CacheIndex) -> &mut [u8; BLOCK_BYTES] {
        &mut self.nodes[index.0]
    }

    /// Returns an entry of a node.
    #[must_use]
    pub fn entry(&self, index: CacheIndex, place: usize) -> Entry {
        Entry::read(self.bytes(index), place)
    }

    /// Returns the first place, if any, whose node satisfies a condition.
    pub fn find_where(&self, is: impl Fn(NodeNumber, Content) -> bool) -> Option<CacheIndex> {
        self.places
            .iter()
            .position(|place| is(place.number, place.content))
            .map(CacheIndex)
    }

    /// Returns how many nodes satisfy a condition.
    pub fn count_where(&self, is: impl Fn(NodeNumber, Content) -> bool) -> usize {
        self.places
            .iter()
            .filter(|place| is(place.number, place.content))
            .count()
    }

    /// Ends a commit: what it wrote is what is on the disk.
    pub fn settle(&mut self) {
        for place in &mut self.places {
            if place.content == Content::Sealed {
                place.content = Content::Clean;
            }
        }
    }
}

impl Place {
    fn is_replaceable(&self) -> bool {
        let is_needed = matches!(
            self.content,
            Content::Loading | Content::Dirty | Content::Sealed
        );
        !is_needed && self.children == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, NodeCache};
    use crate::disk::geometry::NodeNumber;

    #[test]
    fn the_node_unused_for_the_longest_time_makes_room() {
        let mut cache = NodeCache::new(2);
        cache.insert(NodeNumber(1), None, Content::Clean).unwrap();
        cache.insert(NodeNumber(2), None, Content::Clean).unwrap();
        cache.find(NodeNumber(1)).unwrap();
        cache.insert(NodeNumber(3), None, Content::Clean).unwrap();
        assert!(cache.find(NodeNumber(2)).is_none());
        assert!(cache.find(NodeNumber(1)).is_some());
    }

    #[test]
    fn changed_nodes_and_parents_of_cached_nodes_stay() {
        let mut cache = NodeCache::new(3);
        let parent = cache.insert(NodeNumber(9), None, Content::Clean).unwrap();
        let child = cache
            .insert(NodeNumber(1), Some(parent), Content::Dirty)
            .unwrap();
        cache.insert(NodeNumber(2), None, Content::Loading).unwrap();
        assert!(cache.insert(NodeNumber(3), None, Content::Clean).is_none());
        cache.set_content(child, Content::Sealed);
        assert!(cache.insert(NodeNumber(3), None, Content::Clean).is_none());
        cache.settle();
        // The child goes first, and then its parent can.
        assert!(cache.insert(NodeNumber(3), None, Content::Dirty).is_some());
        assert!(cache.insert(NodeNumber(4), None, Content::Dirty).is_some());
        assert!(cache.find(NodeNumber(9)).is_none());
    }

    #[test]
    fn a_parent_is_not_replaced_by_its_child() {
        let mut cache = NodeCache::new(1);
        let parent = cache.insert(NodeNumber(9), None, Content::Clean).unwrap();
        assert!(
            cache
                .insert(NodeNumber(1), Some(parent), Content::Loading)
                .is_none()
        );
    }
}
