//! Nested page faults of the guest that runs, and what host and guest are told of them.

use super::{NestedLie, Next, Platform, Processor};
use crate::snp::addr::{C_BIT, Gpa};
use crate::snp::memory::{Resolution, Stage};
use crate::snp::rmp::{AccessKind, Vmpl};
use crate::snp::vm::MachineFrames;
use crate::svm::Exit;
use stockade_abi::exit::{ExitCode, NpfInfo};

impl Processor {
    /// Decides a nested page fault.
    pub(super) fn nested_fault(&mut self, platform: &impl Platform, exit: Exit) -> Next {
        let info = NpfInfo::from_bits_retain(exit.info1);
        let kind = if info.contains(NpfInfo::FETCH) {
            AccessKind::Fetch
        } else if info.contains(NpfInfo::WRITE) {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let stage = if info.contains(NpfInfo::PAGE_TABLE_WALK) {
            Stage::Walk
        } else {
            Stage::Final
        };
        // QEMU calls every walk a write; it reads entries far more often than it sets their accessed bits.
        let kind = if stage == Stage::Walk && kind == AccessKind::Write {
            AccessKind::Read
        } else {
            kind
        };
        let who = self.who();
        platform.counters().count_nested_fault();
        if who.vmpl != Vmpl::ZERO
            && let Some(lie) = self.lie(platform, exit.info2)
        {
            let gpa = exit.info2 & !C_BIT;
            let rip = self.vmcb.save.rip;
            return match lie {
                NestedLie::Missing => self.automatic(ExitCode::NPF, info.bits(), gpa),
                NestedLie::Device => {
                    let info = info | NpfInfo::PRESENT | NpfInfo::RESERVED;
                    self.non_automatic(platform, ExitCode::NPF, info.bits(), gpa, rip)
                }
            };
        }
        let resolution =
            platform
                .memory()
                .lock()
                .fault(who, exit.info2, kind, stage, &mut MachineFrames);
        match resolution {
            Resolution::Mapped => Next::Resume,
            Resolution::WalkWithoutCBit => {
                self.vmcb.save.cr3 |= C_BIT;
                Next::Resume
            }
            Resolution::Converted(_) => {
                platform.counters().count_conversion();
                platform.flush_others();
                Next::Resume
            }
            Resolution::Device => {
                let info = info | NpfInfo::PRESENT | NpfInfo::RESERVED;
                self.non_automatic(
                    platform,
                    ExitCode::NPF,
                    info.bits(),
                    exit.info2 & !C_BIT,
                    self.vmcb.save.rip,
                )
            }
            Resolution::NotValidated => {
                // Hardware leaves the linear address; QEMU tells the physical one only.
                self.vmcb.save.cr2 = exit.info2 & !C_BIT;
                let rip = self.vmcb.save.rip;
                self.non_automatic(
                    platform,
                    ExitCode::PAGE_NOT_VALIDATED,
                    info.bits(),
                    exit.info2 & !C_BIT,
                    rip,
                )
            }
            Resolution::Denied => {
                let info =
                    info | NpfInfo::PRESENT | NpfInfo::RMP | NpfInfo::VMPL | NpfInfo::ENCRYPTED;
                self.automatic(ExitCode::NPF, info.bits(), exit.info2 & !C_BIT)
            }
            Resolution::Foreign | Resolution::OutOfMemory => {
                let info = info | NpfInfo::RMP;
                self.automatic(ExitCode::NPF, info.bits(), exit.info2 & !C_BIT)
            }
        }
    }

    fn lie(&self, platform: &impl Platform, address: u64) -> Option<NestedLie> {
        let gpa = Gpa::new(address);
        platform.memory().lock().map.translate(gpa)?;
        platform.nested_lie(gpa)
    }
}
