//! Header and superblock as they lie on the disk. What every field means is in `docs/sealed-disk.md`.

use sha2::{Digest, Sha256};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{Entry, FAN_OUT};
use super::fault::Fault;
use super::geometry::Geometry;
use super::seals::{Forged, Seals};
use crate::host::{BLOCK_BYTES, HostBlock};

/// What block 0 of a sealed disk begins with.
pub const MAGIC: [u8; 8] = *b"STOCKDSK";
/// The block size as the header has it.
const BLOCK: u32 = 4096;
const _: () = assert!(BLOCK as usize == BLOCK_BYTES);
const SUPERBLOCK_MAGIC: [u8; 8] = *b"STOCKSUP";
/// The version this program reads and writes.
pub const VERSION: u32 = 1;

/// Block 0: what can be known of a disk without its key.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    version: U32,
    block_bytes: U32,
    fan_out: U32,
    /// All zero; a bit unknown to the reader is a version unknown to it.
    flags: U32,
    logical_blocks: U64,
    data_blocks: U64,
    total_blocks: U64,
    disk: [u8; 16],
    /// SHA-256 of all before it: against accidents, not against the host.
    checksum: [u8; 32],
}

const _: () = assert!(size_of::<Header>() == 96);

impl Header {
    /// Returns the header of a new disk. `disk` is its identity, drawn at random.
    #[must_use]
    pub fn new(geometry: &Geometry, disk: [u8; 16]) -> Self {
        let mut header = Self {
            magic: MAGIC,
            version: VERSION.into(),
            block_bytes: BLOCK.into(),
            fan_out: FAN_OUT.into(),
            flags: 0.into(),
            logical_blocks: geometry.logical_blocks().into(),
            data_blocks: geometry.data_blocks().into(),
            total_blocks: geometry.total_blocks().into(),
            disk,
            checksum: [0; 32],
        };
        header.checksum = header.sum();
        header
    }

    /// Reads block 0.
    ///
    /// # Errors
    /// `NotSealed`, `Version` or `Header`.
    pub fn read(block: &[u8; BLOCK_BYTES]) -> Result<(Self, Geometry), Fault> {
        let (header, _) = Self::read_from_prefix(block).map_err(|_| Fault::NotSealed)?;
        if header.magic != MAGIC {
            return Err(Fault::NotSealed);
        }
        if header.version.get() != VERSION {
            return Err(Fault::Version(header.version.get()));
        }
        let geometry = Geometry::try_new(header.logical_blocks.get()).ok_or(Fault::Header)?;
        // Every field has one right value, that of a new header of this size and identity.
        if header != Self::new(&geometry, header.disk) {
            return Err(Fault::Header);
        }
        Ok((header, geometry))
    }

    /// Returns the disk's identity.
    #[must_use]
    pub fn disk(&self) -> &[u8; 16] {
        &self.disk
    }

    /// Returns block 0.
    #[must_use]
    pub fn to_block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        block
    }

    fn sum(&self) -> [u8; 32] {
        let before = size_of::<Self>() - self.checksum.len();
        Sha256::digest(&self.as_bytes()[..before]).into()
    }
}

/// The root of the tree: one of two blocks, by turns.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Superblock {
    magic: [u8; 8],
    /// Grows by one with each commit, from 1.
    pub generation: U64,
    /// Points to the top node; absent on an empty disk.
    pub root: Entry,
    /// Where to look for free blocks first; any number will do.
    pub cursor: U32,
    history: U32,
    /// HMAC-SHA-256 of the header and all before it.
    pub code: [u8; 32],
}

const _: () = assert!(size_of::<Superblock>() == 88);

/// Whether a store has ever remembered a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// None that is known of.
    Unanchored,
    /// One has an anchor of an earlier generation: a store without any is not that store, or an older one.
    Anchored,
}

impl Superblock {
    /// Makes an authentic superblock.
    #[must_use]
    pub fn new(seals: &Seals, header: &Header, generation: u64, root: Entry, cursor: u32) -> Self {
        Self::with_history(seals, header, generation, root, cursor, History::Unanchored)
    }

    /// Makes an authentic superblock of a disk with a history.
    #[must_use]
    pub fn with_history(
        seals: &Seals,
        header: &Header,
        generation: u64,
        root: Entry,
        cursor: u32,
        history: History,
    ) -> Self {
        let mut superblock = Self {
            magic: SUPERBLOCK_MAGIC,
            generation: generation.into(),
            root,
            cursor: cursor.into(),
            history: u32::from(history == History::Anchored).into(),
            code: [0; 32],
        };
        superblock.code = seals.superblock_code(header.as_bytes(), superblock.sealed());
        superblock
    }

    /// Reads a superblock without a key: what it claims to be.
    #[must_use]
    pub fn read_unverified(block: &[u8; BLOCK_BYTES]) -> Option<Self> {
        let (superblock, _) = Self::read_from_prefix(block).ok()?;
        (superblock.magic == SUPERBLOCK_MAGIC && superblock.generation.get() != 0)
            .then_some(superblock)
    }

    /// Reads the superblock of one of the two blocks.
    ///
    /// # Errors
    /// It is not authentic, or one of the other block.
    pub fn read(
        seals: &Seals,
        header: &Header,
        at: HostBlock,
        block: &[u8; BLOCK_BYTES],
    ) -> Result<Self, Forged> {
        let superblock = Self::read_unverified(block).ok_or(Forged)?;
        seals.check_superblock(header.as_bytes(), superblock.sealed(), &superblock.code)?;
        if superblock.place() == at {
            Ok(superblock)
        } else {
            Err(Forged)
        }
    }

    /// Returns whether a store has remembered the disk.
    #[must_use]
    pub fn history(&self) -> History {
        match self.history.get() {
            0 => History::Unanchored,
            _ => History::Anchored,
        }
    }

    /// Returns the block it belongs in: 1 or 2.
    #[must_use]
    pub fn place(&self) -> HostBlock {
        HostBlock(1 + self.generation.get() % 2)
    }

    /// Fills a block with it.
    pub fn write(&self, block: &mut [u8; BLOCK_BYTES]) {
        block.fill(0);
        block[..size_of::<Self>()].copy_from_slice(self.as_bytes());
    }

    fn sealed(&self) -> &[u8] {
        &self.as_bytes()[..size_of::<Self>() - self.code.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, Superblock};
    use crate::disk::entry::Entry;
    use crate::disk::fault::Fault;
    use crate::disk::geometry::Geometry;
    use crate::disk::seals::{Forged, Seals};
    use crate::host::{BLOCK_BYTES, HostBlock};
    use crate::key::DiskKey;

    fn header() -> Header {
        Header::new(&Geometry::try_new(1000).unwrap(), [3; 16])
    }

    #[test]
    fn a_header_reads_back_and_any_changed_bit_of_it_is_noticed() {
        let block = header().to_block();
        let (read, geometry) = Header::read(&block).unwrap();
        assert_eq!((read, geometry.logical_blocks()), (header(), 1000));
        for bit in 0..8 * size_of::<Header>() {
            let mut block = block;
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&block).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn headers_of_others_are_told_apart() {
        assert_eq!(Header::read(&[0; BLOCK_BYTES]), Err(Fault::NotSealed));
        let mut block = header().to_block();
        block[8] = 2;
        assert_eq!(Header::read(&block), Err(Fault::Version(2)));
    }

    #[test]
    fn a_superblock_reads_back_only_where_it_belongs_and_unchanged() {
        let seals = Seals::new(&DiskKey::new([1; 32]), &[3; 16], &[0; 32]);
        let superblock = Superblock::new(&seals, &header(), 7, Entry::of_data(1), 9);
        let mut block = [0; BLOCK_BYTES];
        superblock.write(&mut block);
        let read = |at, block: &[u8; BLOCK_BYTES]| {
            Superblock::read(&seals, &header(), HostBlock(at), block)
        };
        assert_eq!(read(2, &block), Ok(superblock.clone()));
        assert_eq!(read(1, &block), Err(Forged));
        for bit in 0..8 * size_of::<Superblock>() {
            let mut block = block;
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(2, &block), Err(Forged), "bit {bit}");
        }
    }
}
