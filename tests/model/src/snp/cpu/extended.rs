//! The x87, SSE and AVX part of a VMSA (APM vol. 2, table B-4, offsets 400h to 66Fh) and what goes with it: XCR0, PKRU,
//! TSC_AUX and the debug address registers.
//!
//! SVM knows none of these; [`crate::svm`] swaps them as one [`ExtendedState`]. They move between it and the VMSA only
//! when a processor turns to another VMSA.

use super::vmsa::Image;
use crate::snp::addr::Phys;
use crate::svm::{ExtendedState, Xsave};
use core::mem::{offset_of, size_of};
use stockade_abi::vmsa::Vmsa;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const START: usize = offset_of!(Vmsa, x87_dp);
const IN_VMSA: u64 = Xsave::X87 | Xsave::SSE | Xsave::AVX;

/// The words before the registers.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Words {
    x87_dp: u64,
    mxcsr: u32,
    ftw: u16,
    fsw: u16,
    fcw: u16,
    fop: u16,
    ds: u16,
    cs: u16,
    rip: u64,
}

const X87: u64 = offset_of!(Vmsa, x87_registers) as u64;
const XMM: u64 = offset_of!(Vmsa, xmm) as u64;
const YMM: u64 = offset_of!(Vmsa, ymm_hi) as u64;
const _: () = assert!(START + size_of::<Words>() == offset_of!(Vmsa, x87_registers));

/// Reads the state from the VMSA at `page`, of which `image` is the head.
pub fn load(page: Phys, image: &Image, state: &mut ExtendedState) {
    let mut words = [0; size_of::<Words>()];
    page.in_page(START as u64).read_bytes(&mut words);
    let words: Words = zerocopy::transmute!(words);
    let xsave = &mut state.xsave;
    (xsave.fcw, xsave.fsw, xsave.fop) = (words.fcw, words.fsw, words.fop);
    (xsave.rip, xsave.rdp) = (words.rip, words.x87_dp);
    xsave.ftw = abridge(words.ftw);
    // A reserved bit would be #GP on the host's XRSTOR.
    xsave.mxcsr = words.mxcsr & 0xFFFF;
    for (to, from) in xsave.st.iter_mut().zip((X87..).step_by(10)) {
        page.in_page(from).read_bytes(&mut to[..10]);
    }
    page.in_page(XMM).read_bytes(xsave.xmm.as_flattened_mut());
    page.in_page(YMM)
        .read_bytes(xsave.ymm_high.as_flattened_mut());
    xsave.xstate_bv = IN_VMSA;
    xsave.xcomp_bv = 0;
    let vmsa = image.vmsa();
    state.set_pkru(vmsa.pkru);
    state.xcr0 = vmsa.xcr0;
    state.tsc_aux = u64::from(vmsa.tsc_aux);
    state.debug = [vmsa.dr0, vmsa.dr1, vmsa.dr2, vmsa.dr3];
}

/// Takes into `image` those parts of the state that lie in the VMSA's head: they change without an exit.
pub fn leave(state: &ExtendedState, image: &mut Image) {
    let pkru = state.pkru();
    let vmsa = image.edit();
    vmsa.xcr0 = state.xcr0;
    vmsa.tsc_aux = u32::try_from(state.tsc_aux & 0xFFFF_FFFF).unwrap_or(0);
    vmsa.pkru = if state.xsave.xstate_bv & Xsave::PKRU == 0 {
        0
    } else {
        pkru
    };
    [vmsa.dr0, vmsa.dr1, vmsa.dr2, vmsa.dr3] = state.debug;
}

/// Writes the floating-point part to the VMSA at `page`. A component XSAVE left out is in its initial state.
pub fn store(state: &ExtendedState, page: Phys) {
    let xsave = &state.xsave;
    let has = |component| xsave.xstate_bv & component != 0;
    let initial = Words {
        x87_dp: 0,
        mxcsr: xsave.mxcsr,
        ftw: 0xFFFF,
        fsw: 0,
        fcw: 0x37F,
        fop: 0,
        ds: 0,
        cs: 0,
        rip: 0,
    };
    let words = if has(Xsave::X87) {
        Words {
            x87_dp: xsave.rdp,
            ftw: unabridge(xsave.ftw, xsave.fsw, &xsave.st),
            fsw: xsave.fsw,
            fcw: xsave.fcw,
            fop: xsave.fop,
            rip: xsave.rip,
            ..initial
        }
    } else {
        initial
    };
    page.in_page(START as u64).write_bytes(words.as_bytes());
    for (from, to) in xsave.st.iter().zip((X87..).step_by(10)) {
        page.in_page(to).write_bytes(if has(Xsave::X87) {
            &from[..10]
        } else {
            &[0; 10]
        });
    }
    let vectors = |present: bool, registers: &[[u8; 16]; 16], at| {
        page.in_page(at).write_bytes(if present {
            registers.as_flattened()
        } else {
            &[0; 256]
        });
    };
    vectors(has(Xsave::SSE), &xsave.xmm, XMM);
    vectors(has(Xsave::AVX), &xsave.ymm_high, YMM);
}

/// FXSAVE's tag byte: a bit for each register that is not empty (tag 3).
fn abridge(tags: u16) -> u8 {
    (0..8)
        .filter(|register| tags >> (register * 2) & 3 != 3)
        .fold(0, |bits, register| bits | 1 << register)
}

/// The full tag word (APM vol. 1, 6.2.4). The tag byte counts physical registers; `registers` begins with the top.
fn unabridge(bits: u8, fsw: u16, registers: &[[u8; 16]; 8]) -> u16 {
    if bits == 0 {
        return 0xFFFF;
    }
    let top = usize::from(fsw >> 11 & 7);
    (0..8_usize).fold(0, |tags, physical| {
        let tag = if bits >> physical & 1 == 0 {
            3
        } else {
            tag_of(&registers[(physical + 8 - top) % 8])
        };
        tags | tag << (physical * 2)
    })
}

/// Valid 0, zero 1, special 2.
fn tag_of(register: &[u8; 16]) -> u16 {
    let exponent = u16::from_le_bytes([register[8], register[9]]) & 0x7FFF;
    let is_zero = register[..8].iter().all(|byte| *byte == 0);
    match exponent {
        0 if is_zero => 1,
        0 | 0x7FFF => 2,
        _ if register[7] & 0x80 == 0 => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::addr::FrameSource;
    use crate::snp::addr::fake::HeapFrames;

    #[test]
    fn state_survives_the_way_through_the_vmsa() {
        let page = HeapFrames::new(0x40_0000).frame().unwrap();
        let mut state = ExtendedState::new_reset();
        state.xsave.xstate_bv = IN_VMSA;
        state.xsave.xmm[3] = [0xAB; 16];
        state.xsave.ymm_high[15] = [0xCD; 16];
        state.xsave.mxcsr = 0x1FA0;
        state.xsave.fcw = 0x27F;
        (state.xcr0, state.tsc_aux, state.debug) = (7, 9, [1, 2, 3, 4]);
        let mut image = Image::new();
        leave(&state, &mut image);
        store(&state, page);
        let mut back = ExtendedState::new_reset();
        load(page, &image, &mut back);
        assert_eq!(
            (back.xsave.xmm[3], back.xsave.ymm_high[15]),
            ([0xAB; 16], [0xCD; 16])
        );
        assert_eq!((back.xsave.mxcsr, back.xsave.fcw), (0x1FA0, 0x27F));
        assert_eq!((back.xcr0, back.tsc_aux, back.debug), (7, 9, [1, 2, 3, 4]));
    }

    #[test]
    fn an_absent_component_is_stored_as_its_initial_state() {
        let page = HeapFrames::new(0x40_0000).frame().unwrap();
        let mut state = ExtendedState::new_reset();
        state.xsave.xstate_bv = 0;
        state.xsave.xmm[0] = [0xEE; 16];
        state.xsave.fcw = 0;
        store(&state, page);
        let mut back = ExtendedState::new_reset();
        load(page, &Image::new(), &mut back);
        assert_eq!(
            (back.xsave.xmm[0], back.xsave.fcw, back.xsave.ftw),
            ([0; 16], 0x37F, 0)
        );
    }

    #[test]
    fn tag_words_of_both_kinds_agree_on_what_is_empty() {
        assert_eq!(abridge(0xFFFF), 0);
        assert_eq!(abridge(0x5555), 0xFF);
        let mut registers = [[0; 16]; 8];
        registers[0][7..10].copy_from_slice(&[0x80, 0xFF, 0x3F]);
        // The top is physical register 7 and holds 1.0; register 0 holds zero.
        assert_eq!(unabridge(0x81, 7 << 11, &registers), 0x3FFD);
        assert_eq!(abridge(0x3FFD), 0x81);
    }
}
