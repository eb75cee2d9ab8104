//! Opening a disk: header, superblocks, and whether it is the newest.

use zeroize::Zeroizing;

use super::cache::NodeCache;
use super::commit::{Commit, Stage};
use super::config::{Access, Anchoring, Config};
use super::entry::Entry;
use super::fault::{Anchor, Fault, Freshness, Trust};
use super::format::{Header, History, Superblock};
use super::geometry::Geometry;
use super::requests::Requests;
use super::seals::Seals;
use super::space::Space;
use super::transfer::{Job, Phase};
use super::volume::{Io, Volume};
use crate::host::{HostBlock, Memory};
use crate::key::DiskKey;

/// Header and both superblocks.
const FIRST_BLOCKS: usize = 3;

/// A disk that is not open yet, with everything it will need.
pub(crate) struct Opening {
    pub(crate) key: DiskKey,
    pub(crate) entropy: Zeroizing<[u8; 32]>,
    pub(crate) trust: Trust,
    pub(crate) host_blocks: u64,
    pub(crate) config: Config,
    pub(crate) cache: NodeCache,
    pub(crate) space: Space,
}

/// What the first blocks say.
struct Found {
    header: Header,
    geometry: Geometry,
    seals: Seals,
    /// The newest authentic superblock; none on an empty disk.
    superblock: Option<Superblock>,
}

impl core::fmt::Debug for Opening {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Opening").finish_non_exhaustive()
    }
}

impl Opening {
    /// Asks for the first blocks; `false` if that was done before.
    pub(crate) fn start(&self, io: &mut Io) -> bool {
        if io.transfers.any(Job::Open) {
            return false;
        }
        let started = io
            .transfers
            .start(Job::Open, Phase::Queued, HostBlock(0), FIRST_BLOCKS);
        started.is_some()
    }

    /// Returns the transfer of the first blocks when the host is done with it.
    pub(crate) fn returned(io: &Io) -> Option<usize> {
        io.transfers.find(|transfer| {
            transfer.job == Job::Open && matches!(transfer.phase, Phase::Returned(_))
        })
    }

    /// Opens the disk, or begins to format it.
    pub(crate) fn finish(
        self,
        io: &mut Io,
        memory: &mut impl Memory,
        index: usize,
    ) -> Result<(Volume, Freshness), Fault> {
        let found = self.examine(io, memory, index);
        io.transfers.end(index);
        let found = found?;
        let freshness = self.judge(&found)?;
        let limit = self.config.dirty_limit(&found.geometry);
        let dirty_limit = limit.map_err(Fault::CacheTooSmall)?;
        let mut volume = Volume {
            header: found.header,
            geometry: found.geometry,
            seals: found.seals,
            access: self.config.access,
            anchoring: self.config.anchoring,
            dirty_limit,
            generation: 0,
            root: Entry::default(),
            cache: self.cache,
            space: self.space,
            requests: Requests::new(self.config.requests),
            commit: Commit::new(Stage::Idle),
            anchored: 0,
            anchor: None,
        };
        match found.superblock {
            Some(superblock) => volume.take_over(&superblock, freshness, self.trust),
            None => volume.format(),
        }
        Ok((volume, freshness))
    }

    /// Reads the first blocks into private memory, one at a time, and finds the newest authentic superblock.
    fn examine(&self, io: &mut Io, memory: &mut impl Memory, index: usize) -> Result<Found, Fault> {
        let transfer = io.transfers.get(index).ok_or(Fault::Unreadable)?;
        transfer.result().map_err(|_| Fault::Unreadable)?;
        let [first, slots @ ..] = transfer.slots.list() else {
            return Err(Fault::Unreadable);
        };
        memory.read_slot(*first, &mut io.scratch);
        let (header, geometry) = Header::read(&io.scratch)?;
        if geometry.total_blocks() > self.host_blocks {
            return Err(Fault::Truncated {
                found: self.host_blocks,
                expected: geometry.total_blocks(),
            });
        }
        let seals = Seals::new(&self.key, header.disk(), &self.entropy);
        let mut newest: Option<Superblock> = None;
        let mut is_empty = true;
        for (at, slot) in (1..).zip(slots) {
            memory.read_slot(*slot, &mut io.scratch);
            // The first superblock of all goes to block 2. If the power went while it was written, nothing is lost.
            let written = if at == 1 { 0 } else { size_of::<Superblock>() };
            is_empty &= io.scratch.iter().skip(written).all(|byte| *byte == 0);
            let Ok(superblock) = Superblock::read(&seals, &header, HostBlock(at), &io.scratch)
            else {
                continue;
            };
            let generation = superblock.generation.get();
            if newest
                .as_ref()
                .is_none_or(|newest| newest.generation.get() < generation)
            {
                newest = Some(superblock);
            }
        }
        if newest.is_none() && !is_empty {
            return Err(Fault::Superblock);
        }
        Ok(Found {
            header,
            geometry,
            seals,
            superblock: newest,
        })
    }

    /// Compares what was found with what is known of the disk.
    fn judge(&self, found: &Found) -> Result<Freshness, Fault> {
        match (&found.superblock, self.trust) {
            (_, Trust::Anchored(anchor)) if anchor.disk != *found.header.disk() => {
                Err(Fault::AnotherDisk)
            }
            (None, Trust::Anchored(anchor)) => Err(Fault::RolledBack {
                found: 0,
                anchored: anchor.generation,
            }),
            (None, Trust::FirstUse) if self.config.access == Access::ReadOnly => Err(Fault::Empty),
            (None, Trust::FirstUse) => Ok(Freshness::Formatted),
            (Some(superblock), Trust::FirstUse) => match superblock.history() {
                History::Anchored => Err(Fault::Forgotten),
                History::Unanchored => Ok(Freshness::Unknown),
            },
            (Some(superblock), Trust::Anchored(anchor)) => {
                compare(superblock, &anchor, self.config.anchoring)
            }
        }
    }
}

fn compare(
    superblock: &Superblock,
    anchor: &Anchor,
    anchoring: Anchoring,
) -> Result<Freshness, Fault> {
    let (found, anchored) = (superblock.generation.get(), anchor.generation);
    if found < anchored {
        return Err(Fault::RolledBack { found, anchored });
    }
    match (found - anchored, anchoring) {
        (0, _) if superblock.code == anchor.digest => Ok(Freshness::Newest),
        (0, _) => Err(Fault::Diverged(found)),
        (1, _) | (_, Anchoring::Lazy) => Ok(Freshness::Ahead),
        _ => Err(Fault::StoreRolledBack { found, anchored }),
    }
}

impl Volume {
    /// Begins where a superblock says.
    fn take_over(&mut self, superblock: &Superblock, freshness: Freshness, trust: Trust) {
        self.generation = superblock.generation.get();
        self.root = superblock.root;
        self.space.set_cursor(superblock.cursor.get());
        self.anchored = match trust {
            Trust::Anchored(anchor) => anchor.generation,
            Trust::FirstUse => 0,
        };
        if freshness != Freshness::Newest {
            self.anchor = Some(Anchor {
                disk: *self.header.disk(),
                generation: self.generation,
                digest: superblock.code,
            });
        }
    }
}
