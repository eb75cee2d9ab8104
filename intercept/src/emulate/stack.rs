//! The stack, and jumps through memory. APM vol. 3: PUSH, POP, near CALL and JMP.

use iced_x86::{Code, OpKind, Register};

use super::execute::{Executor, Flow};
use super::flags::Width;
use super::guest::Span;
use super::operand::Place;
use super::registers::CodeMode;
use super::{Exception, MmioBus, Stop};
use crate::walk::{Access, control};

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    pub(super) fn push(&mut self) -> Result<Flow, Stop> {
        let width = self.stack_width()?;
        let source = self.place(0, Access::Read)?;
        let (slot, pointer) = self.pushed(width)?;
        let value = self.load(&source, width)?;
        self.guest.write_integer(&slot, value, width)?;
        self.set_stack_pointer(pointer);
        Ok(Flow::Next)
    }

    /// POP computes the address of its operand with the stack pointer it leaves behind.
    pub(super) fn pop(&mut self) -> Result<Flow, Stop> {
        let width = self.stack_width()?;
        let before = self.guest.cpu.vmsa.rsp;
        let slot_offset = before & self.guest.cpu.stack_mask();
        let slot = self
            .guest
            .locate(Register::SS, slot_offset, width.bytes(), Access::Read)?;
        self.set_stack_pointer(slot_offset.wrapping_add(width.bytes() as u64));
        let popped = self.pop_into(&slot, width);
        if popped.is_err() {
            self.guest.cpu.vmsa.rsp = before;
        }
        popped
    }

    fn pop_into(&mut self, slot: &Span, width: Width) -> Result<Flow, Stop> {
        let target = self.place(0, Access::Write)?;
        let value = self.guest.read_integer(slot, width)?;
        self.store(&target, value, width)?;
        Ok(Flow::Next)
    }

    pub(super) fn call(&mut self) -> Result<Flow, Stop> {
        let (target, width) = self.branch_operand()?;
        let (slot, pointer) = self.pushed(width)?;
        let target = self.branch_target(&target, width)?;
        let next = self.guest.cpu.mode.wrap(self.instruction.next_ip());
        self.guest.write_integer(&slot, next, width)?;
        self.set_stack_pointer(pointer);
        Ok(Flow::Jump(target))
    }

    pub(super) fn jump(&mut self) -> Result<Flow, Stop> {
        let (target, width) = self.branch_operand()?;
        Ok(Flow::Jump(self.branch_target(&target, width)?))
    }

    /// Finds the operand of a near, indirect branch. With shadow stacks or branch tracking on, there is more to it than is done here.
    fn branch_operand(&mut self) -> Result<(Place, Width), Stop> {
        let width = match self.instruction.code() {
            Code::Call_rm16 | Code::Jmp_rm16 => Width::Word,
            Code::Call_rm32 | Code::Jmp_rm32 => Width::Dword,
            Code::Call_rm64 | Code::Jmp_rm64 => Width::Qword,
            _ => return Err(self.unsupported()),
        };
        if self.guest.cpu.vmsa.cr4 & control::CR4_CET != 0 {
            return Err(self.unsupported());
        }
        Ok((self.place(0, Access::Read)?, width))
    }

    fn branch_target(&mut self, place: &Place, width: Width) -> Result<u64, Stop> {
        let target = self.load(place, width)?;
        let cpu = &self.guest.cpu;
        let is_valid = match cpu.mode {
            CodeMode::Bits64 => cpu.walk.is_canonical(target),
            _ => target <= u64::from(cpu.vmsa.cs.limit),
        };
        if is_valid {
            Ok(target)
        } else {
            Err(Stop::Exception(Exception::GENERAL_PROTECTION))
        }
    }

    /// Returns the width of what the instruction pushes or pops.
    fn stack_width(&self) -> Result<Width, Stop> {
        let is_branch = matches!(
            self.instruction.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        );
        let bytes = self.instruction.stack_pointer_increment().unsigned_abs();
        usize::try_from(bytes)
            .ok()
            .and_then(Width::from_bytes)
            .filter(|_| !is_branch)
            .ok_or_else(|| self.unsupported())
    }

    /// Finds the slot below the stack pointer, and the stack pointer after a push.
    fn pushed(&mut self, width: Width) -> Result<(Span, u64), Stop> {
        let mask = self.guest.cpu.stack_mask();
        let pointer = self.guest.cpu.vmsa.rsp.wrapping_sub(width.bytes() as u64) & mask;
        let slot = self
            .guest
            .locate(Register::SS, pointer, width.bytes(), Access::Write)?;
        Ok((slot, pointer))
    }

    fn set_stack_pointer(&mut self, pointer: u64) {
        let cpu = &mut self.guest.cpu;
        let register = match cpu.stack_mask() {
            0xFFFF => Register::SP,
            0xFFFF_FFFF => Register::ESP,
            _ => Register::RSP,
        };
        cpu.write(register, pointer);
    }
}
