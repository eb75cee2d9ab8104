//! Extended state: which components a guest may switch on and how big its save area is (APM vol. 2, 11.5; volume 3, leaf D).
//!
//! Sizes and offsets come from the PSP-checked page, one entry a component. What the page says for one particular XCR0 is not used:
//! the size is recomputed from the guest's own XCR0 and XSS on every question.

use stockade_abi::cpuid_page::CpuidEntry;

use super::CpuidResult;
use super::features::LeafDSub1Eax;

/// Bytes of the legacy region and the header.
const HEADER_END: u32 = 576;
/// x87 and SSE: always there with XSAVE.
const LEGACY: u64 = 0b11;
const AVX: u64 = 1 << 2;
/// Opmask, upper halves and upper registers: all or none.
const AVX512: u64 = 0b111 << 5;
const PKRU: u64 = 1 << 9;
/// Components with a meaning for the paravisor; whatever else the page offers is not passed on.
const KNOWN: u64 = LEGACY | AVX | AVX512 | PKRU;

/// In ECX of a component: its place in the compacted form is aligned to 64 bytes.
const COMPONENT_ALIGNED: u32 = 1 << 1;

/// One component's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Component {
    size: u32,
    offset: u32,
    flags: u32,
}

/// The components of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Xsave {
    allowed: u64,
    instructions: u32,
    components: [Component; Self::COMPONENTS],
}

impl Xsave {
    /// Components 0 to 9; the highest known is PKRU.
    const COMPONENTS: usize = 10;

    /// Collects the components from a page; `find` looks up a subleaf of leaf D.
    pub(super) fn new<'p>(find: impl Fn(u32) -> Option<&'p CpuidEntry>) -> Self {
        let Some(main) = find(0) else {
            return Self::default();
        };
        let mut offered = (u64::from(main.edx) << 32 | u64::from(main.eax)) & KNOWN;
        if offered & LEGACY != LEGACY {
            return Self::default();
        }
        let mut components = [Component::default(); Self::COMPONENTS];
        for (component, number) in components.iter_mut().zip(0_u32..).skip(2) {
            if offered >> number & 1 == 0 {
                continue;
            }
            match find(number) {
                Some(entry) if is_plausible(entry) => {
                    *component = Component {
                        size: entry.eax,
                        offset: entry.ebx,
                        flags: entry.ecx & COMPONENT_ALIGNED,
                    };
                }
                _ => offered &= !(1 << number),
            }
        }
        if offered & AVX512 != AVX512 || offered & AVX == 0 {
            offered &= !AVX512;
        }
        Self {
            allowed: offered,
            instructions: find(1).map_or(0, |entry| entry.eax) & LeafDSub1Eax::all().bits(),
            components,
        }
    }

    /// Bits a guest may set in XCR0; zero without XSAVE.
    pub(super) const fn allowed(&self) -> u64 {
        self.allowed
    }

    /// Whether XSS exists: it has no bits then, as no supervisor state is offered.
    pub(super) const fn has_xss(&self) -> bool {
        self.instructions & LeafDSub1Eax::XSAVES.bits() != 0
    }

    /// Whether XSETBV takes `value` for XCR0 (APM vol. 2, 11.5.2).
    pub(super) const fn is_valid_xcr0(&self, value: u64) -> bool {
        let avx512 = value & AVX512;
        value & 1 == 1
            && value & !self.allowed == 0
            && (value & AVX == 0 || value & LEGACY == LEGACY)
            && (avx512 == 0 || (avx512 == AVX512 && value & AVX != 0))
    }

    /// Answers a subleaf of leaf D.
    pub(super) fn leaf(&self, subleaf: u32, xcr0: u64, xss: u64) -> CpuidResult {
        match subleaf {
            _ if self.allowed == 0 => CpuidResult::ZERO,
            0 => {
                let [eax, edx] = halves(self.allowed);
                CpuidResult {
                    eax,
                    ebx: self.standard_size(xcr0),
                    ecx: self.standard_size(self.allowed),
                    edx,
                }
            }
            1 => CpuidResult {
                eax: self.instructions,
                ebx: self.compacted_size(xcr0 | xss),
                ecx: 0,
                edx: 0,
            },
            2..64 if self.allowed >> subleaf & 1 == 1 => {
                self.enabled(1 << subleaf)
                    .next()
                    .map_or(CpuidResult::ZERO, |component| CpuidResult {
                        eax: component.size,
                        ebx: component.offset,
                        ecx: component.flags,
                        edx: 0,
                    })
            }
            _ => CpuidResult::ZERO,
        }
    }

    /// End of the highest component of `mask` in the standard form.
    fn standard_size(&self, mask: u64) -> u32 {
        self.enabled(mask)
            .map(|component| component.offset.saturating_add(component.size))
            .fold(HEADER_END, u32::max)
    }

    /// End of the last component of `mask` in the compacted form.
    fn compacted_size(&self, mask: u64) -> u32 {
        self.enabled(mask).fold(HEADER_END, |end, component| {
            let start = if component.flags & COMPONENT_ALIGNED == 0 {
                end
            } else {
                end.next_multiple_of(64)
            };
            start.saturating_add(component.size)
        })
    }

    fn enabled(&self, mask: u64) -> impl Iterator<Item = &Component> {
        let mask = mask & self.allowed & !LEGACY;
        self.components
            .iter()
            .zip(0_u32..)
            .filter(move |(_, number)| mask >> number & 1 == 1)
            .map(|(component, _)| component)
    }
}

/// A component lies behind the header and is not absurdly big: what the page says becomes arithmetic.
const fn is_plausible(entry: &CpuidEntry) -> bool {
    entry.eax != 0 && entry.eax <= 0x1_0000 && entry.ebx >= HEADER_END && entry.ebx <= 0x1_0000
}

#[expect(clippy::cast_possible_truncation, reason = "split into halves")]
const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn entry(ecx_in: u32, eax: u32, ebx: u32, ecx: u32) -> CpuidEntry {
        CpuidEntry {
            eax_in: 0xD,
            ecx_in,
            eax,
            ebx,
            ecx,
            ..CpuidEntry::default()
        }
    }

    /// As a Zen 4 has them.
    fn page(mask: u32) -> Vec<CpuidEntry> {
        [
            entry(0, mask, 0, 0),
            entry(1, 0xF, 0, 0),
            entry(2, 256, 576, 0),
            entry(5, 64, 832, 0),
            entry(6, 512, 896, 0),
            entry(7, 1024, 1408, 0),
            entry(9, 8, 2432, 0),
        ]
        .into()
    }

    fn xsave(page: &[CpuidEntry]) -> Xsave {
        Xsave::new(|subleaf| page.iter().find(|entry| entry.ecx_in == subleaf))
    }

    #[test]
    fn size_follows_the_enabled_components() {
        let xsave = xsave(&page(0x2E7));
        for (xcr0, standard, compacted) in [
            (1, 576, 576),
            (3, 576, 576),
            (7, 832, 832),
            (0x207, 2440, 840),
            (0xE7, 2432, 2432),
            (0x2E7, 2440, 2440),
        ] {
            assert_eq!(xsave.leaf(0, xcr0, 0).ebx, standard, "{xcr0:#x}");
            assert_eq!(xsave.leaf(1, xcr0, 0).ebx, compacted, "{xcr0:#x}");
            assert_eq!(xsave.leaf(0, xcr0, 0).ecx, 2440);
        }
    }

    #[test]
    fn aligned_component_starts_at_64_bytes_in_the_compacted_form() {
        let mut page = page(0x207);
        page[2].eax = 250;
        let last = page.len() - 1;
        page[last].ecx = COMPONENT_ALIGNED;
        assert_eq!(xsave(&page).leaf(1, 0x207, 0).ebx, 832 + 8);
    }

    #[test]
    fn unknown_components_and_those_without_entry_are_not_offered() {
        assert_eq!(xsave(&page(0xFFFF_FFFF)).allowed(), 0x2E7);
        let short = &page(0x2E7)[..4];
        assert_eq!(xsave(short).allowed(), 0b111);
        assert_eq!(xsave(short).leaf(9, 7, 0), CpuidResult::ZERO);
        assert_eq!(xsave(&[]).leaf(0, 1, 0), CpuidResult::ZERO);
    }

    #[test]
    fn absurd_component_is_not_offered() {
        let mut page = page(7);
        page[2].eax = u32::MAX;
        assert_eq!(xsave(&page).allowed(), 3);
    }

    #[test]
    fn xcr0_obeys_the_dependencies_of_its_bits() {
        let xsave = xsave(&page(0x2E7));
        for good in [1, 3, 7, 0x207, 0xE7, 0x2E7, 0x201] {
            assert!(xsave.is_valid_xcr0(good), "{good:#x}");
        }
        for bad in [0, 2, 5, 4, 0x27, 0x67, 0xE3, 0xF, 1 << 63 | 1, 0x400_0001] {
            assert!(!xsave.is_valid_xcr0(bad), "{bad:#x}");
        }
    }

    #[test]
    fn sizes_survive_any_subleaf_and_mask() {
        let xsave = xsave(&page(0x2E7));
        for subleaf in [0, 1, 2, 9, 10, 63, 64, u32::MAX] {
            let answer = xsave.leaf(subleaf, u64::MAX, u64::MAX);
            assert!(answer.ebx <= 2440);
        }
    }
}
