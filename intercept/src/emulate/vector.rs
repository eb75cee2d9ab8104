//! SSE moves between XMM registers and memory. APM vol. 4: MOVAPS, MOVDQU, MOVQ, MOVLPS and their kind.

use iced_x86::OpKind;

use super::execute::{Executor, Flow};
use super::{Exception, MmioBus, Stop};
use crate::walk::{Access, control};

/// The part of a register that is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// All of it.
    Whole,
    /// The low bytes; a load clears the others.
    LowAlone,
    /// The low half; a load keeps the other.
    Low,
    /// The high half; a load keeps the other.
    High,
}

const REGISTER_BYTES: usize = 16;

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    /// Moves 16 bytes that must be aligned.
    pub(super) fn vector_aligned(&mut self) -> Result<Flow, Stop> {
        let operand = self.memory_operand()?;
        let offset = self.offset(operand)?;
        let access = access_of(operand);
        let len = self.instruction.memory_size().size() as u64;
        let linear = self
            .guest
            .cpu
            .linear(self.segment(), offset, REGISTER_BYTES, access)?;
        if !linear.is_multiple_of(len.max(1)) {
            self.check_enabled()?;
            return Err(Stop::Exception(Exception::GENERAL_PROTECTION));
        }
        self.vector(Lane::Whole)
    }

    pub(super) fn vector(&mut self, lane: Lane) -> Result<Flow, Stop> {
        self.check_enabled()?;
        let operand = self.memory_operand()?;
        let register = self.instruction.op_register(1 - operand);
        let len = self.instruction.memory_size().size();
        let start = if lane == Lane::High { 8 } else { 0 };
        if !register.is_xmm() || start + len > REGISTER_BYTES {
            return Err(self.unsupported());
        }
        let offset = self.offset(operand)?;
        let segment = self.segment();
        let span = self
            .guest
            .locate(segment, offset, len, access_of(operand))?;
        let mut value = self.xmm(register)?;
        if operand == 0 {
            self.guest.write(&span, &value[start..start + len])?;
            return Ok(Flow::Next);
        }
        if lane == Lane::LowAlone {
            value = [0; REGISTER_BYTES];
        }
        self.guest.read(&span, &mut value[start..start + len])?;
        if let Some(target) = self.guest.cpu.xmm(register) {
            *target = value;
        }
        Ok(Flow::Next)
    }

    fn xmm(&mut self, register: iced_x86::Register) -> Result<[u8; REGISTER_BYTES], Stop> {
        let value = self.guest.cpu.xmm(register).copied();
        value.ok_or_else(|| self.unsupported())
    }

    /// Returns which of two operands is the one in memory; the other is a register.
    fn memory_operand(&self) -> Result<u32, Stop> {
        match (self.instruction.op0_kind(), self.instruction.op1_kind()) {
            (OpKind::Memory, OpKind::Register) => Ok(0),
            (OpKind::Register, OpKind::Memory) => Ok(1),
            _ => Err(self.unsupported()),
        }
    }

    /// Raises what SSE instructions raise when they are off. APM vol. 2, 11.2.
    fn check_enabled(&self) -> Result<(), Stop> {
        let vmsa = &self.guest.cpu.vmsa;
        let is_on = vmsa.cr0 & control::CR0_EM == 0 && vmsa.cr4 & control::CR4_OSFXSR != 0;
        if !is_on {
            return Err(Stop::Exception(Exception::INVALID_OPCODE));
        }
        if vmsa.cr0 & control::CR0_TS != 0 {
            return Err(Stop::Exception(Exception::DEVICE_NOT_AVAILABLE));
        }
        Ok(())
    }
}

/// Operand 0 is written, operand 1 is read.
fn access_of(operand: u32) -> Access {
    if operand == 0 {
        Access::Write
    } else {
        Access::Read
    }
}
