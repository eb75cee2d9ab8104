//! What a disk is like, and the configuration space that says so (Virtio 1.2, 5.2.4).

use super::{
    BLK_SIZE, CONFIG_WCE, DISCARD, FLUSH, Features, MQ, READ_ONLY, SECTOR_BYTES, SEG_MAX, TOPOLOGY,
    WRITE_ZEROES,
};

/// Where the cache's switch is in the configuration space.
pub(super) const WRITEBACK: u32 = 32;
/// Bytes of the configuration space, secure erase included.
const CONFIG_BYTES: usize = 72;
/// Ranges a discard or write-zeroes request may have.
pub(super) const MAX_RANGES: usize = 16;
const MAX_QUEUES: u16 = 16;
/// A chain has room for as many, and header and status besides.
const MAX_SEGMENTS: u32 = 252;

/// Bounds of a discard request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLimits {
    /// The most sectors of a range.
    pub max_sectors: u32,
    /// Sectors a range should be a multiple of.
    pub alignment: u32,
}

/// Bounds of a write-zeroes request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroLimits {
    /// The most sectors of a range.
    pub max_sectors: u32,
    /// Zeroed ranges may give their space back.
    pub may_unmap: bool,
}

/// What a disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlkOptions {
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// It cannot be written.
    pub is_read_only: bool,
    /// Writes wait in a cache until a flush.
    pub has_cache: bool,
    /// Ranges can be discarded, within these bounds.
    pub discard: Option<RangeLimits>,
    /// Ranges can be zeroed, within these bounds.
    pub write_zeroes: Option<ZeroLimits>,
    /// Its name, padded with zeros.
    pub id: [u8; 20],
    /// Sectors of a physical block, as a power of two.
    pub physical_block_exponent: u8,
    /// Sectors of a good request, 0 if there is no such number.
    pub optimal_sectors: u32,
    /// Queues, 1 to 16.
    pub queues: u16,
    /// Entries of a queue: a power of two, at most 256.
    pub queue_size: u16,
    /// Requests with the engine at a time, at least one.
    pub depth: u16,
    /// Segments of a request, 1 to 252.
    pub seg_max: u32,
}

impl Default for BlkOptions {
    /// An empty disk of 4-KiB blocks with a cache, one queue and requests of up to 126 segments.
    fn default() -> Self {
        Self {
            sectors: 0,
            is_read_only: false,
            has_cache: true,
            discard: None,
            write_zeroes: None,
            id: [0; 20],
            physical_block_exponent: 3,
            optimal_sectors: 0,
            queues: 1,
            queue_size: 256,
            depth: 64,
            seg_max: 126,
        }
    }
}

impl BlkOptions {
    pub(super) fn clamped(mut self) -> Self {
        self.queues = self.queues.clamp(1, MAX_QUEUES);
        let size = self.queue_size.clamp(2, 256);
        self.queue_size = size.checked_next_power_of_two().unwrap_or(256);
        self.depth = self.depth.max(1);
        self.seg_max = self.seg_max.clamp(1, MAX_SEGMENTS);
        self.physical_block_exponent = self.physical_block_exponent.min(8);
        self
    }

    /// Returns how many segments a request's data may lie in: header and status may share theirs with data.
    pub(super) fn segments(&self) -> usize {
        self.seg_max as usize + 2
    }

    pub(super) fn features(&self) -> Features {
        let mut features = Features::COMMON | SEG_MAX | BLK_SIZE | TOPOLOGY;
        features.set(READ_ONLY, self.is_read_only);
        features.set(FLUSH | CONFIG_WCE, self.has_cache);
        features.set(MQ, self.queues > 1);
        features.set(DISCARD, self.discard.is_some());
        features.set(WRITE_ZEROES, self.write_zeroes.is_some());
        features
    }

    /// Returns whether `count` sectors from `sector` on are on the disk.
    pub(super) fn has(&self, sector: u64, count: u64) -> bool {
        sector
            .checked_add(count)
            .is_some_and(|end| end <= self.sectors)
    }

    /// Returns the configuration space.
    pub(super) fn to_bytes(self, is_writeback: bool) -> [u8; CONFIG_BYTES] {
        let mut bytes = [0; CONFIG_BYTES];
        let mut put = |offset: usize, value: &[u8]| {
            if let Some(field) = bytes.get_mut(offset..offset + value.len()) {
                field.copy_from_slice(value);
            }
        };
        let block = u32::try_from(SECTOR_BYTES).unwrap_or(0);
        let physical = 1_u16 << self.physical_block_exponent;
        put(0, &self.sectors.to_le_bytes());
        put(12, &self.seg_max.to_le_bytes());
        put(20, &block.to_le_bytes());
        put(24, &[self.physical_block_exponent]);
        put(26, &physical.to_le_bytes());
        put(28, &self.optimal_sectors.to_le_bytes());
        put(32, &[u8::from(is_writeback)]);
        put(34, &self.queues.to_le_bytes());
        let ranges = u32::try_from(MAX_RANGES).unwrap_or(1).to_le_bytes();
        if let Some(limits) = self.discard {
            put(36, &limits.max_sectors.to_le_bytes());
            put(40, &ranges);
            put(44, &limits.alignment.to_le_bytes());
        }
        if let Some(limits) = self.write_zeroes {
            put(48, &limits.max_sectors.to_le_bytes());
            put(52, &ranges);
            put(56, &[u8::from(limits.may_unmap)]);
        }
        bytes
    }
}
