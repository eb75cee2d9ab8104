//! Where everything lies on a sealed disk.
//!
//! ```text
//! block 0   header
//!       1   superblock of even generations
//!       2   superblock of odd generations
//!       3   first homes of all nodes, then their second homes
//!       …   data area
//! ```
//!
//! The nodes of level 0 are the leaves, [`FAN_OUT`] logical blocks each, and after them the bitmaps of the data area. Those of
//! the next level point to these, and so on to the one node the superblock points to.

use super::entry::FAN_OUT;
use crate::host::{BLOCK_BYTES, HostBlock};

/// Blocks before the nodes.
const FIRST_NODE: u64 = 3;
/// Blocks of the data area that one bitmap stands for.
pub const BITMAP_BLOCKS: u64 = BLOCK_BYTES as u64 * 8;
/// The most blocks the data area can have: their numbers fit an entry.
pub const MOST_DATA_BLOCKS: u64 = u32::MAX as u64 - 1;
/// Enough levels for [`MOST_DATA_BLOCKS`].
const MOST_LEVELS: usize = 5;
/// Blocks that are always spare, so that a small disk can be overwritten without a commit every few blocks.
const LEAST_SPARE: u64 = 256;
/// One block in so many is spare.
const SPARE_SHARE: u64 = 16;

/// A node of the tree, numbered level by level from the leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeNumber(pub u32);

/// Which of its two homes a node was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Location 1.
    First,
    /// Location 2.
    Second,
}

/// A node and its place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// 0 for leaves and bitmaps.
    pub level: usize,
    /// From the left.
    pub index: u32,
}

/// The sizes of a disk and its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    logical_blocks: u64,
    data_blocks: u64,
    /// Number of nodes of each level.
    counts: [u32; MOST_LEVELS],
    /// Number of the first node of each level.
    firsts: [u32; MOST_LEVELS],
    levels: usize,
    nodes: u32,
}

impl Geometry {
    /// Returns the geometry of a disk with so many logical blocks, or `None` if there is no such disk.
    #[must_use]
    pub fn try_new(logical_blocks: u64) -> Option<Self> {
        let spare = (logical_blocks / SPARE_SHARE).max(LEAST_SPARE);
        let data_blocks = logical_blocks.checked_add(spare)?;
        if logical_blocks == 0 || data_blocks > MOST_DATA_BLOCKS {
            return None;
        }
        let leaves = logical_blocks.div_ceil(u64::from(FAN_OUT));
        let mut count = u32::try_from(leaves + data_blocks.div_ceil(BITMAP_BLOCKS)).ok()?;
        let mut geometry = Self {
            logical_blocks,
            data_blocks,
            counts: [0; MOST_LEVELS],
            firsts: [0; MOST_LEVELS],
            levels: 0,
            nodes: 0,
        };
        loop {
            *geometry.counts.get_mut(geometry.levels)? = count;
            *geometry.firsts.get_mut(geometry.levels)? = geometry.nodes;
            geometry.levels += 1;
            geometry.nodes = geometry.nodes.checked_add(count)?;
            if count == 1 {
                return Some(geometry);
            }
            count = count.div_ceil(FAN_OUT);
        }
    }

    /// Returns the number of blocks the guest sees.
    #[must_use]
    pub fn logical_blocks(&self) -> u64 {
        self.logical_blocks
    }

    /// Returns the number of blocks of the data area.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Returns the number of blocks of the host's file.
    #[must_use]
    pub fn total_blocks(&self) -> u64 {
        FIRST_NODE + 2 * u64::from(self.nodes) + self.data_blocks
    }

    /// Returns the number of levels of the tree.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// Returns the number of nodes of a level.
    #[must_use]
    pub fn count(&self, level: usize) -> u32 {
        self.counts.get(level).copied().unwrap_or(0)
    }

    /// Returns the number of bitmaps.
    #[must_use]
    pub fn bitmaps(&self) -> u32 {
        self.count(0) - self.leaves()
    }

    fn leaves(&self) -> u32 {
        // It was found to fit when the geometry was made.
        u32::try_from(self.logical_blocks.div_ceil(u64::from(FAN_OUT))).unwrap_or(u32::MAX)
    }

    /// Returns the one node of the highest level.
    #[must_use]
    pub fn top(&self) -> NodeNumber {
        NodeNumber(self.nodes - 1)
    }

    /// Returns the leaf of a logical block.
    #[must_use]
    pub fn leaf(&self, block: u64) -> NodeNumber {
        NodeNumber(u32::try_from(block / u64::from(FAN_OUT)).unwrap_or(u32::MAX))
    }

    /// Returns the bitmap with this index.
    #[must_use]
    pub fn bitmap(&self, index: u32) -> NodeNumber {
        NodeNumber(self.leaves() + index)
    }

    /// Returns a node's level and index.
    #[must_use]
    pub fn node(&self, number: NodeNumber) -> Node {
        let firsts = self.firsts.get(..self.levels).unwrap_or(&[]);
        let level = firsts.iter().rposition(|first| *first <= number.0);
        let level = level.unwrap_or(0);
        let first = self.firsts.get(level).copied().unwrap_or(0);
        Node {
            level,
            index: number.0 - first,
        }
    }

    /// Returns the number of a node.
    #[must_use]
    pub fn number(&self, node: Node) -> NodeNumber {
        NodeNumber(self.firsts.get(node.level).copied().unwrap_or(0) + node.index)
    }

    /// Returns the parent of a node, or `None` for the top one, to which the superblock points.
    #[must_use]
    pub fn parent(&self, number: NodeNumber) -> Option<NodeNumber> {
        if number == self.top() {
            return None;
        }
        let node = self.node(number);
        Some(self.number(Node {
            level: node.level + 1,
            index: node.index / FAN_OUT,
        }))
    }

    /// Returns the first logical block after those below this node.
    #[must_use]
    pub fn end_of(&self, number: NodeNumber) -> u64 {
        let node = self.node(number);
        let blocks = (0..=node.level).fold(1_u64, |blocks, _| blocks * u64::from(FAN_OUT));
        ((u64::from(node.index) + 1) * blocks).min(self.logical_blocks)
    }

    /// Returns the block of a node's home.
    #[must_use]
    pub fn home(&self, number: NodeNumber, home: Home) -> HostBlock {
        let offset = match home {
            Home::First => 0,
            Home::Second => u64::from(self.nodes),
        };
        HostBlock(FIRST_NODE + offset + u64::from(number.0))
    }

    /// Returns the block of the data area with this number, if it is one.
    #[must_use]
    pub fn data(&self, number: u32) -> Option<HostBlock> {
        let number = u64::from(number);
        (number < self.data_blocks)
            .then(|| HostBlock(FIRST_NODE + 2 * u64::from(self.nodes) + number))
    }
}

#[cfg(test)]
mod tests {
    use super::{Geometry, Home, MOST_DATA_BLOCKS, Node, NodeNumber};
    use crate::host::HostBlock;

    #[test]
    fn a_gibibyte_has_three_levels() {
        let geometry = Geometry::try_new(262_144).unwrap();
        // 2048 leaves, 9 bitmaps.
        assert_eq!((geometry.count(0), geometry.bitmaps()), (2057, 9));
        assert_eq!((geometry.count(1), geometry.count(2)), (17, 1));
        assert_eq!(geometry.levels(), 3);
        assert_eq!(geometry.data_blocks(), 278_528);
        assert_eq!(geometry.total_blocks(), 3 + 2 * 2075 + 278_528);
    }

    #[test]
    fn every_node_has_a_parent_on_the_next_level_and_two_homes_of_its_own() {
        let geometry = Geometry::try_new(100_000).unwrap();
        for number in (0..geometry.top().0).map(NodeNumber) {
            let node = geometry.node(number);
            assert_eq!(geometry.number(node), number);
            let parent = geometry.node(geometry.parent(number).unwrap());
            assert_eq!(
                (parent.level, parent.index),
                (node.level + 1, node.index / 128)
            );
        }
        assert_eq!(geometry.parent(geometry.top()), None);
        assert_eq!(geometry.home(NodeNumber(0), Home::First), HostBlock(3));
        let second = geometry.home(NodeNumber(0), Home::Second).0;
        assert_eq!(second, geometry.home(geometry.top(), Home::First).0 + 1);
        let last = geometry.home(geometry.top(), Home::Second).0;
        assert_eq!(geometry.data(0), Some(HostBlock(last + 1)));
        assert_eq!(geometry.data(u32::MAX), None);
    }

    #[test]
    fn sizes_without_a_tree_are_refused() {
        assert_eq!(Geometry::try_new(0), None);
        assert_eq!(Geometry::try_new(MOST_DATA_BLOCKS), None);
        assert_eq!(Geometry::try_new(u64::MAX), None);
        assert!(Geometry::try_new(1).is_some());
        assert_eq!(Geometry::try_new(1 << 31).unwrap().levels(), 5);
    }

    #[test]
    fn the_end_of_a_node_is_the_first_block_it_does_not_cover() {
        let geometry = Geometry::try_new(20_000).unwrap();
        assert_eq!(geometry.end_of(geometry.leaf(130)), 256);
        let parent = geometry.number(Node { level: 1, index: 0 });
        assert_eq!(geometry.end_of(parent), 128 * 128);
        assert_eq!(geometry.end_of(geometry.top()), 20_000);
    }
}
