//! How large the tables of a disk are and how careful it is.

use super::geometry::Geometry;
use super::transfer::LOADS;
use crate::host::LONGEST_TRANSFER;

/// Nodes the cache can always replace, whatever is changed.
const SLACK: usize = 8;

/// Whether a disk may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Everything.
    ReadWrite,
}

/// When a flush of the guest is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchoring {
    /// When its commit is anchored: no host can take it back. The caller answers each `next_anchor` with `anchored`.
    Strict,
    /// When its commit is durable; the anchor may follow later. A host can take back commits newer than the anchor, and any
    /// generation not older than the anchor is accepted.
    Lazy,
}

/// Sizes, for the life of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Requests in progress at most.
    pub requests: usize,
    /// Transfers to and from the host at most.
    pub transfers: u16,
    /// Slots of the caller's bounce pool, numbered from 0, for this disk alone.
    pub slots: u16,
    /// Nodes in the cache, 4 KiB each.
    pub cache_nodes: usize,
    /// Blocks given up between two commits at most, 4 bytes each.
    pub given_up: usize,
    /// Whether the disk may be written.
    pub access: Access,
    /// When a flush is done.
    pub anchoring: Anchoring,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            requests: 64,
            transfers: 32,
            slots: 256,
            cache_nodes: 192,
            given_up: 8192,
            access: Access::ReadWrite,
            anchoring: Anchoring::Strict,
        }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a sealed disk needs 1 request, 2 transfers, 4 slots, a cache of 16 nodes and room for 64 blocks at least"
)]
pub struct ConfigError;

impl Config {
    /// Checks what does not depend on the size of the disk.
    ///
    /// # Errors
    /// Something is too small.
    pub fn check(&self) -> Result<(), ConfigError> {
        let is_enough = self.requests >= 1
            && self.transfers >= 2
            && self.slots >= 4
            && self.cache_nodes >= 16
            && self.given_up >= 2 * LONGEST_TRANSFER;
        is_enough.then_some(()).ok_or(ConfigError)
    }

    /// Returns how many nodes of level 0 a commit may change, such that they and all above them stay in the cache while the
    /// nodes being read have room too; or how large a cache it takes to change anything.
    pub(crate) fn dirty_limit(&self, geometry: &Geometry) -> Result<usize, usize> {
        let least = 2 + LONGEST_TRANSFER.min(geometry.bitmaps() as usize);
        let needed = nodes_above(geometry, least);
        if needed > self.cache_nodes {
            return Err(needed);
        }
        let is_too_many = |limit: &usize| nodes_above(geometry, *limit) > self.cache_nodes;
        let limit = (least..self.cache_nodes).find(is_too_many);
        Ok(limit.map_or(self.cache_nodes, |limit| limit - 1).max(least))
    }
}

/// Returns how many places the cache needs for so many changed nodes of level 0, at worst.
fn nodes_above(geometry: &Geometry, dirty: usize) -> usize {
    let nodes = dirty + LOADS;
    (0..geometry.levels())
        .map(|level| nodes.min(geometry.count(level) as usize))
        .sum::<usize>()
        + SLACK
}

#[cfg(test)]
mod tests {
    use super::{Config, nodes_above};
    use crate::disk::geometry::Geometry;

    #[test]
    fn the_default_suits_disks_up_to_the_largest() {
        for shift in [0, 10, 18, 22, 28, 31] {
            let geometry = Geometry::try_new(1 << shift).unwrap();
            let limit = Config::default().dirty_limit(&geometry).unwrap();
            assert!(nodes_above(&geometry, limit) <= 192, "2^{shift}: {limit}");
            assert!(
                limit >= 34.min(geometry.count(0) as usize),
                "2^{shift}: {limit}"
            );
        }
    }

    #[test]
    fn a_cache_too_small_is_refused_with_the_size_that_would_do() {
        let geometry = Geometry::try_new(1 << 28).unwrap();
        let small = Config {
            cache_nodes: 16,
            ..Config::default()
        };
        let needed = small.dirty_limit(&geometry).unwrap_err();
        let enough = Config {
            cache_nodes: needed,
            ..small
        };
        assert!(enough.dirty_limit(&geometry).is_ok());
    }
}
