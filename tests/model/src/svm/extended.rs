//! The processor state neither VMRUN nor VMLOAD swaps: x87, SSE, AVX, PKRU, XCR0, DR0-3, TSC_AUX.
//!
//! An [`ExtendedState`] holds all of it for one guest context. [`run()`](super::run) loads it before VMRUN and stores it
//! after the exit, every component the processor has, so that nothing passes from one context to the next.

use alloc::boxed::Box;
use core::mem::{offset_of, size_of};

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
