//! The extended state this paravisor has on: AVX where the processor has it, since the libraries hash and encrypt by it.
//!
//! Hardware keeps x87, XMM, YMM and XCR0 of VMPL0 apart from the guest's, in the VMSAs (APM vol. 2, table B-4). ZMM has no place there, so AVX-512
//! stays off. Modules have states of their own ([`crate::module`]). Exceptions save XMM only: nothing they call uses AVX, and what does
//! not leaves the upper halves alone.

use crate::cpuid::CpuidTable;

/// XCR0: x87, SSE and AVX (APM vol. 2, 11.5.2).
pub(crate) const X87_SSE_AVX: u64 = 7;
/// XCR0 where XSETBV was never executed.
const X87: u64 = 1;
/// XCR0 and CPUID leaf Dh, EAX: AVX.
const AVX_STATE: u32 = 1 << 2;
/// CPUID leaf 1, ECX: XSAVE, and AVX.
const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;

/// Returns what XCR0 of the paravisor is to be, by the page the PSP has checked: a host can hide AVX, not invent it.
pub(crate) fn xcr0(cpuid: &CpuidTable) -> u64 {
    let [_, _, features, _] = cpuid.lookup(1, 0);
    let [states, ..] = cpuid.lookup(0xD, 0);
    if features & XSAVE_AND_AVX == XSAVE_AND_AVX && states & AVX_STATE != 0 {
        X87_SSE_AVX
    } else {
        X87
    }
}

/// Returns whether CR4.OSXSAVE is on with such an XCR0.
pub(crate) fn has_xsave(xcr0: u64) -> bool {
    xcr0 != X87
}

/// Returns the states XSAVE64 is to store of a module, none if that is FXSAVE64's to do.
#[cfg(feature = "image")]
pub(crate) fn xsave_states(cpuid: &CpuidTable) -> u64 {
    let xcr0 = xcr0(cpuid);
    if has_xsave(xcr0) { xcr0 } else { 0 }
}

/// Turns the states on, on this processor. To be done before anybody asks CPUID what there is: the libraries remember the answer.
#[cfg(feature = "image")]
pub(crate) fn enable(cpuid: &CpuidTable) {
    use x86::controlregs::{Cr4, Xcr0, cr4, cr4_write, xcr0_write};

    let xcr0 = xcr0(cpuid);
    if has_xsave(xcr0) {
        // SAFETY: reading a control register changes nothing.
        let cr4 = unsafe { cr4() };
        // SAFETY: the processor has XSAVE, so the bit is no fault; no other changes.
        unsafe { cr4_write(cr4 | Cr4::CR4_ENABLE_OS_XSAVE) };
        // SAFETY: OSXSAVE is on and the processor has these states. Nothing is in YMM yet. A host has no business with XSETBV of such a guest: one that
        // intercepts it all the same raises #VC, and the machine stops.
        unsafe { xcr0_write(Xcr0::from_bits_truncate(xcr0)) };
    }
}

#[cfg(test)]
mod tests {
    use stockade_abi::cpuid_page::{CpuidEntry, CpuidPage};

    use super::{X87, X87_SSE_AVX, has_xsave, xcr0};
    use crate::cpuid::CpuidTable;

    fn table(features: u32, states: u32) -> CpuidTable {
        let mut page = CpuidPage::zeroed();
        page.count = 2;
        page.entries[0] = CpuidEntry {
            eax_in: 1,
            ecx: features,
            ..CpuidEntry::default()
        };
        page.entries[1] = CpuidEntry {
            eax_in: 0xD,
            eax: states,
            ..CpuidEntry::default()
        };
        CpuidTable::parse(&page).unwrap()
    }

    #[test]
    fn avx_is_on_where_the_page_has_all_it_needs_and_never_more() {
        let (xsave, avx) = (1 << 26, 1 << 28);
        assert_eq!(xcr0(&table(xsave | avx, 0x7)), X87_SSE_AVX);
        // AVX-512 and PKRU, which the processor may have too.
        assert_eq!(xcr0(&table(u32::MAX, 0x2E7)), X87_SSE_AVX);
        for (features, states) in [(0, 7), (xsave, 7), (avx, 7), (xsave | avx, 3)] {
            let without = xcr0(&table(features, states));
            assert_eq!((without, has_xsave(without)), (X87, false));
        }
    }
}
