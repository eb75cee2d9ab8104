//! Exit codes and what accompanies them (APM appendix C, table C-1; 15.10.2, 15.25.6).
//!
//! The same numbers stand in a VMCB, in a guest's VMSA after an automatic exit, and in a GHCB for the events of [`crate::ghcb`].

use bitfield_struct::bitfield;
use bitflags::bitflags;
use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An exit code: any number, with names for those the manual defines (APM table C-1).
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct ExitCode(pub u64);

macro_rules! exit_codes {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        impl ExitCode {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// Returns the manual's name of the code without its `VMEXIT_`, if it has one.
            /// Codes that form a range (CR, DR, exception) carry the name of the range.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(v if v == $value => Some(stringify!($name)),)*
                    0x00..=0x0F => Some("CR_READ"),
                    0x10..=0x1F => Some("CR_WRITE"),
                    0x20..=0x2F => Some("DR_READ"),
                    0x30..=0x3F => Some("DR_WRITE"),
                    0x40..=0x5F => Some("EXCP"),
                    0x90..=0x9F => Some("CR_WRITE_TRAP"),
                    _ => None,
                }
            }
        }
    };
}

exit_codes! {
    /// #DB.
    EXCP_DB = 0x41;
    /// #DF.
    EXCP_DF = 0x48;
    /// #PF.
    EXCP_PF = 0x4E;
    /// #MC.
    EXCP_MC = 0x52;
    /// #HV.
    EXCP_HV = 0x5C;
    /// #VC: what the host sees for every reflected exit.
    EXCP_VC = 0x5D;
    /// Physical interrupt.
    INTR = 0x60;
    /// Physical NMI.
    NMI = 0x61;
    /// Physical SMI.
    SMI = 0x62;
    /// Physical INIT.
    INIT = 0x63;
    /// Virtual interrupt window.
    VINTR = 0x64;
    /// CR0 changed in bits other than TS and MP.
    CR0_SEL_WRITE = 0x65;
    /// SIDT.
    IDTR_READ = 0x66;
    /// SGDT.
    GDTR_READ = 0x67;
    /// SLDT.
    LDTR_READ = 0x68;
    /// STR.
    TR_READ = 0x69;
    /// LIDT.
    IDTR_WRITE = 0x6A;
    /// LGDT.
    GDTR_WRITE = 0x6B;
    /// LLDT.
    LDTR_WRITE = 0x6C;
    /// LTR.
    TR_WRITE = 0x6D;
    /// RDTSC.
    RDTSC = 0x6E;
    /// RDPMC.
    RDPMC = 0x6F;
    /// PUSHF.
    PUSHF = 0x70;
    /// POPF.
    POPF = 0x71;
    /// CPUID.
    CPUID = 0x72;
    /// RSM.
    RSM = 0x73;
    /// IRET.
    IRET = 0x74;
    /// INT n.
    SWINT = 0x75;
    /// INVD.
    INVD = 0x76;
    /// PAUSE.
    PAUSE = 0x77;
    /// HLT.
    HLT = 0x78;
    /// INVLPG.
    INVLPG = 0x79;
    /// INVLPGA.
    INVLPGA = 0x7A;
    /// IN, OUT, INS, OUTS: see [`IoioInfo`].
    IOIO = 0x7B;
    /// RDMSR (EXITINFO1 = 0) or WRMSR (1).
    MSR = 0x7C;
    /// Task switch.
    TASK_SWITCH = 0x7D;
    /// FERR freeze.
    FERR_FREEZE = 0x7E;
    /// Shutdown: triple fault.
    SHUTDOWN = 0x7F;
    /// VMRUN.
    VMRUN = 0x80;
    /// VMMCALL.
    VMMCALL = 0x81;
    /// VMLOAD.
    VMLOAD = 0x82;
    /// VMSAVE.
    VMSAVE = 0x83;
    /// STGI.
    STGI = 0x84;
    /// CLGI.
    CLGI = 0x85;
    /// SKINIT.
    SKINIT = 0x86;
    /// RDTSCP.
    RDTSCP = 0x87;
    /// INT1.
    ICEBP = 0x88;
    /// WBINVD or WBNOINVD.
    WBINVD = 0x89;
    /// MONITOR or MONITORX.
    MONITOR = 0x8A;
    /// MWAIT or MWAITX.
    MWAIT = 0x8B;
    /// MWAIT with the monitor hardware armed.
    MWAIT_CONDITIONAL = 0x8C;
    /// XSETBV.
    XSETBV = 0x8D;
    /// RDPRU.
    RDPRU = 0x8E;
    /// EFER written (trap).
    EFER_WRITE_TRAP = 0x8F;
    /// CR0 written (trap); CR*n* is this plus *n*.
    CR0_WRITE_TRAP = 0x90;
    /// INVLPGB.
    INVLPGB = 0xA0;
    /// INVLPGB with an operand the host did not allow.
    INVLPGB_ILLEGAL = 0xA1;
    /// INVPCID.
    INVPCID = 0xA2;
    /// MCOMMIT.
    MCOMMIT = 0xA3;
    /// TLBSYNC.
    TLBSYNC = 0xA4;
    /// Bus lock.
    BUSLOCK = 0xA5;
    /// HLT with no virtual interrupt pending.
    IDLE_HLT = 0xA6;
    /// Nested page fault: EXITINFO1 is [`NpfInfo`], EXITINFO2 the address.
    NPF = 0x400;
    /// AVIC: IPI not delivered.
    AVIC_INCOMPLETE_IPI = 0x401;
    /// AVIC: register not accelerated.
    AVIC_NOACCEL = 0x402;
    /// VMGEXIT.
    VMGEXIT = 0x403;
    /// SNP: a page that is not validated was touched.
    PAGE_NOT_VALIDATED = 0x404;
    /// SNP: the exit left an instruction half done; the VMSA cannot be resumed.
    NOT_RESTARTABLE = 0x406;
    /// SNP: the VMSA is busy (minus 2).
    BUSY = 0xFFFF_FFFF_FFFF_FFFE;
    /// The state could not be entered (minus 1).
    INVALID = 0xFFFF_FFFF_FFFF_FFFF;
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({:#x})", self.0),
            None => write!(f, "exit {:#x}", self.0),
        }
    }
}

/// EXITINFO1 of [`ExitCode::IOIO`] (APM vol. 2, 15.10.2, figure 15-2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IoioInfo {
    /// IN or INS, not OUT or OUTS.
    pub is_in: bool,
    __: bool,
    /// INS or OUTS.
    pub string: bool,
    /// REP prefix.
    pub rep: bool,
    /// Operand of one byte.
    pub size8: bool,
    /// Operand of two bytes.
    pub size16: bool,
    /// Operand of four bytes.
    pub size32: bool,
    /// 16-bit addresses.
    pub address16: bool,
    /// 32-bit addresses.
    pub address32: bool,
    /// 64-bit addresses.
    pub address64: bool,
    /// Effective segment: ES, CS, SS, DS, FS, GS from 0.
    #[bits(3)]
    pub segment: u8,
    #[bits(3)]
    __: u8,
    /// Port.
    pub port: u16,
    __: u32,
}

/// EXITINFO1 of [`ExitCode::MSR`]: bit 0 is set for WRMSR (APM vol. 2, 15.11).
pub const MSR_INFO_WRITE: u64 = 1;

/// EXITINFO1 of [`ExitCode::NPF`] (APM vol. 2, 15.25.6 and 15.36.10). Unknown bits are kept.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct NpfInfo(pub u64);

bitflags! {
    impl NpfInfo: u64 {
        /// The nested page was present.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The nested walk counts as user access.
        const USER = 1 << 2;
        /// Reserved bits were set in a nested entry.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
        /// The access was to a shadow stack.
        const SHADOW_STACK = 1 << 6;
        /// The RMP refused.
        const RMP = 1 << 31;
        /// At the guest's final physical address.
        const FINAL_GPA = 1 << 32;
        /// While walking the guest's page tables.
        const PAGE_TABLE_WALK = 1 << 33;
        /// The access was encrypted (private).
        const ENCRYPTED = 1 << 34;
        /// Page size in RMP and nested table differ.
        const SIZE_MISMATCH = 1 << 35;
        /// The VMPL has no permission.
        const VMPL = 1 << 36;
        /// Supervisor shadow-stack check failed.
        const SUPERVISOR_SHADOW_STACK = 1 << 37;
        /// The instruction cannot be restarted.
        const NOT_RESTARTABLE = 1 << 63;
        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn codes_display_their_name_and_number() {
        assert_eq!(ExitCode::NPF.to_string(), "NPF (0x400)");
        assert_eq!(ExitCode(0x14).to_string(), "CR_WRITE (0x14)");
        assert_eq!(ExitCode(0x777).to_string(), "exit 0x777");
        assert_eq!(ExitCode::INVALID.0, (-1_i64).cast_unsigned());
        assert_eq!(ExitCode::BUSY.0, (-2_i64).cast_unsigned());
    }

    #[test]
    fn port_word_has_its_bits_where_the_manual_says() {
        let rep_insb = IoioInfo::new()
            .with_is_in(true)
            .with_string(true)
            .with_rep(true)
            .with_size8(true)
            .with_address64(true)
            .with_segment(3)
            .with_port(0x511);
        assert_eq!(rep_insb.into_bits(), 0x0511_0E1D);
    }
}
