//! The GHCB page itself: what is read and written of it, and when.

use crate::host::ghcb::{PAGE_BYTES, SHARED_BUFFER};
use crate::snp::addr::Phys;
use core::mem::offset_of;
use stockade_abi::ghcb::{
    Ghcb as Layout, GhcbField, NaeExit, PROTOCOL_VERSION_2, SHARED_BUFFER_SIZE, USAGE_GHCB,
};

/// The GHCB's valid bitmap.
const BITMAP_AT: usize = offset_of!(Layout, valid_bitmap);
const BITMAP: u64 = BITMAP_AT as u64;
/// One past the GHCB's registers and bitmap.
pub(super) const FIELDS_END: usize = BITMAP_AT + 16;
/// One past its shared buffer; version and usage lie beyond.
pub(super) const TAIL: usize = SHARED_BUFFER + SHARED_BUFFER_SIZE;

/// The VMPL to run, when that is what the GHCB at `page` asks in due form: the most frequent request of all, looked at
/// without a copy. Each word is read once; whatever is not quite so goes the long way.
pub(super) fn asked_vmpl(page: Phys) -> Option<u8> {
    let read = |field: GhcbField| page.in_page(field.offset() as u64).read_u64();
    let valid = [BITMAP, BITMAP + 8].map(|word| page.in_page(word).read_u64());
    let has = |field: GhcbField| {
        let (word, bit) = field.valid_mask();
        valid[word] & bit != 0
    };
    let tail = page
        .in_page(offset_of!(Layout, protocol_version) as u64 & !7)
        .read_u64();
    // Version in bytes 2 and 3, usage in the four behind.
    let is_version_2 = tail >> 16 == u64::from(PROTOCOL_VERSION_2) | u64::from(USAGE_GHCB) << 16;
    let fields = [
        GhcbField::SW_EXIT_CODE,
        GhcbField::SW_EXIT_INFO1,
        GhcbField::SW_EXIT_INFO2,
    ];
    if !is_version_2
        || !fields.into_iter().all(has)
        || read(GhcbField::SW_EXIT_CODE) != NaeExit::RUN_VMPL.0
    {
        return None;
    }
    u8::try_from(read(GhcbField::SW_EXIT_INFO1)).ok()
}

/// Copies the GHCB's fields, and the shared buffer when a request can be using it.
pub(super) fn copy_in(page: Phys, copy: &mut [u8; PAGE_BYTES]) {
    page.read_bytes(&mut copy[..FIELDS_END]);
    page.in_page(TAIL as u64).read_bytes(&mut copy[TAIL..]);
    let scratch = GhcbField::SW_SCRATCH.valid_bit();
    if copy[BITMAP_AT + scratch / 8] & 1 << (scratch % 8) != 0 {
        page.in_page(SHARED_BUFFER as u64)
            .read_bytes(&mut copy[SHARED_BUFFER..TAIL]);
    }
}

/// Answers "done" without copying the page: the fields and their valid bits, written where they are.
pub(super) fn answer_in_place(page: Phys) {
    let info1 = GhcbField::SW_EXIT_INFO1;
    let info2 = GhcbField::SW_EXIT_INFO2;
    page.in_page(info1.offset() as u64).write_u64(0);
    page.in_page(info2.offset() as u64).write_u64(0);
    let mut words = [0; 2];
    for field in [info1, info2] {
        let (word, bit) = field.valid_mask();
        words[word] |= bit;
    }
    page.in_page(BITMAP).write_u64(words[0]);
    page.in_page(BITMAP + 8).write_u64(words[1]);
}
