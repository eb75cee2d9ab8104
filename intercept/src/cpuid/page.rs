//! Looking things up on the CPUID page, and what it must have.

use stockade_abi::cpuid_page::CpuidEntry;

use super::FIRST_EXTENDED_LEAF;

/// Why a CPUID page cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuidError {
    /// The count is zero or beyond the page.
    #[error("{0} entries on the CPUID page")]
    Count(u32),
    /// A leaf nothing works without is missing.
    #[error("leaf {0:#x} is missing from the CPUID page")]
    MissingLeaf(u32),
    /// The same question is answered twice, differently.
    #[error("leaf {0:#x} is twice on the CPUID page")]
    Contradiction(u32),
    /// Not an AMD processor, so not an SNP machine.
    #[error("the CPUID page names another vendor than AMD")]
    Vendor,
    /// More vCPUs than APIC ids, or none.
    #[error("{0} vCPUs")]
    Vcpus(u32),
    /// The TSC or APIC timer frequency is zero, or the TSC slower than Hyper-V's clock.
    #[error("a clock frequency is too low")]
    Frequency,
}

/// Finds the entry of a leaf. Where the subleaf means nothing, hosts put any number into it.
pub(super) fn find(entries: &[CpuidEntry], leaf: u32, subleaf: u32) -> Option<&CpuidEntry> {
    entries
        .iter()
        .find(|entry| entry.eax_in == leaf && (!has_subleaves(leaf) || entry.ecx_in == subleaf))
}

/// Leaves whose answer depends on ECX (APM vol. 3, appendix E).
const fn has_subleaves(leaf: u32) -> bool {
    matches!(
        leaf,
        0x4 | 0x7 | 0xB | 0xD | 0xF | 0x10 | 0x12 | 0x1F | 0x8000_001D | 0x8000_0020 | 0x8000_0026
    )
}

pub(super) fn check_entries(entries: &[CpuidEntry]) -> Result<(), CpuidError> {
    for (index, entry) in entries.iter().enumerate() {
        // Leaf D may be there for several XCR0; only its sizes differ, and those are recomputed.
        let twin = find(&entries[..index], entry.eax_in, entry.ecx_in);
        let differs = |twin: &CpuidEntry| {
            (twin.eax, twin.ebx, twin.ecx, twin.edx) != (entry.eax, entry.ebx, entry.ecx, entry.edx)
        };
        if entry.eax_in != 0xD && twin.is_some_and(differs) {
            return Err(CpuidError::Contradiction(entry.eax_in));
        }
    }
    for leaf in [0, 1, FIRST_EXTENDED_LEAF, 0x8000_0001] {
        find(entries, leaf, 0).ok_or(CpuidError::MissingLeaf(leaf))?;
    }
    match find(entries, 0, 0) {
        Some(entry) if vendor(entry) == *b"AuthenticAMD" => Ok(()),
        _ => Err(CpuidError::Vendor),
    }
}

fn vendor(entry: &CpuidEntry) -> [u8; 12] {
    let mut name = [0; 12];
    name[..4].copy_from_slice(&entry.ebx.to_le_bytes());
    name[4..8].copy_from_slice(&entry.edx.to_le_bytes());
    name[8..].copy_from_slice(&entry.ecx.to_le_bytes());
    name
}
