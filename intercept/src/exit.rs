//! What a guest's exit means (APM vol. 2, 15.36.9: a reflected #VC leaves its cause in the VMSA).
//!
//! [`Exit::decode`] is total: every number in the VMSA is some [`Exit`], and no number makes it panic. [`Exit::advance`] says
//! where the guest goes on. What an exit asks for is for the dispatcher to decide.

mod io;

use core::fmt;
use stockade_abi::exit::{ExitCode, IoioInfo, MSR_INFO_WRITE, NpfInfo};
use stockade_abi::vmsa::Vmsa;
use stockade_bus::Gpa;

pub use io::{IoAccess, StringIo};

/// Whether the guest reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// IN, RDMSR, MOV from a register.
    Read,
    /// OUT, WRMSR, MOV to a register.
    Write,
}

/// A decoded exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// CPUID.
    Cpuid,
    /// IN, OUT, INS or OUTS.
    Ioio(IoAccess),
    /// RDMSR or WRMSR.
    Msr(Direction),
    /// HLT.
    Hlt,
    /// HLT with no interrupt waiting.
    IdleHlt,
    /// XSETBV.
    Xsetbv,
    /// Nested page fault; whether that is a device is for our own map to say.
    Npf {
        /// Faulting address.
        gpa: Gpa,
        /// What hardware says about it.
        info: NpfInfo,
    },
    /// Triple fault.
    Shutdown,
    /// The host took the processor away: nothing to do for the guest.
    HostEvent(HostEvent),
    /// Interrupt window.
    Vintr,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// INVD.
    Invd,
    /// RDPMC.
    Rdpmc,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// MONITOR or MONITORX: not offered.
    Monitor,
    /// MWAIT or MWAITX: not offered.
    Mwait,
    /// VMMCALL.
    Vmmcall,
    /// An SVM instruction: not offered, #UD.
    SvmInstruction,
    /// MOV to or from a control register, before it happens.
    Cr {
        /// Which: 0 to 15.
        number: u8,
        /// From or to.
        direction: Direction,
    },
    /// A control register was written; the value is in the VMSA already.
    CrWriteTrap {
        /// Which: 0 to 15.
        number: u8,
    },
    /// EFER was written; the value is in the VMSA already.
    EferWriteTrap,
    /// MOV to or from a debug register.
    Dr {
        /// Which: 0 to 15.
        number: u8,
        /// From or to.
        direction: Direction,
    },
    /// SIDT, SGDT, SLDT, STR or their loads.
    DescriptorTable(Direction),
    /// An intercepted exception.
    Exception {
        /// Vector: 0 to 31.
        vector: u8,
        /// Error code, where the vector has one.
        error_code: u32,
    },
    /// INVLPG, INVLPGA or INVPCID.
    InvalidatePage,
    /// INVLPGB or TLBSYNC: not offered.
    Invlpgb,
    /// RDPRU: not offered.
    Rdpru,
    /// The guest touched a page that is not validated: the host swapped it, or our map is wrong.
    PageNotValidated {
        /// Faulting address.
        gpa: Gpa,
    },
    /// AVIC: not in use.
    Avic,
    /// A split or bus lock.
    BusLock,
    /// An instruction was left half done: the guest cannot go on.
    NotRestartable,
    /// The VMSA was busy: somebody else runs it, or we forgot to clear the bit.
    Busy,
    /// Hardware refused the state in the VMSA.
    Invalid,
    /// No meaning here.
    Unknown(ExitCode),
}

/// Why the host took the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// Physical interrupt; also what the run loop leaves in a VMSA it has served.
    Interrupt,
    /// Physical NMI.
    Nmi,
    /// SMI.
    Smi,
    /// INIT.
    Init,
    /// The guest spins in PAUSE.
    Pause,
}

/// Where the guest goes on after an exit that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// At the next RIP in the VMSA; the interrupt shadow ends.
    NextRip,
    /// RIP has moved already; the interrupt shadow ends.
    Already,
    /// The emulator decodes the instruction and moves RIP: the next RIP in the VMSA means nothing.
    Emulate,
    /// Where it was.
    Stay,
}

impl Exit {
    /// Decodes the exit a guest's VMSA holds.
    #[must_use]
    pub fn decode(vmsa: &Vmsa) -> Self {
        Self::from_parts(
            vmsa.guest_exit_code,
            vmsa.guest_exit_info1,
            vmsa.guest_exit_info2,
        )
    }

    /// Decodes an exit code and what came with it.
    #[must_use]
    pub fn from_parts(code: ExitCode, info1: u64, info2: u64) -> Self {
        match code {
            ExitCode::CPUID => Self::Cpuid,
            ExitCode::IOIO => IoAccess::from_info(IoioInfo::from_bits(info1))
                .map_or(Self::Unknown(code), Self::Ioio),
            ExitCode::MSR => Self::Msr(direction(info1 & MSR_INFO_WRITE)),
            ExitCode::HLT => Self::Hlt,
            ExitCode::IDLE_HLT => Self::IdleHlt,
            ExitCode::XSETBV => Self::Xsetbv,
            ExitCode::NPF => Self::Npf {
                gpa: Gpa(info2),
                info: NpfInfo::from_bits_retain(info1),
            },
            ExitCode::PAGE_NOT_VALIDATED => Self::PageNotValidated { gpa: Gpa(info2) },
            ExitCode::SHUTDOWN => Self::Shutdown,
            ExitCode::INTR => Self::HostEvent(HostEvent::Interrupt),
            ExitCode::NMI => Self::HostEvent(HostEvent::Nmi),
            ExitCode::SMI => Self::HostEvent(HostEvent::Smi),
            ExitCode::INIT => Self::HostEvent(HostEvent::Init),
            ExitCode::PAUSE => Self::HostEvent(HostEvent::Pause),
            ExitCode::VINTR => Self::Vintr,
            ExitCode::NOT_RESTARTABLE => Self::NotRestartable,
            ExitCode::BUSY => Self::Busy,
            ExitCode::INVALID => Self::Invalid,
            _ => Self::instruction(code).unwrap_or_else(|| Self::range(code, info1)),
        }
    }

    /// Instructions that carry nothing but their code.
    fn instruction(code: ExitCode) -> Option<Self> {
        Some(match code {
            ExitCode::WBINVD => Self::Wbinvd,
            ExitCode::INVD => Self::Invd,
            ExitCode::RDPMC => Self::Rdpmc,
            ExitCode::RDTSC => Self::Rdtsc,
            ExitCode::RDTSCP => Self::Rdtscp,
            ExitCode::MONITOR => Self::Monitor,
            ExitCode::MWAIT | ExitCode::MWAIT_CONDITIONAL => Self::Mwait,
            ExitCode::VMMCALL => Self::Vmmcall,
            ExitCode::VMRUN
            | ExitCode::VMLOAD
            | ExitCode::VMSAVE
            | ExitCode::STGI
            | ExitCode::CLGI
            | ExitCode::SKINIT => Self::SvmInstruction,
            ExitCode::INVLPG | ExitCode::INVLPGA | ExitCode::INVPCID => Self::InvalidatePage,
            ExitCode::INVLPGB | ExitCode::INVLPGB_ILLEGAL | ExitCode::TLBSYNC => Self::Invlpgb,
            ExitCode::RDPRU => Self::Rdpru,
            ExitCode::EFER_WRITE_TRAP => Self::EferWriteTrap,
            ExitCode::CR0_SEL_WRITE => Self::Cr {
                number: 0,
                direction: Direction::Write,
            },
            ExitCode::AVIC_INCOMPLETE_IPI | ExitCode::AVIC_NOACCEL => Self::Avic,
            ExitCode::BUSLOCK => Self::BusLock,
            _ => return None,
        })
    }

    /// Codes that come in ranges with a number in them.
    fn range(code: ExitCode, info1: u64) -> Self {
        let number = (code.0 & 0xF) as u8;
        match code.0 {
            0x00..=0x1F => Self::Cr {
                number,
                direction: direction(code.0 & 0x10),
            },
            0x20..=0x3F => Self::Dr {
                number,
                direction: direction(code.0 & 0x10),
            },
            0x40..=0x5F => Self::Exception {
                vector: (code.0 & 0x1F) as u8,
                error_code: (info1 & 0xFFFF_FFFF) as u32,
            },
            0x66..=0x69 => Self::DescriptorTable(Direction::Read),
            0x6A..=0x6D => Self::DescriptorTable(Direction::Write),
            0x90..=0x9F => Self::CrWriteTrap { number },
            _ => Self::Unknown(code),
        }
    }

    /// Returns where the guest goes on once this exit is answered without a fault.
    ///
    /// Hardware gives the next RIP for intercepted instructions (APM vol. 2, 15.7.1) but not for a nested page fault, which knows no
    /// instruction boundary. HLT and the write traps are automatic exits that have retired (APM vol. 2, 15.35.5).
    #[must_use]
    pub const fn advance(&self) -> Advance {
        match self {
            Self::Npf { .. } => Advance::Emulate,
            Self::Hlt | Self::IdleHlt | Self::CrWriteTrap { .. } | Self::EferWriteTrap => {
                Advance::Already
            }
            Self::Cpuid
            | Self::Ioio(_)
            | Self::Msr(_)
            | Self::Xsetbv
            | Self::Wbinvd
            | Self::Invd
            | Self::Rdpmc
            | Self::Rdtsc
            | Self::Rdtscp
            | Self::Vmmcall
            | Self::Cr { .. }
            | Self::Dr { .. }
            | Self::InvalidatePage => Advance::NextRip,
            Self::Shutdown
            | Self::HostEvent(_)
            | Self::Vintr
            | Self::Monitor
            | Self::Mwait
            | Self::SvmInstruction
            | Self::DescriptorTable(_)
            | Self::Exception { .. }
            | Self::Invlpgb
            | Self::Rdpru
            | Self::PageNotValidated { .. }
            | Self::Avic
            | Self::BusLock
            | Self::NotRestartable
            | Self::Busy
            | Self::Invalid
            | Self::Unknown(_) => Advance::Stay,
        }
    }

    /// Returns the number of bytes of the instruction, where the next RIP in the VMSA says so and says so plausibly.
    #[must_use]
    pub fn instruction_length(&self, vmsa: &Vmsa) -> Option<u8> {
        if self.advance() != Advance::NextRip {
            return None;
        }
        let length = vmsa.guest_nrip.wrapping_sub(vmsa.rip);
        u8::try_from(length).ok().filter(|n| (1..=15).contains(n))
    }

    /// Returns the name under which exits of this kind are counted.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cpuid => "cpuid",
            Self::Ioio(_) => "ioio",
            Self::Msr(_) => "msr",
            Self::Hlt | Self::IdleHlt => "hlt",
            Self::Xsetbv => "xsetbv",
            Self::Npf { .. } => "npf",
            Self::Shutdown => "shutdown",
            Self::HostEvent(_) => "host",
            Self::Vintr => "vintr",
            Self::Wbinvd | Self::Invd => "wbinvd",
            Self::Rdpmc => "rdpmc",
            Self::Rdtsc | Self::Rdtscp => "rdtsc",
            Self::Monitor | Self::Mwait => "mwait",
            Self::Vmmcall => "vmmcall",
            Self::SvmInstruction => "svm",
            Self::Cr { .. } | Self::CrWriteTrap { .. } | Self::EferWriteTrap => "cr",
            Self::Dr { .. } => "dr",
            Self::DescriptorTable(_) => "descriptor",
            Self::Exception { .. } => "exception",
            Self::InvalidatePage | Self::Invlpgb => "invlpg",
            Self::Rdpru => "rdpru",
            Self::PageNotValidated { .. } => "not-validated",
            Self::Avic => "avic",
            Self::BusLock => "bus-lock",
            Self::NotRestartable | Self::Busy | Self::Invalid => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npf { gpa, info } => write!(f, "npf at {gpa} ({:#x})", info.0),
            Self::PageNotValidated { gpa } => write!(f, "page at {gpa} not validated"),
            Self::Ioio(io) => write!(f, "port {:#x}, {} bytes", io.port, io.width),
            Self::Unknown(code) => write!(f, "{code}"),
            other => f.write_str(other.kind()),
        }
    }
}

/// A bit that is set for writes.
const fn direction(write_bit: u64) -> Direction {
    if write_bit == 0 {
        Direction::Read
    } else {
        Direction::Write
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::{prop_assert, proptest};
    use std::string::ToString;

    fn vmsa_at(rip: u64, next: u64) -> Vmsa {
        let mut vmsa = Vmsa::zeroed();
        vmsa.rip = rip;
        vmsa.guest_nrip = next;
        vmsa
    }

    #[test]
    fn each_named_code_is_known() {
        for code in (0..=0x40B).map(ExitCode) {
            let named = code.name().is_some();
            let known = !matches!(Exit::from_parts(code, 1 << 4, 0), Exit::Unknown(_));
            let nobody_intercepts = [0x70, 0x71, 0x73, 0x74, 0x75, 0x7D, 0x7E, 0x88, 0xA3, 0x403];
            if nobody_intercepts.contains(&code.0) {
                assert!(named && !known, "{code}");
            } else {
                assert_eq!(named, known, "{code}");
            }
        }
    }

    #[test]
    fn rep_insb_from_fw_cfg_is_decoded_whole() {
        let exit = Exit::from_parts(ExitCode::IOIO, 0x0511_0A1D, 0);
        assert_eq!(
            exit,
            Exit::Ioio(IoAccess {
                port: 0x511,
                width: 1,
                direction: Direction::Read,
                string: Some(StringIo {
                    rep: true,
                    address_size: 8,
                    segment: 2,
                }),
            })
        );
    }

    #[test]
    fn port_word_without_or_with_two_sizes_is_unknown() {
        for info in [0, 0x70, 0x30, 0x14] {
            let exit = Exit::from_parts(ExitCode::IOIO, info, 0);
            assert_eq!(exit, Exit::Unknown(ExitCode::IOIO), "{info:#x}");
        }
    }

    #[test]
    fn out_dx_eax_is_a_write_of_four_bytes() {
        let exit = Exit::from_parts(ExitCode::IOIO, 0x0CF8_0040, 0);
        assert!(matches!(
            exit,
            Exit::Ioio(IoAccess {
                port: 0xCF8,
                width: 4,
                direction: Direction::Write,
                string: None
            })
        ));
    }

    #[test]
    fn nested_page_fault_has_its_address_and_no_length() {
        let exit = Exit::from_parts(ExitCode::NPF, 0x1_0000_0004, 0xFEE0_00B0);
        assert!(
            matches!(exit, Exit::Npf { gpa: Gpa(0xFEE0_00B0), info } if info.contains(NpfInfo::FINAL_GPA))
        );
        assert_eq!(exit.instruction_length(&vmsa_at(0x1000, 0x1002)), None);
        assert_eq!(exit.advance(), Advance::Emulate);
    }

    #[test]
    fn length_of_an_intercepted_instruction_is_the_way_to_next_rip() {
        assert_eq!(
            Exit::Cpuid.instruction_length(&vmsa_at(0x1000, 0x1002)),
            Some(2)
        );
        assert_eq!(
            Exit::Cpuid.instruction_length(&vmsa_at(u64::MAX, 1)),
            Some(2)
        );
        for (rip, next) in [(0x1000, 0x1000), (0x1000, 0x1010), (0x1000, 0xFFF)] {
            assert_eq!(Exit::Cpuid.instruction_length(&vmsa_at(rip, next)), None);
        }
    }

    #[test]
    fn halt_has_advanced_already() {
        assert_eq!(Exit::Hlt.advance(), Advance::Already);
        assert_eq!(Exit::SvmInstruction.advance(), Advance::Stay);
    }

    proptest! {
        /// A host or a guest can bring about any number; none may stop the paravisor.
        #[test]
        fn any_numbers_decode_and_display(code: u64, small in 0_u64..0x500, info1: u64, info2: u64) {
            for code in [code, small, u64::MAX - small] {
                let exit = Exit::from_parts(ExitCode(code), info1, info2);
                prop_assert!(!exit.to_string().is_empty());
                let length = exit.instruction_length(&vmsa_at(info1, info2));
                prop_assert!(length.is_none_or(|n| (1..=15).contains(&n)));
            }
        }
    }
}
