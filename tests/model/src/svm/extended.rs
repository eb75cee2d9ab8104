//! The processor state neither VMRUN nor VMLOAD swaps: x87, SSE, AVX, PKRU, XCR0, DR0-3, TSC_AUX.
//!
//! An [`ExtendedState`] holds all of it for one guest context. [`run()`](super::run()) loads it before VMRUN and stores it
//! after the exit, every component the processor has, so that nothing passes from one context to the next.

use alloc::boxed::Box;
use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _xsetbv};
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The XSAVE area in standard format. APM vol. 2, 11.5.2.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C, align(64))]
pub struct Xsave {
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// Abridged x87 tag word: bit n set when register n is in use.
    pub ftw: u8,
    reserved_5: u8,
    /// Last x87 opcode.
    pub fop: u16,
    /// Last x87 instruction pointer.
    pub rip: u64,
    /// Last x87 data pointer.
    pub rdp: u64,
    /// SSE control and status.
    pub mxcsr: u32,
    /// Bits of MXCSR that may be set.
    pub mxcsr_mask: u32,
    /// x87 registers, ST(0) first, 10 of each 16 bytes used.
    pub st: [[u8; 16]; 8],
    /// XMM0-15.
    pub xmm: [[u8; 16]; 16],
    reserved_1a0: [u8; 0x60],
    /// Components present; what is absent here is in its initial state.
    pub xstate_bv: u64,
    /// Zero: standard format.
    pub xcomp_bv: u64,
    reserved_210: [u8; 0x30],
    /// Upper halves of YMM0-15.
    pub ymm_high: [[u8; 16]; 16],
    rest: [u8; 0x1000 - 0x340],
}

const _: () = assert!(size_of::<Xsave>() == 0x1000);
const _: () = assert!(offset_of!(Xsave, mxcsr) == 24);
const _: () = assert!(offset_of!(Xsave, xmm) == 160);
const _: () = assert!(offset_of!(Xsave, xstate_bv) == 512);
const _: () = assert!(offset_of!(Xsave, ymm_high) == 576);

/// What one guest context keeps outside its VMCB and [`GuestRegisters`](super::GuestRegisters).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C, align(64))]
pub struct ExtendedState {
    /// x87, SSE, AVX, PKRU.
    pub xsave: Xsave,
    /// The guest's XCR0. QEMU 7.2 cannot intercept XSETBV, so it may differ after any exit.
    pub xcr0: u64,
    /// DR0 to DR3.
    pub debug: [u64; 4],
    /// TSC_AUX.
    pub tsc_aux: u64,
    reserved: [u64; 2],
}

impl ExtendedState {
    /// Returns the state after RESET. APM vol. 2, table 14-1.
    #[must_use]
    pub fn new_reset() -> Box<Self> {
        // The allocation fails as any other in this program does: by a panic of the model.
        let mut state = Self::new_box_zeroed().unwrap_or_else(|_| {
            alloc::alloc::handle_alloc_error(core::alloc::Layout::new::<Self>())
        });
        state.xsave.fcw = 0x40;
        state.xsave.mxcsr = 0x1F80;
        state.xsave.xstate_bv = Xsave::X87 | Xsave::SSE;
        state.xcr0 = 1;
        state
    }
}

impl ExtendedState {
    /// Clears what XRSTOR would fault on; says whether XCR0 is one a processor accepts. APM vol. 2, 11.5.
    pub(super) fn make_loadable(&mut self) -> bool {
        let supported = supported();
        self.xsave.mxcsr &= MXCSR_VALID;
        self.xsave.xstate_bv &= supported;
        self.xsave.xcomp_bv = 0;
        self.xsave.reserved_210.fill(0);
        is_valid_xcr0(self.xcr0, supported)
    }

    /// Loads what the host itself does not use.
    pub(super) fn load_registers(&self) {
        let [dr0, dr1, dr2, dr3] = self.debug;
        // SAFETY: DR7 is clear in the host, so these mean nothing to it.
        unsafe {
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3,
                options(nomem, nostack, preserves_flags));
        }
        // SAFETY: TSC_AUX means nothing to the host.
        unsafe { x86::msr::wrmsr(TSC_AUX, self.tsc_aux) };
    }

    /// Stores it again.
    pub(super) fn store_registers(&mut self) {
        let [dr0, dr1, dr2, dr3];
        // SAFETY: reading debug registers changes nothing.
        unsafe {
            asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3,
                options(nomem, nostack, preserves_flags));
        }
        self.debug = [dr0, dr1, dr2, dr3];
        // SAFETY: every processor with SVM under TCG has TSC_AUX.
        self.tsc_aux = unsafe { x86::msr::rdmsr(TSC_AUX) };
    }

    /// Returns PKRU; 0 when the processor has none.
    #[must_use]
    pub fn pkru(&self) -> u32 {
        let bytes = self
            .xsave
            .as_bytes()
            .get(pkru_range())
            .and_then(|bytes| bytes.try_into().ok());
        match bytes {
            Some(bytes) if self.xsave.xstate_bv & Xsave::PKRU != 0 => u32::from_le_bytes(bytes),
            _ => 0,
        }
    }

    /// Sets PKRU, when the processor has it.
    pub fn set_pkru(&mut self, pkru: u32) {
        if supported() & Xsave::PKRU == 0 {
            return;
        }
        if let Some(bytes) = self.xsave.as_mut_bytes().get_mut(pkru_range()) {
            bytes.copy_from_slice(&pkru.to_le_bytes());
            self.xsave.xstate_bv |= Xsave::PKRU;
        }
    }
}

impl Xsave {
    /// The x87 component.
    pub const X87: u64 = 1;
    /// The SSE component.
    pub const SSE: u64 = 1 << 1;
    /// The AVX component: [`Self::ymm_high`].
    pub const AVX: u64 = 1 << 2;
    /// The PKRU component.
    pub const PKRU: u64 = 1 << 9;
}

/// The bits of MXCSR that exist.
const MXCSR_VALID: u32 = 0xFFFF;
/// TSC_AUX.
const TSC_AUX: u32 = 0xC000_0103;

/// The components this machine's processors have.
static SUPPORTED: AtomicU64 = AtomicU64::new(0);
/// Where PKRU lies in the XSAVE area.
static PKRU_OFFSET: AtomicUsize = AtomicUsize::new(0);

/// Returns the XCR0 with every component these processors have.
#[must_use]
pub fn supported() -> u64 {
    SUPPORTED.load(Ordering::Relaxed)
}

/// Switches every component on, on this processor.
pub(super) fn enable() {
    let leaf = __cpuid_count(0xD, 0);
    assert!(
        leaf.ecx as usize <= size_of::<Xsave>(),
        "the XSAVE area of this processor is too large: {}",
        leaf.ecx
    );
    let supported = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
    // SAFETY: CR4.OSXSAVE is set, and CPUID says these components exist.
    unsafe { write_xcr0(supported) };
    SUPPORTED.store(supported, Ordering::Relaxed);
    PKRU_OFFSET.store(__cpuid_count(0xD, 9).ebx as usize, Ordering::Relaxed);
}

/// # Safety
///
/// 1. CR4.OSXSAVE is set and the components exist.
#[target_feature(enable = "xsave")]
unsafe fn write_xcr0(value: u64) {
    // SAFETY: (1).
    unsafe { _xsetbv(0, value) };
}

fn pkru_range() -> core::ops::Range<usize> {
    let start = PKRU_OFFSET.load(Ordering::Relaxed);
    start..start + 4
}

/// Whether XSETBV takes the value. APM vol. 2, 11.5.1.
const fn is_valid_xcr0(xcr0: u64, supported: u64) -> bool {
    let needs_sse = xcr0 & Xsave::AVX != 0 && xcr0 & Xsave::SSE == 0;
    xcr0 & Xsave::X87 != 0 && xcr0 & !supported == 0 && !needs_sse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xcr0_must_have_x87_and_no_avx_without_sse() {
        let all = 0x207;
        for xcr0 in [1, 3, 7, 0x201, 0x207] {
            assert!(is_valid_xcr0(xcr0, all), "{xcr0:#x}");
        }
        for xcr0 in [0, 2, 5, 6, 0x10001, u64::MAX] {
            assert!(!is_valid_xcr0(xcr0, all), "{xcr0:#x}");
        }
    }
}
