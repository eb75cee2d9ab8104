//! PVALIDATE, RMPADJUST and RMPQUERY as a guest executes them (APM vol. 3).

use super::linear::{Linear, LinearFault, PageCache};
use crate::snp::addr::Gpa;
use crate::snp::decode::Instruction;
use crate::snp::memory::{Memory, Validate, Who};
use crate::snp::npt::Unmapped;
use crate::snp::rmp::{Adjustment, Change, FailCode, Outcome, PageSize, Permissions, Vmpl};
use crate::snp::walk::{PageFault, Paging, Privilege, Use};
use crate::svm::{GuestRegisters, SaveArea};
use stockade_abi::rmp::{VmsaPage, rmpadjust_parts};

const FLAG_CF: u64 = 1;
const FLAG_PF: u64 = 1 << 2;
const FLAG_AF: u64 = 1 << 4;
const FLAG_ZF: u64 = 1 << 6;
const FLAG_SF: u64 = 1 << 7;
const FLAG_OF: u64 = 1 << 11;

/// How the instruction ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Executed {
    /// It retires: registers and flags are set.
    Retired(Unmapped),
    /// #GP(0).
    GeneralProtection,
    /// #PF.
    PageFault {
        /// Error code.
        fault: PageFault,
        /// CR2.
        address: u64,
    },
    /// #VC, page not validated; the linear address goes to CR2.
    NotValidated {
        /// The operand.
        address: u64,
    },
    /// #VMEXIT(NPF) that no honest host could resolve.
    NestedFault {
        /// The page.
        gpa: Gpa,
    },
}

/// Executes `instruction` (one of the three) for the guest in `save` and `registers`.
pub fn execute(
    instruction: Instruction,
    save: &mut SaveArea,
    registers: &mut GuestRegisters,
    memory: &mut Memory,
    who: Who,
    pages: &PageCache,
) -> Executed {
    // PVALIDATE is VMPL0's alone; the others have their own rule.
    if save.cpl != 0 || (instruction == Instruction::Pvalidate && who.vmpl != Vmpl::ZERO) {
        return Executed::GeneralProtection;
    }
    let address = save.rax;
    let paging = Paging {
        cr0: save.cr0,
        cr3: save.cr3,
        cr4: save.cr4,
        efer: save.efer,
    };
    let linear = Linear::new(memory, who, paging, pages);
    let gpa = match linear.translate(address, Use::Read, Privilege::Supervisor) {
        Ok(physical) => Gpa::new(physical),
        Err(LinearFault::Page { fault, address }) => return Executed::PageFault { fault, address },
        Err(LinearFault::Nested(_)) => {
            return Executed::NestedFault {
                gpa: Gpa::new(save.cr3),
            };
        }
    };
    match instruction {
        Instruction::Pvalidate => pvalidate(save, registers, memory, gpa),
        Instruction::Rmpadjust => adjust(save, registers, memory, who.vmpl, gpa),
        _ => query(save, registers, memory, who.vmpl, gpa),
    }
}

fn pvalidate(
    save: &mut SaveArea,
    registers: &mut GuestRegisters,
    memory: &mut Memory,
    gpa: Gpa,
) -> Executed {
    let Some(size) = page_size(registers.rcx) else {
        return retire(save, Some(FailCode::Input), Unmapped::Nothing);
    };
    let validate = if registers.rdx & 1 == 1 {
        Validate::Set
    } else {
        Validate::Rescind
    };
    let address = save.rax;
    let (outcome, unmapped) = memory.pvalidate(page_of(gpa, size), size, validate);
    if let Outcome::Done(change) = outcome {
        save.rflags &= !FLAG_CF;
        if change == Change::Unchanged {
            save.rflags |= FLAG_CF;
        }
    }
    finish(save, outcome, unmapped, gpa, address)
}

fn adjust(
    save: &mut SaveArea,
    registers: &GuestRegisters,
    memory: &mut Memory,
    current: Vmpl,
    gpa: Gpa,
) -> Executed {
    let (target, permissions, vmsa) = rmpadjust_parts(registers.rdx);
    let (Some(size), Some(target)) = (page_size(registers.rcx), Vmpl::try_new(target)) else {
        return retire(save, Some(FailCode::Input), Unmapped::Nothing);
    };
    let what = Adjustment {
        current,
        target,
        permissions: Permissions::from_bits(permissions.bits() & 0xF),
        vmsa: vmsa == VmsaPage::Yes,
    };
    let address = save.rax;
    let (outcome, unmapped) = memory.adjust(page_of(gpa, size), size, what);
    finish(save, outcome, unmapped, gpa, address)
}

/// RDX: in the target VMPL, out its permissions and the VMSA bit; RCX out the page size.
fn query(
    save: &mut SaveArea,
    registers: &mut GuestRegisters,
    memory: &Memory,
    current: Vmpl,
    gpa: Gpa,
) -> Executed {
    let Some(target) = Vmpl::try_new(registers.rdx.to_le_bytes()[0]) else {
        return retire(save, Some(FailCode::Input), Unmapped::Nothing);
    };
    let address = save.rax;
    let outcome = memory.query(gpa, current, target);
    if let Outcome::Done(entry) = outcome {
        let permissions = u64::from(entry.permissions(target).into_bits());
        registers.rdx =
            u64::from(target.get()) | permissions << 8 | u64::from(entry.is_vmsa()) << 16;
        registers.rcx = u64::from(entry.size() == PageSize::Large);
    }
    finish(save, outcome, Unmapped::Nothing, gpa, address)
}

fn finish<T>(
    save: &mut SaveArea,
    outcome: Outcome<T>,
    unmapped: Unmapped,
    gpa: Gpa,
    address: u64,
) -> Executed {
    match outcome {
        Outcome::Done(_) => retire(save, None, unmapped),
        Outcome::Fail(code) => retire(save, Some(code), unmapped),
        Outcome::NotValidated => Executed::NotValidated { address },
        Outcome::NotOwned | Outcome::NeedsSmash => Executed::NestedFault { gpa },
    }
}

/// Leaves the code in EAX and the flags it implies.
fn retire(save: &mut SaveArea, failure: Option<FailCode>, unmapped: Unmapped) -> Executed {
    let code = failure.map_or(0, |code| code as u32);
    save.rax = u64::from(code);
    save.rflags &= !(FLAG_ZF | FLAG_SF | FLAG_OF | FLAG_AF | FLAG_PF);
    if code == 0 {
        save.rflags |= FLAG_ZF;
    }
    if (code & 0xFF).count_ones().is_multiple_of(2) {
        save.rflags |= FLAG_PF;
    }
    Executed::Retired(unmapped)
}

fn page_size(operand: u64) -> Option<PageSize> {
    match operand & 0xFFFF_FFFF {
        0 => Some(PageSize::Small),
        1 => Some(PageSize::Large),
        _ => None,
    }
}

/// A small operand names its page by any byte of it; a large one must be aligned, which the RMP checks.
const fn page_of(gpa: Gpa, size: PageSize) -> Gpa {
    match size {
        PageSize::Small => gpa.page(),
        PageSize::Large => gpa,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::addr::fake::HeapFrames;
    use crate::snp::addr::{C_BIT, Phys};
    use crate::snp::gpa_map::RangeKind;
    use crate::snp::npt::Layout;
    use crate::snp::rmp::{Owner, Rmp};
    use crate::snp::walk::CR0_PE;
    use zerocopy::FromZeros;

    /// 4 MiB of unvalidated RAM and a guest without paging: linear is physical, all private.
    struct Guest {
        memory: Memory,
        save: SaveArea,
        registers: GuestRegisters,
        who: Who,
    }

    fn guest() -> Guest {
        let mut frames = HeapFrames::new(0x100_0000);
        // SAFETY: the arena starts there.
        let rmp = Rmp::new(unsafe { Phys::new(frames.base) }, frames.size);
        let mut memory = Memory::new(rmp, Owner { asid: 1 }, 7);
        memory
            .map
            .add_blocks(Gpa::new(0), 0x40_0000, RangeKind::Ram, &mut frames)
            .unwrap();
        memory.assign_all(RangeKind::Ram);
        let mut save = SaveArea::new_zeroed();
        save.cr0 = CR0_PE;
        let who = Who {
            vmpl: Vmpl::ZERO,
            layout: Layout::Flat,
            top: u64::MAX,
        };
        Guest {
            memory,
            save,
            registers: GuestRegisters::default(),
            who,
        }
    }

    impl Guest {
        fn run(&mut self, instruction: Instruction, rax: u64, rcx: u64, rdx: u64) -> Executed {
            (self.save.rax, self.registers.rcx, self.registers.rdx) = (rax, rcx, rdx);
            execute(
                instruction,
                &mut self.save,
                &mut self.registers,
                &mut self.memory,
                self.who,
                &PageCache::default(),
            )
        }
    }

    const DONE: Executed = Executed::Retired(Unmapped::Nothing);

    #[test]
    fn pvalidate_tells_by_carry_that_nothing_changed() {
        let mut guest = guest();
        assert_eq!(guest.run(Instruction::Pvalidate, 0x5000, 0, 1), DONE);
        assert_eq!((guest.save.rax, guest.save.rflags & FLAG_CF), (0, 0));
        assert_eq!(guest.save.rflags & FLAG_ZF, FLAG_ZF);
        guest.run(Instruction::Pvalidate, 0x5000, 0, 1);
        assert_eq!((guest.save.rax, guest.save.rflags & FLAG_CF), (0, FLAG_CF));
    }

    #[test]
    fn operands_that_make_no_sense_fail_with_input() {
        let mut guest = guest();
        assert_eq!(guest.run(Instruction::Pvalidate, 0x5000, 1, 1), DONE);
        assert_eq!(guest.save.rax, 1);
        guest.run(Instruction::Pvalidate, 0x5000, 2, 1);
        assert_eq!(guest.save.rax, 1);
        guest.run(Instruction::Rmpadjust, 0x5000, 0, 4);
        assert_eq!(guest.save.rax, 1);
        assert_eq!(guest.save.rflags & FLAG_ZF, 0);
    }

    #[test]
    fn a_size_that_does_not_fit_is_told_or_smashed() {
        let mut guest = guest();
        guest.run(Instruction::Pvalidate, 0x5000, 0, 1);
        guest.run(Instruction::Pvalidate, 0, 1, 1);
        assert_eq!(guest.save.rax, 6);
        guest.run(Instruction::Pvalidate, 0x20_0000, 1, 1);
        assert_eq!(guest.save.rax, 0);
    }

    #[test]
    fn privilege_is_checked_before_anything_else() {
        let mut guest = guest();
        guest.save.cpl = 3;
        assert_eq!(
            guest.run(Instruction::Pvalidate, 0x5000, 0, 1),
            Executed::GeneralProtection
        );
        guest.save.cpl = 0;
        guest.who.vmpl = Vmpl::try_new(1).unwrap();
        assert_eq!(
            guest.run(Instruction::Pvalidate, 0x5000, 0, 1),
            Executed::GeneralProtection
        );
    }

    #[test]
    fn rmpadjust_and_rmpquery_agree() {
        let mut guest = guest();
        assert_eq!(
            guest.run(Instruction::Rmpadjust, 0x5000, 0, 0x302),
            Executed::NotValidated { address: 0x5000 }
        );
        guest.run(Instruction::Pvalidate, 0x5000, 0, 1);
        assert_eq!(guest.run(Instruction::Rmpadjust, 0x5000, 0, 0x1_0302), DONE);
        guest.run(Instruction::Rmpquery, 0x5000, 0, 2);
        assert_eq!(
            (guest.save.rax, guest.registers.rdx, guest.registers.rcx),
            (0, 0x1_0302, 0)
        );
        guest.run(Instruction::Rmpadjust, 0x5000, 0, 0x300);
        assert_eq!(guest.save.rax, 2);
    }

    #[test]
    fn an_operand_without_memory_is_the_hosts_problem() {
        let mut guest = guest();
        let gpa = Gpa::new(0x8000_0000);
        assert_eq!(
            guest.run(Instruction::Pvalidate, 0x8000_0000, 0, 1),
            Executed::NestedFault { gpa }
        );
        guest.save.rax = C_BIT;
    }
}
