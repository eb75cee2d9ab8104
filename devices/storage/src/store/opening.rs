//! Opening a store: the header, then both areas, of which the one whose log reaches further counts.

use zeroize::Zeroizing;

use super::fault::{StoreFault, StoreFreshness, StoreTrust};
use super::format::{Area, Header, Sealer, payload_room};
use super::log::{End, Found, follow, replay};
use super::saving::Saving;
use super::{Log, SealedStore, Stage};
use crate::disk::Work;
use crate::host::{BLOCK_BYTES, HostBlock, HostOp, Memory};
use crate::key::StoreKey;

/// A store that is not open yet.
pub(super) struct Opening {
    key: StoreKey,
    entropy: Zeroizing<[u8; 32]>,
    trust: StoreTrust,
    host_blocks: u64,
    most_area_blocks: u32,
    found: Option<(Header, Sealer)>,
    area: Area,
    /// Blocks of the area that were read.
    read: usize,
    best: Option<(Area, End)>,
    /// The highest sequence number of any authentic entry.
    highest: u64,
    is_empty: bool,
}

impl core::fmt::Debug for Opening {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Opening").finish_non_exhaustive()
    }
}

impl Opening {
    pub(super) fn new(
        key: StoreKey,
        entropy: Zeroizing<[u8; 32]>,
        trust: StoreTrust,
        host_blocks: u64,
        most_area_blocks: u32,
    ) -> Self {
        Self {
            key,
            entropy,
            trust,
            host_blocks,
            most_area_blocks,
            found: None,
            area: Area::First,
            read: 0,
            best: None,
            highest: 0,
            is_empty: true,
        }
    }

    fn read_header(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<(), StoreFault> {
        let header = Header::read(block)?;
        if header.area_blocks() > self.most_area_blocks {
            return Err(StoreFault::TooLarge {
                found: header.area_blocks(),
                most: self.most_area_blocks,
            });
        }
        if header.total_blocks() > self.host_blocks {
            return Err(StoreFault::Truncated {
                found: self.host_blocks,
                expected: header.total_blocks(),
            });
        }
        let sealer = Sealer::new(&self.key, header.store(), &self.entropy);
        self.found = Some((header, sealer));
        Ok(())
    }

    /// Takes what an area holds into account; `true` if it is the best so far.
    fn weigh(&mut self, found: &Found) -> bool {
        self.is_empty &= found.is_empty;
        self.highest = self.highest.max(found.highest);
        let reached = self.best.map_or(0, |(_, best)| best.sequence);
        match found.end {
            Some(end) if end.sequence > reached => {
                self.best = Some((self.area, end));
                true
            }
            _ => false,
        }
    }

    fn judge(&self) -> Result<StoreFreshness, StoreFault> {
        let found = self.best.map_or(0, |(_, end)| end.sequence);
        if self.highest > found {
            return Err(StoreFault::Damaged(found + 1));
        }
        match self.trust {
            StoreTrust::AtLeast(anchored) if found < anchored => {
                Err(StoreFault::RolledBack { found, anchored })
            }
            _ if self.best.is_none() && !self.is_empty => Err(StoreFault::NothingAuthentic),
            _ if self.best.is_none() => Ok(StoreFreshness::Created),
            StoreTrust::AtLeast(_) => Ok(StoreFreshness::Verified),
            StoreTrust::Nothing => Ok(StoreFreshness::Unknown),
        }
    }
}

impl SealedStore {
    /// Does the next step of opening: asks for blocks, or looks at them.
    pub(super) fn open_step(&mut self, memory: &mut impl Memory) -> Work {
        match self.transfer.take_result() {
            Some(Ok(())) => {
                if let Err(fault) = self.look(memory) {
                    self.stage = Stage::Failed(fault);
                }
            }
            Some(Err(_)) => self.stage = Stage::Failed(StoreFault::Unreadable),
            None => self.ask(),
        }
        Work::Again
    }

    fn ask(&mut self) {
        let Stage::Opening(opening) = &mut self.stage else {
            return;
        };
        let (block, count) = match &opening.found {
            None => (HostBlock(0), 1),
            Some((header, _)) => {
                let left = header.area_blocks() as usize - opening.read;
                // Below the area's length, which is a u32.
                let at = u32::try_from(opening.read).unwrap_or(0);
                (header.block(opening.area, at), left)
            }
        };
        self.transfer.begin(HostOp::Read, block, count);
    }

    fn look(&mut self, memory: &mut impl Memory) -> Result<(), StoreFault> {
        let Stage::Opening(opening) = &mut self.stage else {
            return Ok(());
        };
        let Some((header, sealer)) = &opening.found else {
            for slot in self.transfer.slots.list() {
                memory.read_slot(*slot, &mut self.scratch);
            }
            return opening.read_header(&self.scratch);
        };
        let length = header.area_blocks() as usize * BLOCK_BYTES;
        for slot in self.transfer.slots.list() {
            memory.read_slot(*slot, &mut self.scratch);
            let start = opening.read * BLOCK_BYTES;
            if let Some(place) = self.buffer.get_mut(start..start + BLOCK_BYTES) {
                place.copy_from_slice(&self.scratch[..]);
            }
            opening.read += 1;
        }
        if opening.read < header.area_blocks() as usize {
            return Ok(());
        }
        let area = self.buffer.get_mut(..length).unwrap_or_default();
        let found = follow(sealer, area);
        if opening.weigh(&found)
            && let Some(end) = &found.end
            && !replay(area, end, &mut self.records)
        {
            return Err(StoreFault::Damaged(end.sequence));
        }
        opening.read = 0;
        match opening.area {
            Area::First => opening.area = Area::Second,
            Area::Second => self.begin()?,
        }
        Ok(())
    }

    /// Opens the store with what was found.
    fn begin(&mut self) -> Result<(), StoreFault> {
        let Stage::Opening(opening) = &mut self.stage else {
            return Ok(());
        };
        let freshness = opening.judge()?;
        let (header, sealer) = opening.found.take().ok_or(StoreFault::Unreadable)?;
        let payload = payload_room(header.area_blocks() as usize);
        self.records.limit(payload);
        self.changes.limit(payload);
        let full = header.area_blocks();
        let (area, next, sequence, tag) = match opening.best {
            Some((area, end)) => {
                let next = u32::try_from(end.block).unwrap_or(full);
                (area, next, end.sequence, end.tag)
            }
            None => (Area::First, 0, 0, [0; 16]),
        };
        self.stage = Stage::Open(alloc::boxed::Box::new(Log {
            header,
            sealer,
            freshness,
            area,
            next,
            sequence,
            tag,
            saving: Saving::Nothing,
        }));
        Ok(())
    }
}
