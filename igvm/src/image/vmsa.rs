//! The launch VMSA: the first vCPU's registers, measured with the image.

use igvm::snp_defs::SevVmsa;
use stockade_abi::vmsa::{Segment, SegmentAttributes, SevFeatures, Vmsa};
use stockade_boot::launch::{LaunchState, SegmentState, TableState};

/// EFER: without SVME a VMSA cannot be run (APM vol. 2, 15.34.1); NXE for page tables that use it.
const EFER_SVME: u64 = 1 << 12;
const EFER_NXE: u64 = 1 << 11;
/// CR4: debugging extensions and machine checks on, as operating systems have them.
const CR4_DE_MCE: u64 = 1 << 3 | 1 << 6;

/// Returns the VMSA of a vCPU at VMPL0 that starts in this state.
pub(super) fn vmsa(state: &LaunchState, features: SevFeatures) -> Box<SevVmsa> {
    let mut vmsa = after_reset();
    vmsa.es = segment(state.data);
    vmsa.cs = segment(state.cs);
    vmsa.ss = segment(state.data);
    vmsa.ds = segment(state.data);
    vmsa.fs = segment(state.data);
    vmsa.gs = segment(state.data);
    vmsa.ldtr = segment(state.ldtr);
    vmsa.tr = segment(state.tr);
    vmsa.gdtr = table(state.gdtr);
    vmsa.idtr = table(state.idtr);
    vmsa.efer = state.efer | EFER_SVME | EFER_NXE;
    vmsa.cr0 = state.cr0;
    vmsa.cr3 = state.cr3;
    vmsa.cr4 = state.cr4 | CR4_DE_MCE;
    vmsa.rflags = state.rflags;
    vmsa.rip = state.rip;
    vmsa.rsp = state.rsp;
    vmsa.rsi = state.rsi;
    vmsa.sev_features = features;
    Box::new(zerocopy::transmute!(vmsa))
}

/// What a launch state leaves open (APM vol. 2, table 14-1).
fn after_reset() -> Vmsa {
    let mut vmsa = Vmsa::zeroed();
    vmsa.dr6 = 0xFFFF_0FF0;
    vmsa.dr7 = 0x400;
    vmsa.g_pat = 0x0007_0406_0007_0406;
    vmsa.xcr0 = 1;
    vmsa.mxcsr = 0x1F80;
    vmsa.x87_fcw = 0x37F;
    vmsa
}

fn segment(state: SegmentState) -> Segment {
    Segment {
        selector: state.selector,
        attributes: SegmentAttributes::from_bits(state.attributes),
        limit: state.limit,
        base: state.base,
    }
}

fn table(state: TableState) -> Segment {
    Segment {
        limit: state.limit.into(),
        base: state.base,
        ..Segment::default()
    }
}
