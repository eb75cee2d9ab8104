//! What an exit of the real VMRUN is for a guest of SEV-SNP (APM vol. 2, 15.35.4, table 15-33).
//!
//! Automatic exits go to the host, the rest is #VC: delivered to the guest, or with ReflectVC turned into an automatic
//! exit whose cause only the VMSA tells (15.36.9). Some exits exist only because QEMU knows no SNP; they end here.

use super::entry::{FLAG_TF, PUSHED_BY_QEMU};
use super::injection::{Over, Stepping};
use super::msr::{Access, MsrFile};
use super::rmp_instructions::{self, Executed};
use super::vmsa::{Busy, ExitReport};
use super::{Leaving, Next, Platform, Processor};
use crate::snp::decode::{Decoded, Instruction};
use crate::snp::npt::Unmapped;
use crate::svm::Exit;
use stockade_abi::exit::{ExitCode, MSR_INFO_WRITE, NpfInfo};
use stockade_abi::vmsa::{EventInfo, EventType, SevFeatures};

const EXCP_DE: u64 = 0x40;
const EXCP_UD: u64 = 0x46;
const EXCP_LAST: u64 = 0x5F;
const CR8_WRITE: u64 = 0x18;
const VECTOR_UD: u8 = 6;
const VECTOR_GP: u8 = 13;
const VECTOR_PF: u8 = 14;
const DR6_SINGLE_STEP: u64 = 1 << 14;

impl Processor {
    /// Decides what `exit` is.
    pub(super) fn decide(&mut self, platform: &impl Platform, exit: Exit, ghcb: &mut u64) -> Next {
        let interrupted = exit
            .interrupted
            .map(|event| EventInfo::from_bits(event.into_bits()));
        if let Some(event) = interrupted {
            self.injection.event = Some(event);
        }
        let stepped = self.take_step(ExitCode(exit.code));
        match ExitCode(exit.code) {
            ExitCode::INTR | ExitCode::NMI | ExitCode::INIT | ExitCode::SMI => {
                self.automatic(ExitCode(exit.code), 0, 0)
            }
            ExitCode::NPF => self.nested_fault(platform, exit),
            ExitCode(EXCP_UD) => self.undefined(platform),
            ExitCode::EXCP_DB => match stepped {
                Some(stepping) => self.stepped(stepping),
                None => self.automatic(ExitCode::INVALID, exit.code, 0),
            },
            ExitCode(code @ EXCP_DE..=EXCP_LAST) => self.fault(code, exit),
            // The guest can take an interrupt, or is about to end its NMI handler: the next entry sees to it.
            ExitCode::VINTR => Next::Resume,
            ExitCode::IRET => {
                self.injection.is_at_iret = true;
                Next::Resume
            }
            ExitCode::HLT | ExitCode::PAUSE => self.finished(platform, ExitCode(exit.code)),
            ExitCode::SHUTDOWN => self.automatic(ExitCode::SHUTDOWN, 0, 0),
            ExitCode::VMMCALL => self.vmmcall(platform),
            ExitCode::MSR => self.msr(platform, exit.info1, ghcb),
            ExitCode::IOIO => match self.port_info(platform, exit.info1) {
                Ok(info) => {
                    self.non_automatic(platform, ExitCode::IOIO, info, exit.info2, exit.info2)
                }
                Err(next) => next,
            },
            ExitCode(CR8_WRITE) => self.write_cr8(platform),
            ExitCode::INVALID => self.invalid(platform),
            code => match self.decoded(platform) {
                Ok(decoded) => {
                    let next = self.next_rip(decoded);
                    self.non_automatic(platform, code, 0, 0, next)
                }
                Err(next) => next,
            },
        }
    }

    /// Ends single-stepping, whatever came of it.
    fn take_step(&mut self, code: ExitCode) -> Option<Stepping> {
        let stepping = self.injection.stepping.take()?;
        let is_done = code == ExitCode::EXCP_DB;
        // A completed IRET has loaded the guest's own flags.
        let has_own_flags = is_done && stepping.over == Over::Iret;
        if !stepping.trap_flag && !has_own_flags {
            self.vmcb.save.rflags &= !FLAG_TF;
        }
        Some(stepping)
    }

    fn stepped(&mut self, stepping: Stepping) -> Next {
        if stepping.over == Over::Iret {
            self.injection.control.set_v_nmi_mask(false);
        }
        self.vmcb.save.dr6 = stepping.dr6;
        if stepping.trap_flag {
            self.vmcb.save.dr6 |= DR6_SINGLE_STEP;
            self.injection.event = Some(exception(1, None));
        }
        Next::Resume
    }

    /// An exception QEMU would deliver: with the error code hardware has, as #DF or as a shutdown if it comes on top of
    /// another (APM vol. 2, 8.2.9).
    fn fault(&mut self, code: u64, exit: Exit) -> Next {
        let vector = (code - EXCP_DE).to_le_bytes()[0];
        let first = self.injection.event.take();
        let error = exit.info1.to_le_bytes();
        let error = u32::from_le_bytes([error[0], error[1], error[2], error[3]]);
        let in_long_mode = self.paging().is_long();
        match nested(first, vector) {
            Nested::Shutdown => return self.automatic(ExitCode::SHUTDOWN, 0, 0),
            Nested::Double => self.injection.event = Some(exception(8, Some(0))),
            Nested::No => {
                if vector == VECTOR_PF {
                    self.vmcb.save.cr2 = exit.info2;
                }
                let error = if in_long_mode {
                    gate_error(error, first)
                } else {
                    error
                };
                let error = PUSHED_BY_QEMU.contains(&vector).then_some(error);
                self.injection.event = Some(exception(vector, error));
            }
        }
        Next::Resume
    }

    /// An automatic exit: host and VMSA are told the same.
    pub(super) fn automatic(&mut self, code: ExitCode, info1: u64, info2: u64) -> Next {
        let int_info = self.injection.event.take().unwrap_or_default();
        let report = ExitReport {
            code,
            info1,
            info2,
            int_info,
            nrip: self.vmcb.save.rip,
        };
        Next::Leave(Leaving {
            report,
            code,
            info1,
            info2,
            busy: Busy::Keep,
        })
    }

    /// An event that may need the host: #VC, or with ReflectVC an exit to a more privileged VMPL.
    pub(super) fn non_automatic(
        &mut self,
        platform: &impl Platform,
        code: ExitCode,
        info1: u64,
        info2: u64,
        nrip: u64,
    ) -> Next {
        platform.counters().count_vc(self.image.vmpl(), code);
        let interrupted = self.injection.event.take();
        if !self.image.has(SevFeatures::REFLECT_VC) {
            if interrupted.is_some_and(is_contributory) {
                self.injection.event = Some(exception(8, Some(0)));
                return Next::Resume;
            }
            let error_code = u32::try_from(code.0 & 0xFFFF_FFFF).unwrap_or(0);
            return self
                .raise(platform, super::deliver::VC_VECTOR, error_code)
                .unwrap_or(Next::Resume);
        }
        let report = ExitReport {
            code,
            info1,
            info2,
            int_info: interrupted.unwrap_or_default(),
            nrip,
        };
        let busy = if interrupted.is_some() {
            Busy::Set
        } else {
            Busy::Keep
        };
        Next::Leave(Leaving {
            report,
            code: ExitCode::EXCP_VC,
            info1: 0,
            info2: 0,
            busy,
        })
    }

    /// HLT and PAUSE: hardware has advanced RIP when the host sees the exit.
    fn finished(&mut self, platform: &impl Platform, code: ExitCode) -> Next {
        match self.decoded(platform) {
            Ok(decoded) => {
                self.retire(decoded);
                self.automatic(code, 0, 0)
            }
            Err(next) => next,
        }
    }

    fn vmmcall(&mut self, platform: &impl Platform) -> Next {
        match self.decoded(platform) {
            Ok(decoded) if decoded.instruction == Instruction::Vmgexit => {
                self.retire(decoded);
                self.automatic(ExitCode::VMGEXIT, 0, 0)
            }
            Ok(decoded) => {
                let next = self.next_rip(decoded);
                self.non_automatic(platform, ExitCode::VMMCALL, 0, 0, next)
            }
            Err(next) => next,
        }
    }

    /// #UD in QEMU: an instruction of SNP, or really undefined.
    fn undefined(&mut self, platform: &impl Platform) -> Next {
        let decoded = match self.fetch(platform) {
            Ok(decoded) => decoded,
            Err(next) => return next,
        };
        match decoded {
            Some(decoded)
                if matches!(
                    decoded.instruction,
                    Instruction::Pvalidate | Instruction::Rmpadjust | Instruction::Rmpquery
                ) =>
            {
                self.rmp_instruction(platform, decoded)
            }
            // QEMU knows it not.
            Some(
                decoded @ Decoded {
                    instruction: Instruction::Icebp,
                    ..
                },
            ) => {
                self.retire(decoded);
                self.injection.event = Some(exception(1, None));
                Next::Resume
            }
            _ => {
                self.injection.event = Some(exception(VECTOR_UD, None));
                Next::Resume
            }
        }
    }

    fn rmp_instruction(&mut self, platform: &impl Platform, decoded: Decoded) -> Next {
        let who = self.who();
        let mut memory = platform.memory().lock();
        let save = &mut self.vmcb.save;
        let pages = &self.pages[who.vmpl.index()];
        let executed = rmp_instructions::execute(
            decoded.instruction,
            save,
            &mut self.registers,
            &mut memory,
            who,
            pages,
        );
        drop(memory);
        platform
            .counters()
            .count_rmp_instruction(decoded.instruction);
        match executed {
            Executed::Retired(unmapped) => {
                self.retire(decoded);
                if unmapped == Unmapped::Something {
                    platform.flush_others();
                }
                Next::Resume
            }
            Executed::GeneralProtection => self.general_protection(),
            Executed::PageFault { fault, address } => {
                self.vmcb.save.cr2 = address;
                self.injection.event = Some(exception(VECTOR_PF, Some(fault.code)));
                Next::Resume
            }
            Executed::NotValidated { address } => {
                self.vmcb.save.cr2 = address;
                let rip = self.vmcb.save.rip;
                self.non_automatic(platform, ExitCode::PAGE_NOT_VALIDATED, 0, 0, rip)
            }
            Executed::NestedFault { gpa } => {
                let info =
                    NpfInfo::PRESENT | NpfInfo::RMP | NpfInfo::ENCRYPTED | NpfInfo::FINAL_GPA;
                self.automatic(ExitCode::NPF, info.bits(), gpa.get())
            }
        }
    }

    fn msr(&mut self, platform: &impl Platform, info1: u64, ghcb: &mut u64) -> Next {
        let decoded = match self.decoded(platform) {
            Ok(decoded) => decoded,
            Err(next) => return next,
        };
        let msr = u32::try_from(self.registers.rcx & 0xFFFF_FFFF).unwrap_or(0);
        let (low, high) = (
            self.vmcb.save.rax & 0xFFFF_FFFF,
            self.registers.rdx & 0xFFFF_FFFF,
        );
        let mut file = MsrFile {
            save: &mut self.vmcb.save,
            image: &mut self.image,
            extended: &mut self.extended,
            ghcb,
            tsc_mhz: platform.tsc_mhz(),
        };
        let done = if info1 & MSR_INFO_WRITE != 0 {
            file.write(msr, high << 32 | low)
        } else {
            match file.read(msr) {
                Access::Done(value) => {
                    self.vmcb.save.rax = value & 0xFFFF_FFFF;
                    self.registers.rdx = value >> 32;
                    Access::Done(())
                }
                Access::Fault => Access::Fault,
                Access::Intercepted => Access::Intercepted,
            }
        };
        match done {
            Access::Done(()) => {
                self.retire(decoded);
                Next::Resume
            }
            Access::Fault => self.general_protection(),
            Access::Intercepted => {
                let next = self.next_rip(decoded);
                self.non_automatic(platform, ExitCode::MSR, info1 & MSR_INFO_WRITE, 0, next)
            }
        }
    }

    /// MOV CR8: the TPR decides about interrupts that wait, and QEMU takes bits that are reserved.
    fn write_cr8(&mut self, platform: &impl Platform) -> Next {
        match self.decoded(platform) {
            Ok(decoded) => {
                if let Instruction::MoveToControl {
                    control: 8,
                    general,
                } = decoded.instruction
                {
                    let value = self.general(general);
                    if value > 0xF {
                        return self.general_protection();
                    }
                    self.injection.control.set_v_tpr(value.to_le_bytes()[0]);
                }
                self.retire(decoded);
                Next::Resume
            }
            Err(next) => next,
        }
    }

    /// QEMU ends the guest when it moves reserved bits into a control register; hardware raises #GP.
    fn invalid(&mut self, platform: &impl Platform) -> Next {
        match self.fetch(platform) {
            Ok(Some(Decoded {
                instruction: Instruction::MoveToControl { .. },
                ..
            })) => self.general_protection(),
            _ => self.automatic(ExitCode::INVALID, 0, 0),
        }
    }

    fn general_protection(&mut self) -> Next {
        self.injection.event = Some(exception(VECTOR_GP, Some(0)));
        Next::Resume
    }
}

fn exception(vector: u8, error_code: Option<u32>) -> EventInfo {
    EventInfo::new()
        .with_vector(vector)
        .with_event_type(EventType::EXCEPTION)
        .with_error_code_valid(error_code.is_some())
        .with_error_code(error_code.unwrap_or(0))
        .with_valid(true)
}

/// What an exception on top of an event becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Nested {
    No,
    Double,
    Shutdown,
}

/// APM vol. 2, table 8-3.
fn nested(first: Option<EventInfo>, second: u8) -> Nested {
    const DF: u8 = 8;
    let Some(first) = first.filter(|first| first.event_type() == EventType::EXCEPTION) else {
        return Nested::No;
    };
    let contributory = |vector| matches!(vector, 0 | 10..=13 | 21 | 29 | 30);
    let (after_page_fault, is_page_fault) = (first.vector() == VECTOR_PF, second == VECTOR_PF);
    if first.vector() == DF && (contributory(second) || is_page_fault) {
        Nested::Shutdown
    } else if (contributory(second) && (contributory(first.vector()) || after_page_fault))
        || (is_page_fault && after_page_fault)
    {
        Nested::Double
    } else {
        Nested::No
    }
}

/// QEMU counts the gates of long mode as two, and never says that the event was no software interrupt.
fn gate_error(code: u32, first: Option<EventInfo>) -> u32 {
    const EXT: u32 = 1;
    const IDT: u32 = 2;
    if code & IDT == 0 {
        return code;
    }
    let is_external = first.is_some_and(|first| first.event_type() != EventType::SOFTWARE);
    (code >> 4) << 3 | IDT | if is_external { EXT } else { 0 }
}

/// Exceptions that make a double fault with #VC (APM vol. 2, 8.2.9): #DE, #TS, #NP, #SS, #GP, #PF and the rest of their
/// class.
fn is_contributory(event: EventInfo) -> bool {
    event.event_type() == EventType::EXCEPTION
        && matches!(event.vector(), 0 | 10..=14 | 21 | 29 | 30)
}
