//! The VM save area: one vCPU's state at one VMPL (APM vol. 2, 15.34, appendix B, table B-4).
//!
//! [`Vmsa`] is the page; [`SevFeatures`] says how its vCPU runs; [`VintrControl`] and [`EventInfo`] carry interrupts.

use bitfield_struct::bitfield;
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::exit::ExitCode;

mod features;
pub mod reset;

pub use features::{SEV_STATUS_MSR, SevFeatures, SevStatus};

/// Attributes of a segment as VMCB and VMSA pack them: descriptor bits 40-47 and 52-55 (APM vol. 2, 15.5.1).
#[bitfield(u16)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SegmentAttributes {
    /// Type field of the descriptor.
    #[bits(4)]
    pub kind: u8,
    /// S: code or data, not a system segment.
    pub is_code_or_data: bool,
    /// Descriptor privilege level.
    #[bits(2)]
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Available to software.
    pub available: bool,
    /// L: 64-bit code.
    pub long: bool,
    /// D/B: 32-bit default operand size, or big stack.
    pub default_big: bool,
    /// Limit counts 4 KiB pages.
    pub granularity: bool,
    #[bits(4)]
    __: u8,
}

impl SegmentAttributes {
    /// Packs bits 8 to 23 of a descriptor's upper half, as LAR shifted by eight has them (limit bits 16-19 are dropped).
    #[must_use]
    pub const fn from_descriptor(access_rights: u16) -> Self {
        Self::from_bits((access_rights & 0xFF) | ((access_rights >> 4) & 0xF00))
    }

    /// Returns bits 8 to 23 of a descriptor's upper half, with the limit bits zero.
    #[must_use]
    pub const fn to_descriptor(self) -> u16 {
        let bits = self.into_bits();
        (bits & 0xFF) | ((bits & 0xF00) << 4)
    }
}

/// One segment register, or GDTR and IDTR in their base and limit (APM table B-4).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Packed descriptor attributes.
    pub attributes: SegmentAttributes,
    /// Limit in bytes, already expanded by the granularity.
    pub limit: u32,
    /// Linear base address.
    pub base: u64,
}

/// Interrupt state of a vCPU under alternate injection (APM vol. 2, 15.36.15; fields as VMCB offset 60h).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VintrControl {
    /// V_TPR: the guest's CR8 in bits 3:0.
    pub v_tpr: u8,
    /// V_IRQ: an interrupt waits; cleared by hardware when taken.
    pub v_irq: bool,
    /// vGIF: interrupts can be taken at all.
    pub v_gif: bool,
    /// Interrupt shadow after STI or MOV SS.
    pub int_shadow: bool,
    /// V_NMI: a virtual NMI waits.
    pub v_nmi: bool,
    /// V_NMI_MASK: NMIs are blocked until IRET.
    pub v_nmi_mask: bool,
    #[bits(3)]
    __: u8,
    /// V_INTR_PRIO: priority class of the vector.
    #[bits(4)]
    pub priority: u8,
    /// V_IGN_TPR: take the interrupt whatever the TPR says.
    pub ignore_tpr: bool,
    #[bits(5)]
    __: u8,
    /// V_NMI_ENABLE: virtual NMIs are in use.
    pub v_nmi_enable: bool,
    #[bits(5)]
    __: u8,
    /// V_INTR_VECTOR: the waiting vector.
    pub vector: u8,
    #[bits(23)]
    __: u32,
    /// Guest busy: VMRUN of this VMSA fails with [`ExitCode::BUSY`].
    pub busy: bool,
}

/// Type of an injected or interrupted event (APM vol. 2, 15.20, table 15-11): any three-bit number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventType(pub u8);

impl EventType {
    /// External or virtual interrupt.
    pub const EXTERNAL: Self = Self(0);
    /// Non-maskable interrupt.
    pub const NMI: Self = Self(2);
    /// Exception.
    pub const EXCEPTION: Self = Self(3);
    /// INT n.
    pub const SOFTWARE: Self = Self(4);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// EVENTINJ and EXITINTINFO (APM vol. 2, 15.20 and 15.7.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventInfo {
    /// Vector; hardware ignores it for NMI.
    pub vector: u8,
    /// What kind of event.
    #[bits(3)]
    pub event_type: EventType,
    /// The event pushes an error code.
    pub error_code_valid: bool,
    #[bits(19)]
    __: u32,
    /// There is an event.
    pub valid: bool,
    /// Error code.
    pub error_code: u32,
}

/// The VM save area (APM table B-4). Reserved fields must be zero.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[expect(
    missing_docs,
    reason = "the fields are the registers they are named after"
)]
pub struct Vmsa {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    pub pl0_ssp: u64,
    pub pl1_ssp: u64,
    pub pl2_ssp: u64,
    pub pl3_ssp: u64,
    pub u_cet: u64,
    reserved_c8: [u8; 2],
    pub vmpl: u8,
    pub cpl: u8,
    reserved_cc: u32,
    pub efer: u64,
    reserved_d8: [u8; 104],
    pub xss: u64,
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    pub dr0: u64,
    pub dr1: u64,
    pub dr2: u64,
    pub dr3: u64,
    pub dr0_addr_mask: u64,
    pub dr1_addr_mask: u64,
    pub dr2_addr_mask: u64,
    pub dr3_addr_mask: u64,
    reserved_1c0: [u8; 24],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_248: [u8; 32],
    pub g_pat: u64,
    pub dbgctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_excp_from: u64,
    pub last_excp_to: u64,
    reserved_298: [u8; 72],
    pub spec_ctrl: u64,
    pub pkru: u32,
    pub tsc_aux: u32,
    pub guest_tsc_scale: u64,
    pub guest_tsc_offset: u64,
    pub reg_prot_nonce: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub secure_avic_control: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    reserved_380: [u8; 16],
    pub guest_exit_info1: u64,
    pub guest_exit_info2: u64,
    pub guest_exit_int_info: EventInfo,
    pub guest_nrip: u64,
    pub sev_features: SevFeatures,
    pub vintr_ctrl: VintrControl,
    pub guest_exit_code: ExitCode,
    pub virtual_tom: u64,
    pub tlb_id: u64,
    pub pcpu_id: u64,
    pub event_inj: EventInfo,
    pub xcr0: u64,
    pub xsave_valid_bitmap: [u8; 16],
    pub x87_dp: u64,
    pub mxcsr: u32,
    pub x87_ftw: u16,
    pub x87_fsw: u16,
    pub x87_fcw: u16,
    pub x87_fop: u16,
    pub x87_ds: u16,
    pub x87_cs: u16,
    pub x87_rip: u64,
    pub x87_registers: [u8; 80],
    pub xmm: [[u8; 16]; 16],
    pub ymm_hi: [[u8; 16]; 16],
    reserved_670: [u8; 2448],
}

impl Vmsa {
    /// Returns a page of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

impl Default for Vmsa {
    fn default() -> Self {
        Self::zeroed()
    }
}

const _: () = assert!(size_of::<Segment>() == 16);
const _: () = assert!(size_of::<Vmsa>() == 4096);
const _: () = assert!(
    offset_of!(Vmsa, es) == 0
        && offset_of!(Vmsa, gdtr) == 0x60
        && offset_of!(Vmsa, ldtr) == 0x70
        && offset_of!(Vmsa, idtr) == 0x80
        && offset_of!(Vmsa, tr) == 0x90
        && offset_of!(Vmsa, pl0_ssp) == 0xA0
        && offset_of!(Vmsa, u_cet) == 0xC0
        && offset_of!(Vmsa, vmpl) == 0xCA
        && offset_of!(Vmsa, cpl) == 0xCB
        && offset_of!(Vmsa, efer) == 0xD0
        && offset_of!(Vmsa, xss) == 0x140
        && offset_of!(Vmsa, cr4) == 0x148
        && offset_of!(Vmsa, cr3) == 0x150
        && offset_of!(Vmsa, cr0) == 0x158
        && offset_of!(Vmsa, dr7) == 0x160
        && offset_of!(Vmsa, dr6) == 0x168
        && offset_of!(Vmsa, rflags) == 0x170
        && offset_of!(Vmsa, rip) == 0x178
        && offset_of!(Vmsa, dr0) == 0x180
        && offset_of!(Vmsa, rsp) == 0x1D8
        && offset_of!(Vmsa, s_cet) == 0x1E0
        && offset_of!(Vmsa, ssp) == 0x1E8
        && offset_of!(Vmsa, isst_addr) == 0x1F0
        && offset_of!(Vmsa, rax) == 0x1F8
        && offset_of!(Vmsa, star) == 0x200
        && offset_of!(Vmsa, sfmask) == 0x218
        && offset_of!(Vmsa, kernel_gs_base) == 0x220
        && offset_of!(Vmsa, sysenter_cs) == 0x228
        && offset_of!(Vmsa, sysenter_eip) == 0x238
        && offset_of!(Vmsa, cr2) == 0x240
        && offset_of!(Vmsa, g_pat) == 0x268
        && offset_of!(Vmsa, dbgctl) == 0x270
);
const _: () = assert!(
    offset_of!(Vmsa, spec_ctrl) == 0x2E0
        && offset_of!(Vmsa, pkru) == 0x2E8
        && offset_of!(Vmsa, tsc_aux) == 0x2EC
        && offset_of!(Vmsa, guest_tsc_scale) == 0x2F0
        && offset_of!(Vmsa, guest_tsc_offset) == 0x2F8
        && offset_of!(Vmsa, reg_prot_nonce) == 0x300
        && offset_of!(Vmsa, rcx) == 0x308
        && offset_of!(Vmsa, rbx) == 0x318
        && offset_of!(Vmsa, secure_avic_control) == 0x320
        && offset_of!(Vmsa, rbp) == 0x328
        && offset_of!(Vmsa, r8) == 0x340
        && offset_of!(Vmsa, r15) == 0x378
        && offset_of!(Vmsa, guest_exit_info1) == 0x390
        && offset_of!(Vmsa, guest_exit_info2) == 0x398
        && offset_of!(Vmsa, guest_exit_int_info) == 0x3A0
        && offset_of!(Vmsa, guest_nrip) == 0x3A8
        && offset_of!(Vmsa, sev_features) == 0x3B0
        && offset_of!(Vmsa, vintr_ctrl) == 0x3B8
        && offset_of!(Vmsa, guest_exit_code) == 0x3C0
        && offset_of!(Vmsa, virtual_tom) == 0x3C8
        && offset_of!(Vmsa, tlb_id) == 0x3D0
        && offset_of!(Vmsa, pcpu_id) == 0x3D8
        && offset_of!(Vmsa, event_inj) == 0x3E0
        && offset_of!(Vmsa, xcr0) == 0x3E8
        && offset_of!(Vmsa, x87_dp) == 0x400
        && offset_of!(Vmsa, mxcsr) == 0x408
        && offset_of!(Vmsa, x87_ftw) == 0x40C
        && offset_of!(Vmsa, x87_fsw) == 0x40E
        && offset_of!(Vmsa, x87_fcw) == 0x410
        && offset_of!(Vmsa, x87_registers) == 0x420
        && offset_of!(Vmsa, xmm) == 0x470
        && offset_of!(Vmsa, ymm_hi) == 0x570
        && offset_of!(Vmsa, reserved_670) == 0x670
);

#[cfg(test)]
mod tests {
    use super::*;
    use igvm::snp_defs::SevVmsa;

    macro_rules! same_offset {
        ($($ours:ident $theirs:ident,)*) => {
            $(assert_eq!(offset_of!(Vmsa, $ours), offset_of!(SevVmsa, $theirs), stringify!($ours));)*
        };
    }

    #[test]
    fn every_field_lies_where_the_igvm_crate_has_it() {
        assert_eq!(size_of::<Vmsa>(), size_of::<SevVmsa>());
        same_offset! {
            es es, cs cs, ss ss, ds ds, fs fs, gs gs, gdtr gdtr, ldtr ldtr, idtr idtr, tr tr,
            pl0_ssp pl0_ssp, pl1_ssp pl1_ssp, pl2_ssp pl2_ssp, pl3_ssp pl3_ssp, u_cet u_cet,
            vmpl vmpl, cpl cpl, efer efer, xss xss, cr4 cr4, cr3 cr3, cr0 cr0, dr7 dr7, dr6 dr6,
            rflags rflags, rip rip, dr0 dr0, dr1 dr1, dr2 dr2, dr3 dr3,
            dr0_addr_mask dr0_addr_mask, dr1_addr_mask dr1_addr_mask,
            dr2_addr_mask dr2_addr_mask, dr3_addr_mask dr3_addr_mask,
            rsp rsp, s_cet s_cet, ssp ssp, isst_addr interrupt_ssp_table_addr, rax rax,
            star star, lstar lstar, cstar cstar, sfmask sfmask, kernel_gs_base kernel_gs_base,
            sysenter_cs sysenter_cs, sysenter_esp sysenter_esp, sysenter_eip sysenter_eip, cr2 cr2,
            g_pat pat, dbgctl dbgctl, br_from last_branch_from_ip, br_to last_branch_to_ip,
            last_excp_from last_excp_from_ip, last_excp_to last_excp_to_ip, spec_ctrl spec_ctrl,
            rcx rcx, rdx rdx, rbx rbx, secure_avic_control vmsa_reserved8, rbp rbp, rsi rsi, rdi rdi,
            r8 r8, r9 r9, r10 r10, r11 r11, r12 r12, r13 r13, r14 r14, r15 r15,
            guest_exit_info1 exit_info1, guest_exit_info2 exit_info2, guest_exit_int_info exit_int_info,
            guest_nrip next_rip, sev_features sev_features, vintr_ctrl v_intr_cntrl,
            guest_exit_code guest_error_code, virtual_tom virtual_tom, tlb_id tlb_id, pcpu_id pcpu_id,
            event_inj event_inject, xcr0 xcr0, xsave_valid_bitmap xsave_valid_bitmap,
            x87_dp x87dp, mxcsr mxcsr, x87_ftw x87_ftw, x87_fsw x87_fsw, x87_fcw x87_fcw,
            x87_fop x87_op, x87_ds x87_ds, x87_cs x87_cs, x87_rip x87_rip,
            x87_registers x87_registers1, xmm xmm_registers, ymm_hi ymm_registers,
            reserved_670 vmsa_padding,
        }
    }

    #[test]
    fn feature_bits_are_those_of_the_igvm_crate() {
        use igvm::snp_defs::SevFeatures as Theirs;
        let theirs = Theirs::new()
            .with_snp(true)
            .with_vtom(true)
            .with_reflect_vc(true)
            .with_restrict_injection(true)
            .with_alternate_injection(true)
            .with_debug_swap(true)
            .with_prevent_host_ibs(true)
            .with_snp_btb_isolation(true)
            .with_secure_tsc(true)
            .with_vmsa_reg_protection(true)
            .with_smt_protection(true);
        let ours = SevFeatures::SNP_ACTIVE
            | SevFeatures::VTOM
            | SevFeatures::REFLECT_VC
            | SevFeatures::RESTRICTED_INJECTION
            | SevFeatures::ALTERNATE_INJECTION
            | SevFeatures::DEBUG_SWAP
            | SevFeatures::PREVENT_HOST_IBS
            | SevFeatures::BTB_ISOLATION
            | SevFeatures::SECURE_TSC
            | SevFeatures::VMSA_REG_PROT
            | SevFeatures::SMT_PROTECTION;
        assert_eq!(ours.0, u64::from(theirs));
        assert_eq!(
            SevStatus::from_features(ours),
            SevStatus::from_bits_retain(0b11 | ours.0 << 2)
        );
        assert_eq!(SevStatus::from_features(ours).features(), ours);
    }

    #[test]
    fn interrupt_control_has_its_bits_where_the_manual_says() {
        assert_eq!(VintrControl::new().with_v_irq(true).into_bits(), 1 << 8);
        assert_eq!(VintrControl::new().with_v_gif(true).into_bits(), 1 << 9);
        assert_eq!(
            VintrControl::new().with_int_shadow(true).into_bits(),
            1 << 10
        );
        assert_eq!(VintrControl::new().with_v_nmi(true).into_bits(), 1 << 11);
        assert_eq!(
            VintrControl::new().with_v_nmi_mask(true).into_bits(),
            1 << 12
        );
        assert_eq!(
            VintrControl::new().with_priority(0xF).into_bits(),
            0xF << 16
        );
        assert_eq!(
            VintrControl::new().with_ignore_tpr(true).into_bits(),
            1 << 20
        );
        assert_eq!(
            VintrControl::new().with_v_nmi_enable(true).into_bits(),
            1 << 26
        );
        assert_eq!(
            VintrControl::new().with_vector(0xFF).into_bits(),
            0xFF << 32
        );
        assert_eq!(VintrControl::new().with_busy(true).into_bits(), 1 << 63);
    }

    #[test]
    fn event_words_have_their_bits_where_the_manual_says() {
        let gp = EventInfo::new()
            .with_vector(13)
            .with_event_type(EventType::EXCEPTION)
            .with_error_code_valid(true)
            .with_error_code(0x1234)
            .with_valid(true);
        assert_eq!(gp.into_bits(), 0x1234_8000_0B0D);
        assert_eq!(EventInfo::from_bits(u64::MAX).event_type(), EventType(7));
    }

    #[test]
    fn attributes_survive_the_descriptor_form() {
        for bits in 0..=0xFFF {
            let attributes = SegmentAttributes::from_bits(bits);
            let back = SegmentAttributes::from_descriptor(attributes.to_descriptor());
            assert_eq!(back, attributes);
        }
        let code64 = SegmentAttributes::from_descriptor(0xA09B);
        assert!(code64.long() && code64.present() && code64.granularity());
        assert_eq!(code64.into_bits(), 0xA9B);
    }

    #[test]
    fn startup_vector_is_a_page_number() {
        let cs = reset::startup_cs(0x9A);
        assert_eq!((cs.selector, cs.base, cs.limit), (0x9A00, 0x9_A000, 0xFFFF));
    }
}
