//! CPUID as the PSP vouched for it at launch (SNP ABI, section 8.17.2.6).
//!
//! [`CpuidTable`] is the private copy of the CPUID page: it answers the paravisor's own CPUID instructions (by #VC) and is
//! what the guest's answers are made from. The host is never asked.

use spin::Once;
use stockade_abi::cpuid_page::{CPUID_MAX_ENTRIES, CpuidEntry, CpuidPage};

use crate::extended;

/// The CPUID page makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the CPUID page claims {0} entries")]
pub struct CpuidPageError(pub u32);

/// The leaves of the CPUID page.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    entries: [CpuidEntry; CPUID_MAX_ENTRIES],
    count: usize,
}

/// Leaf 1, ECX: the operating system has set CR4.OSXSAVE.
const OSXSAVE: u32 = 1 << 27;

impl CpuidTable {
    /// Copies the leaves of `page`.
    pub fn parse(page: &CpuidPage) -> Result<Self, CpuidPageError> {
        let error = CpuidPageError(page.count);
        let count = usize::try_from(page.count).map_err(|_| error)?;
        if count > CPUID_MAX_ENTRIES {
            return Err(error);
        }
        Ok(Self {
            entries: page.entries,
            count,
        })
    }

    /// Returns the entries as the PSP left them.
    #[must_use]
    pub fn entries(&self) -> &[CpuidEntry] {
        &self.entries[..self.count]
    }

    /// Returns EAX, EBX, ECX, EDX of a leaf; zeros if the page has none.
    #[must_use]
    pub fn lookup(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.entries()
            .iter()
            .find(|entry| entry.eax_in == leaf && (entry.ecx_in == subleaf || !has_subleaves(leaf)))
            .map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    /// Returns what the paravisor's own CPUID answers: as [`Self::lookup`], with OSXSAVE as CR4 has it.
    #[must_use]
    pub fn own_answer(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut answer = self.module_answer(leaf, subleaf);
        if leaf == 1 && extended::has_xsave(extended::xcr0(self)) {
            answer[2] |= OSXSAVE;
        }
        answer
    }

    /// Returns what a module's CPUID answers: as [`Self::lookup`], without OSXSAVE, so that it keeps to SSE.
    #[must_use]
    pub fn module_answer(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut answer = self.lookup(leaf, subleaf);
        if leaf == 1 {
            answer[2] &= !OSXSAVE;
        }
        answer
    }
}

/// Returns whether the answer depends on ECX (APM vol. 3, appendix E).
fn has_subleaves(leaf: u32) -> bool {
    matches!(
        leaf,
        4 | 7 | 0xB | 0xD | 0xF | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1D..=0x1F | 0x23 | 0x24
    ) || matches!(leaf, 0x8000_001D | 0x8000_0020 | 0x8000_0026)
}

static TABLE: Once<CpuidTable> = Once::new();

/// Makes `table` the one CPUID is answered from. The first call counts.
pub(crate) fn install(table: CpuidTable) -> &'static CpuidTable {
    TABLE.call_once(|| table)
}

/// Returns the table, once there is one.
pub(crate) fn installed() -> Option<&'static CpuidTable> {
    TABLE.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(leaf: u32, subleaf: u32, eax: u32) -> CpuidEntry {
        CpuidEntry {
            eax_in: leaf,
            ecx_in: subleaf,
            eax,
            ecx: u32::MAX,
            ..CpuidEntry::default()
        }
    }

    fn page(entries: &[CpuidEntry]) -> CpuidPage {
        let mut page = CpuidPage::zeroed();
        page.count = u32::try_from(entries.len()).unwrap();
        page.entries[..entries.len()].copy_from_slice(entries);
        page
    }

    #[test]
    fn subleaves_count_only_where_the_leaf_has_them() {
        let page = page(&[entry(1, 0, 11), entry(7, 0, 70), entry(7, 1, 71)]);
        let table = CpuidTable::parse(&page).unwrap();
        assert_eq!(table.lookup(1, 99)[0], 11);
        assert_eq!(table.lookup(7, 1)[0], 71);
        assert_eq!(table.lookup(7, 2), [0; 4]);
        assert_eq!(table.lookup(0x8000_0000, 0), [0; 4]);
    }

    /// A count beyond the page would read past it.
    #[test]
    fn a_count_beyond_the_page_is_refused() {
        let mut page = page(&[]);
        for count in [65, u32::MAX] {
            page.count = count;
            assert_eq!(CpuidTable::parse(&page).unwrap_err(), CpuidPageError(count));
        }
        page.count = 64;
        assert_eq!(CpuidTable::parse(&page).unwrap().entries().len(), 64);
    }

    /// Code that believes OSXSAVE executes XGETBV, which would fault where CR4 does not have it.
    #[test]
    fn own_answer_claims_osxsave_where_it_is_on_whatever_the_page_says() {
        let without = CpuidTable::parse(&page(&[entry(1, 0, 0)])).unwrap();
        assert_eq!(without.own_answer(1, 0)[2], !OSXSAVE);
        let mut with = page(&[entry(1, 0, 0), entry(0xD, 0, 7)]);
        with.entries[0].ecx = !OSXSAVE;
        let with = CpuidTable::parse(&with).unwrap();
        assert_eq!(with.own_answer(1, 0)[2], u32::MAX);
        assert_eq!(with.module_answer(1, 0)[2], !OSXSAVE);
    }
}
