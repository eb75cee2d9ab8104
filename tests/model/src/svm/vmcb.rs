//! The virtual machine control block, APM vol. 2, appendix B.
//!
//! [`Vmcb`] is the page VMRUN reads; its first KiB is the [`ControlArea`], the rest the [`SaveArea`].

use core::mem::{offset_of, size_of};

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::intercepts::{Intercepts1, Intercepts2};

/// The virtual machine control block. APM vol. 2, 15.5.1.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What to intercept, what to inject, and why the guest stopped.
    pub control: ControlArea,
    /// The guest's processor state.
    pub save: SaveArea,
}

/// The control area. APM vol. 2, table B-1.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
pub struct ControlArea {
    /// Bit n: reads of CRn.
    pub intercept_cr_read: u16,
    /// Bit n: writes of CRn.
    pub intercept_cr_write: u16,
    /// Bit n: reads of DRn.
    pub intercept_dr_read: u16,
    /// Bit n: writes of DRn.
    pub intercept_dr_write: u16,
    /// Bit n: exception vector n.
    pub intercept_exceptions: u32,
    /// First word of instruction and event intercepts.
    pub intercepts1: Intercepts1,
    /// Second word of instruction and event intercepts.
    pub intercepts2: Intercepts2,
    /// Third word: INVLPGB, INVPCID and later ones, none of which TCG has.
    pub intercepts3: u32,
    reserved_18: [u8; 0x24],
    /// Pause filter threshold.
    pub pause_filter_threshold: u16,
    /// Pause filter count.
    pub pause_filter_count: u16,
    /// Physical address of the I/O permission map.
    pub iopm_base: u64,
    /// Physical address of the MSR permission map.
    pub msrpm_base: u64,
    /// Added to the guest's TSC.
    pub tsc_offset: u64,
    /// Address space identifier, not 0.
    pub asid: u32,
    /// TLB control; TCG flushes everything on each entry anyway.
    pub tlb_control: u8,
    reserved_5d: [u8; 3],
    /// Virtual interrupts.
    pub interrupt_control: InterruptControl,
    /// Interrupt shadow. QEMU 7.2 writes it on exit and ignores it on entry.
    pub interrupt_shadow: InterruptShadow,
    /// Why the guest stopped. QEMU writes -1 (invalid) as a zero-extended `u32`; [`run()`](super::run()) widens it.
    pub exit_code: u64,
    /// First word about the exit.
    pub exit_info1: u64,
    /// Second word about the exit.
    pub exit_info2: u64,
    /// The event whose delivery the exit interrupted; stale unless valid.
    pub exit_int_info: Event,
    /// Nested paging.
    pub nested_control: NestedControl,
    reserved_98: [u8; 0x10],
    /// The event to deliver on entry.
    pub event_injection: Event,
    /// Root of the nested page tables.
    pub nested_cr3: u64,
    /// LBR virtualisation; not in TCG.
    pub lbr_control: u64,
    /// VMCB clean bits; ignored by TCG.
    pub clean: u64,
    /// Next RIP; not written by TCG.
    pub next_rip: u64,
    reserved_d0: [u8; 0x400 - 0xD0],
}

/// The state save area, without the encrypted-state part. APM vol. 2, table B-2.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
pub struct SaveArea {
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS. Its DPL is the guest's CPL as TCG reads it.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS; the base by VMLOAD and VMSAVE.
    pub fs: Segment,
    /// GS; the base by VMLOAD and VMSAVE.
    pub gs: Segment,
    /// GDTR: base and limit.
    pub gdtr: Segment,
    /// LDTR; by VMLOAD and VMSAVE.
    pub ldtr: Segment,
    /// IDTR: base and limit.
    pub idtr: Segment,
    /// TR; by VMLOAD and VMSAVE.
    pub tr: Segment,
    reserved_a0: [u8; 0x2B],
    /// Written on exit; ignored on entry by TCG, which looks at SS.DPL.
    pub cpl: u8,
    reserved_cc: [u8; 4],
    /// EFER; SVME must be set.
    pub efer: u64,
    reserved_d8: [u8; 0x70],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    reserved_180: [u8; 0x58],
    /// RSP.
    pub rsp: u64,
    /// Shadow stack control; not in TCG.
    pub s_cet: u64,
    /// Shadow stack pointer; not in TCG.
    pub ssp: u64,
    /// Interrupt shadow stack table; not in TCG.
    pub isst: u64,
    /// RAX.
    pub rax: u64,
    /// STAR; by VMLOAD and VMSAVE, as the eight that follow up to `sysenter_eip`.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// Kernel GS base.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// CR2.
    pub cr2: u64,
    reserved_248: [u8; 0x20],
    /// Guest PAT; used with nested paging.
    pub g_pat: u64,
    /// DebugCtl.
    pub dbgctl: u64,
    reserved_278: [u8; 0xC00 - 0x278],
}

/// A segment register as the VMCB holds it. APM vol. 2, 15.5.1.
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, Default, PartialEq, Eq,
)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Descriptor bits 55:52 and 47:40.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

const _: () = assert!(size_of::<ControlArea>() == 0x400);
const _: () = assert!(size_of::<SaveArea>() == 0xC00);
const _: () = assert!(size_of::<Vmcb>() == 0x1000);
const _: () = assert!(offset_of!(ControlArea, pause_filter_threshold) == 0x3C);
const _: () = assert!(offset_of!(ControlArea, iopm_base) == 0x40);
const _: () = assert!(offset_of!(ControlArea, asid) == 0x58);
const _: () = assert!(offset_of!(ControlArea, interrupt_control) == 0x60);
const _: () = assert!(offset_of!(ControlArea, exit_code) == 0x70);
const _: () = assert!(offset_of!(ControlArea, exit_int_info) == 0x88);
const _: () = assert!(offset_of!(ControlArea, nested_control) == 0x90);
const _: () = assert!(offset_of!(ControlArea, event_injection) == 0xA8);
const _: () = assert!(offset_of!(ControlArea, nested_cr3) == 0xB0);
const _: () = assert!(offset_of!(ControlArea, next_rip) == 0xC8);
const _: () = assert!(offset_of!(SaveArea, cpl) == 0xCB);
const _: () = assert!(offset_of!(SaveArea, efer) == 0xD0);
const _: () = assert!(offset_of!(SaveArea, cr4) == 0x148);
const _: () = assert!(offset_of!(SaveArea, rip) == 0x178);
const _: () = assert!(offset_of!(SaveArea, rsp) == 0x1D8);
const _: () = assert!(offset_of!(SaveArea, rax) == 0x1F8);
const _: () = assert!(offset_of!(SaveArea, cr2) == 0x240);
const _: () = assert!(offset_of!(SaveArea, g_pat) == 0x268);

/// Virtual interrupt control at VMCB offset 0x60. APM vol. 2, 15.21.
#[bitfield(u64)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct InterruptControl {
    /// The guest's virtual TPR.
    pub tpr: u8,
    /// A virtual interrupt is pending.
    pub irq: bool,
    /// Virtual global interrupt flag.
    pub gif: bool,
    _r10: bool,
    /// A virtual NMI is pending.
    pub nmi: bool,
    /// Virtual NMIs are masked.
    pub nmi_mask: bool,
    #[bits(3)]
    _r13: u8,
    /// Priority of the pending interrupt.
    #[bits(4)]
    pub priority: u8,
    /// Take the interrupt whatever the TPR (TCG takes equal priority too: set this).
    pub ignore_tpr: bool,
    #[bits(3)]
    _r21: u8,
    /// EFLAGS.IF of the guest masks virtual interrupts only.
    pub masking: bool,
    /// Virtual GIF enabled.
    pub gif_enable: bool,
    /// Virtual NMI enabled.
    pub nmi_enable: bool,
    #[bits(5)]
    _r27: u8,
    /// Vector of the pending interrupt.
    pub vector: u8,
    #[bits(24)]
    _r40: u32,
}

/// Guest interrupt state at VMCB offset 0x68. APM vol. 2, 15.21.5.
#[bitfield(u64)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct InterruptShadow {
    /// The guest is in an interrupt shadow.
    pub shadow: bool,
    /// The guest's RFLAGS.IF as virtual interrupts see it (encrypted guests only).
    pub interrupts_enabled: bool,
    #[bits(62)]
    _r2: u64,
}

/// Nested paging control at VMCB offset 0x90. APM vol. 2, table B-1.
#[bitfield(u64)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct NestedControl {
    /// Nested paging is on.
    pub nested_paging: bool,
    /// SEV.
    pub sev: bool,
    /// SEV-ES.
    pub sev_es: bool,
    #[bits(61)]
    _r3: u64,
}

/// EVENTINJ and EXITINTINFO. APM vol. 2, 15.20.
#[bitfield(u64)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// 0 external interrupt, 2 NMI, 3 exception, 4 software interrupt.
    #[bits(3)]
    pub kind: u8,
    /// An error code belongs to it. TCG pushes one for vectors 8, 10-14 and 17 only.
    pub has_error_code: bool,
    #[bits(19)]
    _r12: u32,
    /// There is an event at all.
    pub valid: bool,
    /// Error code.
    pub error_code: u32,
}

impl Event {
    /// Kind of an external interrupt.
    pub const EXTERNAL: u8 = 0;
    /// Kind of an NMI.
    pub const NMI: u8 = 2;
    /// Kind of an exception.
    pub const EXCEPTION: u8 = 3;
    /// Kind of a software interrupt (INT n).
    pub const SOFTWARE: u8 = 4;
}
