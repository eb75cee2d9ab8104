//! Moves between registers and memory. APM vol. 3: MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI, CMOVcc, SETcc.

use iced_x86::{ConditionCode, OpKind};

use super::execute::{Executor, Flow};
use super::flags::{Flags, Width};
use super::{MmioBus, Stop};
use crate::walk::Access;

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    pub(super) fn mov(&mut self) -> Result<Flow, Stop> {
        if self.instruction.op0_kind() == OpKind::Register {
            return self.extend(|value, _| value);
        }
        let width = self.width(0)?;
        let source = self.instruction.op1_register();
        if self.instruction.op1_kind() == OpKind::Register && source.is_segment_register() {
            let selector = self.guest.cpu.segment(source)?.selector;
            let target = self.place(0, Access::Write)?;
            self.store(&target, u64::from(selector), width)?;
            return Ok(Flow::Next);
        }
        let target = self.place(0, Access::Write)?;
        let source = self.place(1, Access::Read)?;
        let value = self.load(&source, width)?;
        self.store(&target, value, width)?;
        Ok(Flow::Next)
    }

    /// Loads a register from an operand that may be narrower.
    pub(super) fn extend(&mut self, extended: impl Fn(u64, Width) -> u64) -> Result<Flow, Stop> {
        let target = self.place(0, Access::Write)?;
        let width = self.width(0)?;
        let source = self.place(1, Access::Read)?;
        let source_width = self.width(1)?;
        let value = self.load(&source, source_width)?;
        self.store(&target, extended(value, source_width), width)?;
        Ok(Flow::Next)
    }

    pub(super) fn swap_bytes(&mut self) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        let source = self.place(1, Access::Read)?;
        let value = self.load(&source, width)?;
        let swapped = value.swap_bytes() >> (64 - width.bits());
        self.store(&target, swapped, width)?;
        Ok(Flow::Next)
    }

    /// CMOVcc reads its source and writes its target whatever the condition: a 32-bit target is zero-extended either way.
    pub(super) fn conditional_move(&mut self) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        let source = self.place(1, Access::Read)?;
        let mut value = self.load(&source, width)?;
        if !self.condition_holds() {
            value = self.load(&target, width)?;
        }
        self.store(&target, value, width)?;
        Ok(Flow::Next)
    }

    pub(super) fn set_condition(&mut self) -> Result<Flow, Stop> {
        let target = self.place(0, Access::Write)?;
        let value = u64::from(self.condition_holds());
        self.store(&target, value, Width::Byte)?;
        Ok(Flow::Next)
    }

    fn condition_holds(&self) -> bool {
        let flags = self.guest.cpu.flags();
        let has = |flag| flags.contains(flag);
        let is_less = has(Flags::SIGN) != has(Flags::OVERFLOW);
        match self.instruction.condition_code() {
            ConditionCode::None => false,
            ConditionCode::o => has(Flags::OVERFLOW),
            ConditionCode::no => !has(Flags::OVERFLOW),
            ConditionCode::b => has(Flags::CARRY),
            ConditionCode::ae => !has(Flags::CARRY),
            ConditionCode::e => has(Flags::ZERO),
            ConditionCode::ne => !has(Flags::ZERO),
            ConditionCode::be => has(Flags::CARRY) || has(Flags::ZERO),
            ConditionCode::a => !has(Flags::CARRY) && !has(Flags::ZERO),
            ConditionCode::s => has(Flags::SIGN),
            ConditionCode::ns => !has(Flags::SIGN),
            ConditionCode::p => has(Flags::PARITY),
            ConditionCode::np => !has(Flags::PARITY),
            ConditionCode::l => is_less,
            ConditionCode::ge => !is_less,
            ConditionCode::le => has(Flags::ZERO) || is_less,
            ConditionCode::g => !has(Flags::ZERO) && !is_less,
        }
    }
}
