//! The store as it lies in its file. What every field means is in `docs/sealed-store.md`.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use sha2::{Digest, Sha256};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::fault::StoreFault;
use crate::host::{BLOCK_BYTES, HostBlock};
use crate::key::StoreKey;
use crate::nonce::Nonces;

/// What block 0 of a sealed store begins with.
pub const MAGIC: [u8; 8] = *b"STOCKSTO";
const ENTRY_MAGIC: [u8; 8] = *b"STOCKLOG";
const BLOCK: u32 = 4096;
const _: () = assert!(BLOCK as usize == BLOCK_BYTES);
/// The version this program reads and writes.
pub const VERSION: u32 = 1;
/// Blocks of an area at most: 16 MiB.
pub const MOST_AREA_BLOCKS: u32 = 4096;
/// Blocks of an area of a store that is made without further thought: 1 MiB, of which a TPM takes up to 300 KiB and firmware's variables
/// up to 540.
pub const USUAL_AREA_BLOCKS: u32 = 256;
/// Blocks of an area at least.
pub const LEAST_AREA_BLOCKS: u32 = 4;

/// Block 0: what can be known of a store without its key.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    version: U32,
    block_bytes: U32,
    area_blocks: U32,
    flags: U32,
    store: [u8; 16],
    /// SHA-256 of all before it: against accidents, not against the host.
    checksum: [u8; 32],
}

const _: () = assert!(size_of::<Header>() == 72);

/// One of the two areas, used by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// From block 1.
    First,
    /// After the first.
    Second,
}

impl Area {
    /// Returns the other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

impl Header {
    /// Returns the header of a new store, or `None` if there is none of that size. `store` is its identity, drawn at random.
    #[must_use]
    pub fn try_new(area_blocks: u32, store: [u8; 16]) -> Option<Self> {
        if !(LEAST_AREA_BLOCKS..=MOST_AREA_BLOCKS).contains(&area_blocks) {
            return None;
        }
        let mut header = Self {
            magic: MAGIC,
            version: VERSION.into(),
            block_bytes: BLOCK.into(),
            area_blocks: area_blocks.into(),
            flags: 0.into(),
            store,
            checksum: [0; 32],
        };
        let before = size_of::<Self>() - header.checksum.len();
        header.checksum = Sha256::digest(&header.as_bytes()[..before]).into();
        Some(header)
    }

    /// Reads block 0.
    ///
    /// # Errors
    /// `NotAStore`, `Version` or `Header`.
    pub fn read(block: &[u8; BLOCK_BYTES]) -> Result<Self, StoreFault> {
        let (header, _) = Self::read_from_prefix(block).map_err(|_| StoreFault::NotAStore)?;
        if header.magic != MAGIC {
            return Err(StoreFault::NotAStore);
        }
        if header.version.get() != VERSION {
            return Err(StoreFault::Version(header.version.get()));
        }
        // Every field has one right value, that of a new header of this size and identity.
        if Self::try_new(header.area_blocks.get(), header.store).as_ref() != Some(&header) {
            return Err(StoreFault::Header);
        }
        Ok(header)
    }

    /// Returns block 0.
    #[must_use]
    pub fn to_block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        block
    }

    /// Returns the store's identity.
    #[must_use]
    pub fn store(&self) -> &[u8; 16] {
        &self.store
    }

    /// Returns the number of blocks of an area.
    #[must_use]
    pub fn area_blocks(&self) -> u32 {
        self.area_blocks.get()
    }

    /// Returns the number of blocks of the file.
    #[must_use]
    pub fn total_blocks(&self) -> u64 {
        1 + 2 * u64::from(self.area_blocks.get())
    }

    /// Returns a block of an area.
    #[must_use]
    pub fn block(&self, area: Area, index: u32) -> HostBlock {
        let first = match area {
            Area::First => 1,
            Area::Second => 1 + self.area_blocks.get(),
        };
        HostBlock(u64::from(first) + u64::from(index))
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// All records: the first entry of an area.
    Snapshot,
    /// Changes to the records before it.
    Changes,
}

/// Whether an entry ends with this fragment of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It does, so it counts.
    Last,
    /// More of it follows; without its end it is nothing.
    More,
}

/// The bit of the kind that says that more follows.
const MORE: u32 = 1 << 31;
/// The most blocks of a fragment: what is sealed in one step.
pub const FRAGMENT_BLOCKS: usize = 4;
/// The most bytes of the payload of a fragment.
pub const FRAGMENT_PAYLOAD: usize = FRAGMENT_BLOCKS * BLOCK_BYTES - ENTRY_HEADER;

/// Returns how many blocks an entry with so long a payload takes.
#[must_use]
pub fn entry_blocks(payload: usize) -> usize {
    let (whole, rest) = (payload / FRAGMENT_PAYLOAD, payload % FRAGMENT_PAYLOAD);
    let is_partial = rest != 0 || whole == 0;
    let partial = (ENTRY_HEADER + rest).div_ceil(BLOCK_BYTES);
    whole * FRAGMENT_BLOCKS + if is_partial { partial } else { 0 }
}

/// Returns how long the payload of an entry can be in so many blocks.
#[must_use]
pub fn payload_room(blocks: usize) -> usize {
    let (whole, rest) = (blocks / FRAGMENT_BLOCKS, blocks % FRAGMENT_BLOCKS);
    whole * FRAGMENT_PAYLOAD + (rest * BLOCK_BYTES).saturating_sub(ENTRY_HEADER)
}

/// The first bytes of a fragment of an entry; its payload, encrypted, follows.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct EntryHeader {
    magic: [u8; 8],
    /// Grows by one with each fragment, whatever its area.
    pub sequence: U64,
    kind: U32,
    /// Bytes of the payload.
    pub length: U32,
    /// The tag of the fragment before it; zeros before the very first.
    pub previous: [u8; 16],
    nonce: [u8; 12],
    /// Authenticates all before it and the payload.
    pub tag: [u8; 16],
}

/// Bytes before the payload.
pub const ENTRY_HEADER: usize = size_of::<EntryHeader>();
const _: () = assert!(ENTRY_HEADER == 68);

impl EntryHeader {
    /// Reads what may be an entry, without having checked anything but its length.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = Self::read_from_prefix(bytes).ok()?;
        let fits = usize::try_from(header.length.get()).is_ok_and(|length| length <= rest.len());
        (header.magic == ENTRY_MAGIC && header.kind().is_some() && fits).then_some(header)
    }

    /// Returns what it is.
    #[must_use]
    pub fn kind(&self) -> Option<EntryKind> {
        match self.kind.get() & !MORE {
            1 => Some(EntryKind::Snapshot),
            2 => Some(EntryKind::Changes),
            _ => None,
        }
    }

    /// Returns whether the entry ends with it.
    #[must_use]
    pub fn part(&self) -> Part {
        match self.kind.get() & MORE {
            0 => Part::Last,
            _ => Part::More,
        }
    }

    /// Returns the number of blocks it takes.
    #[must_use]
    pub fn blocks(&self) -> usize {
        (ENTRY_HEADER + self.length.get() as usize).div_ceil(BLOCK_BYTES)
    }

    fn sealed(&self) -> &[u8] {
        &self.as_bytes()[..ENTRY_HEADER - self.tag.len() - self.nonce.len()]
    }
}

/// The key of a store.
pub struct Sealer {
    cipher: Aes256Gcm,
    nonces: Nonces,
}

impl core::fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    /// Derives the key of the store with this identity; `entropy` must be new each time.
    #[must_use]
    pub fn new(key: &StoreKey, store: &[u8; 16], entropy: &[u8; 32]) -> Self {
        Self {
            cipher: Aes256Gcm::new(key.part(store, "records").bytes().into()),
            nonces: Nonces::new(key.part(store, "nonce"), entropy),
        }
    }

    /// Makes a fragment of a payload, which it encrypts in place.
    pub fn seal(
        &mut self,
        (kind, part): (EntryKind, Part),
        sequence: u64,
        previous: [u8; 16],
        payload: &mut [u8],
    ) -> EntryHeader {
        let mut header = EntryHeader {
            magic: ENTRY_MAGIC,
            sequence: sequence.into(),
            kind: (match kind {
                EntryKind::Snapshot => 1,
                EntryKind::Changes => 2,
            } | match part {
                Part::Last => 0,
                Part::More => MORE,
            })
            .into(),
            length: u32::try_from(payload.len()).unwrap_or(u32::MAX).into(),
            previous,
            nonce: self.nonces.next(),
            tag: [0; 16],
        };
        let tag = self
            .cipher
            .encrypt_inout_detached(&header.nonce.into(), header.sealed(), payload.into())
            .expect("an area is far shorter than GCM's limit");
        header.tag = tag.into();
        header
    }

    /// Decrypts the payload of an entry in place; `false` if it is not authentic, and then it is as it was.
    pub fn open(&self, header: &EntryHeader, payload: &mut [u8]) -> bool {
        let (nonce, tag) = (header.nonce.into(), header.tag.into());
        self.cipher
            .decrypt_inout_detached(&nonce, header.sealed(), payload.into(), &tag)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Area, ENTRY_HEADER, EntryHeader, EntryKind, FRAGMENT_PAYLOAD, Header, Part, Sealer,
        entry_blocks, payload_room,
    };
    use crate::host::HostBlock;
    use crate::key::StoreKey;
    use zerocopy::IntoBytes;

    #[test]
    fn a_header_reads_back_and_any_changed_bit_of_it_is_noticed() {
        let header = Header::try_new(8, [3; 16]).unwrap();
        let block = header.to_block();
        assert_eq!(Header::read(&block), Ok(header));
        for bit in 0..8 * size_of::<Header>() {
            let mut block = block;
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&block).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn areas_do_not_overlap() {
        let header = Header::try_new(8, [3; 16]).unwrap();
        assert_eq!(header.block(Area::First, 7), HostBlock(8));
        assert_eq!(header.block(Area::First.other(), 0), HostBlock(9));
        assert_eq!(header.total_blocks(), 17);
        assert_eq!(Header::try_new(3, [3; 16]), None);
        assert_eq!(Header::try_new(4097, [3; 16]), None);
    }

    #[test]
    fn payloads_and_blocks_agree() {
        for (payload, blocks) in [
            (0, 1),
            (4028, 1),
            (4029, 2),
            (FRAGMENT_PAYLOAD, 4),
            (FRAGMENT_PAYLOAD + 1, 5),
        ] {
            assert_eq!(entry_blocks(payload), blocks, "{payload}");
        }
        for blocks in 1..40 {
            let room = payload_room(blocks);
            assert_eq!(entry_blocks(room), blocks);
            assert!(entry_blocks(room + 1) > blocks);
        }
    }

    #[test]
    fn an_entry_opens_only_unchanged() {
        let mut sealer = Sealer::new(&StoreKey::new([1; 32]), &[2; 16], &[3; 32]);
        let mut payload = *b"a secret";
        let header = sealer.seal((EntryKind::Changes, Part::More), 5, [6; 16], &mut payload);
        assert_ne!(&payload, b"a secret");
        assert_eq!(header.part(), Part::More);
        assert_eq!(header.kind(), Some(EntryKind::Changes));
        for bit in 0..8 * (ENTRY_HEADER + payload.len()) {
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend(payload);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = EntryHeader::read(&bytes);
            let opens = changed.is_some_and(|header| {
                let length = header.length.get() as usize;
                sealer.open(&header, &mut bytes[ENTRY_HEADER..ENTRY_HEADER + length])
            });
            assert!(!opens, "bit {bit}");
        }
        assert!(sealer.open(&header, &mut payload));
        assert_eq!(&payload, b"a secret");
    }
}
