//! The page state change list (GHCB 4.1.6): a header, up to 253 entries, progress told in place.

use stockade_abi::ghcb::{PSC_MAX_ENTRIES, PscEntry, PscHeader, PscOperation, psc_error};

/// What is to become of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Assign it to the guest.
    Private,
    /// Take it back.
    Shared,
    /// Split a 2 MiB RMP entry.
    Psmash,
    /// Join 4 KiB RMP entries.
    Unsmash,
}

impl Operation {
    /// Decodes the number both protocols use.
    #[must_use]
    pub const fn decode(operation: PscOperation) -> Option<Self> {
        match operation {
            PscOperation::PRIVATE => Some(Self::Private),
            PscOperation::SHARED => Some(Self::Shared),
            PscOperation::PSMASH => Some(Self::Psmash),
            PscOperation::UNSMASH => Some(Self::Unsmash),
            _ => None,
        }
    }
}

/// Page size of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl PageSize {
    /// Returns how many 4 KiB pages this is.
    #[must_use]
    pub const fn pages(self) -> u16 {
        match self {
            Self::Small => 1,
            Self::Large => 512,
        }
    }
}

/// One change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Guest-physical address of the page, aligned to its size.
    pub gpa: u64,
    /// Page size.
    pub size: PageSize,
    /// First 4 KiB page not yet done: 0 unless the guest resumes a half-done 2 MiB page.
    pub first: u16,
    /// What to do.
    pub operation: Operation,
}

/// A change the host could not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

const HEADER_BYTES: usize = size_of::<PscHeader>();

/// Works through the list in `buffer` (the bytes of the scratch area), calling `apply` for each change in order, and
/// returns `SW_EXITINFO2`: 0 when all is done. Progress is written into `buffer`, which goes back to the guest.
pub fn process(buffer: &mut [u8], mut apply: impl FnMut(Change) -> Result<(), Refused>) -> u64 {
    let Some((mut current, end)) = read_header(buffer) else {
        return psc_error::INVALID_HEADER;
    };
    while current <= end {
        let at = HEADER_BYTES + 8 * usize::from(current);
        let entry = read_entry(buffer, at);
        let Some(change) = check_entry(entry) else {
            return psc_error::INVALID_ENTRY;
        };
        let all = change.size.pages();
        if change.first < all {
            if apply(change).is_err() {
                return psc_error::GENERIC;
            }
            let done = entry.with_cur_page(all).into_bits();
            buffer[at..at + 8].copy_from_slice(&done.to_le_bytes());
        }
        current += 1;
        buffer[..2].copy_from_slice(&current.to_le_bytes());
    }
    0
}

/// Current and last entry, both within the buffer and the specification's bound.
fn read_header(buffer: &[u8]) -> Option<(u16, u16)> {
    let [current_low, current_high, end_low, end_high, ..] =
        *buffer.first_chunk::<HEADER_BYTES>()?;
    let current = u16::from_le_bytes([current_low, current_high]);
    let end = u16::from_le_bytes([end_low, end_high]);
    let capacity = PSC_MAX_ENTRIES.min((buffer.len() - HEADER_BYTES) / 8);
    (current <= end && usize::from(end) < capacity).then_some((current, end))
}

fn read_entry(buffer: &[u8], at: usize) -> PscEntry {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&buffer[at..at + 8]);
    PscEntry::from_bits(u64::from_le_bytes(bytes))
}

fn check_entry(entry: PscEntry) -> Option<Change> {
    let reserved = entry.into_bits() >> 57;
    let size = if entry.huge() {
        PageSize::Large
    } else {
        PageSize::Small
    };
    let operation = Operation::decode(entry.operation())?;
    let aligned = entry.gfn().is_multiple_of(u64::from(size.pages()));
    (reserved == 0 && aligned && entry.cur_page() <= size.pages()).then_some(Change {
        gpa: entry.gfn() << 12,
        size,
        first: entry.cur_page(),
        operation,
    })
}
