//! Which CPUID leaves the host is asked to put into the CPUID page.
//!
//! A host may fill in more or others; the PSP checks whatever it is, the paravisor reads what it needs.

use stockade_abi::cpuid_page::{CPUID_MAX_ENTRIES, CpuidEntry, CpuidPage};
use zerocopy::IntoBytes;

/// Leaf and subleaf of each entry.
pub const LEAVES: [(u32, u32); 36] = [
    (0x0000_0000, 0),
    (0x0000_0001, 0),
    (0x0000_0002, 0),
    (0x0000_0005, 0),
    (0x0000_0006, 0),
    (0x0000_0007, 0),
    (0x0000_0007, 1),
    (0x0000_000B, 0),
    (0x0000_000B, 1),
    (0x0000_000D, 0),
    (0x0000_000D, 1),
    (0x0000_000D, 2),
    (0x0000_0015, 0),
    (0x0000_0016, 0),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
    (0x8000_0005, 0),
    (0x8000_0006, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
    (0x8000_000A, 0),
    (0x8000_0019, 0),
    (0x8000_001A, 0),
    (0x8000_001B, 0),
    (0x8000_001C, 0),
    (0x8000_001D, 0),
    (0x8000_001D, 1),
    (0x8000_001D, 2),
    (0x8000_001D, 3),
    (0x8000_001E, 0),
    (0x8000_001F, 0),
    (0x8000_0020, 0),
    (0x8000_0021, 0),
];

const _: () = assert!(LEAVES.len() <= CPUID_MAX_ENTRIES);
/// The state that leaf Dh describes: x87 alone, as in the launch VMSA (SNP firmware ABI, section 7.1).
const XCR0: u64 = 1;

/// Returns the page with the questions and no answers.
pub(super) fn page() -> Vec<u8> {
    let mut page = CpuidPage::zeroed();
    for (entry, (leaf, subleaf)) in page.entries.iter_mut().zip(LEAVES) {
        *entry = CpuidEntry {
            eax_in: leaf,
            ecx_in: subleaf,
            xcr0_in: if leaf == 0xD { XCR0 } else { 0 },
            ..CpuidEntry::default()
        };
        page.count += 1;
    }
    page.as_bytes().to_vec()
}
