//! Integer arithmetic on operands; what is computed is in [`super::alu`] and [`super::shift`].

use iced_x86::{Mnemonic, Register};

use super::alu::{self, Answer, Binary};
use super::execute::{Executor, Flow};
use super::flags::{Flags, Width};
use super::operand::Place;
use super::shift::{self, Shift};
use super::{Exception, MmioBus, Stop};
use crate::walk::Access;

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    pub(super) fn binary(&mut self, op: Binary) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        let source = self.place(1, Access::Read)?;
        let right = self.load(&source, width)?;
        let flags = self.guest.cpu.flags();
        self.replace(&target, width, |left| {
            alu::binary(op, left, right, flags, width)
        })
    }

    /// CMP and TEST: as [`Self::binary`], without the result.
    pub(super) fn compare(&mut self, op: Binary) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let left = self.place(0, Access::Read)?;
        let right = self.place(1, Access::Read)?;
        let left = self.load(&left, width)?;
        let right = self.load(&right, width)?;
        let (_, change) = alu::binary(op, left, right, Flags::empty(), width);
        self.guest.cpu.change_flags(change);
        Ok(Flow::Next)
    }

    pub(super) fn increment(&mut self) -> Result<Flow, Stop> {
        self.unary(alu::increment)
    }

    pub(super) fn decrement(&mut self) -> Result<Flow, Stop> {
        self.unary(alu::decrement)
    }

    pub(super) fn negate(&mut self) -> Result<Flow, Stop> {
        self.unary(alu::negate)
    }

    fn unary(&mut self, op: impl Fn(u64, Width) -> Answer) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        self.replace(&target, width, |value| op(value, width))
    }

    /// NOT changes no flag.
    pub(super) fn complement(&mut self) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        self.modify(&target, width, |value| (!value, ()))?;
        Ok(Flow::Next)
    }

    pub(super) fn shift(&mut self, op: Shift) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        let count = self.place(1, Access::Read)?;
        let count = self.load(&count, Width::Byte)?;
        let flags = self.guest.cpu.flags();
        self.replace(&target, width, |value| {
            shift::shift(op, value, count, flags, width)
        })
    }

    pub(super) fn double_shift(&mut self) -> Result<Flow, Stop> {
        let op = match self.instruction.mnemonic() {
            Mnemonic::Shld => shift::double_left,
            _ => shift::double_right,
        };
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        let fill = self.place(1, Access::Read)?;
        let fill = self.load(&fill, width)?;
        let count = self.place(2, Access::Read)?;
        let count = self.load(&count, Width::Byte)?;
        self.replace(&target, width, |value| op(value, fill, count, width))
    }

    fn replace(
        &mut self,
        target: &Place,
        width: Width,
        compute: impl Fn(u64) -> Answer,
    ) -> Result<Flow, Stop> {
        let (_, change) = self.modify(target, width, compute)?;
        self.guest.cpu.change_flags(change);
        Ok(Flow::Next)
    }

    /// MUL and IMUL in their one, two and three operand forms.
    pub(super) fn multiply(&mut self) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        if self.instruction.op_count() == 1 {
            return self.multiply_accumulator(width);
        }
        let target = self.place(0, Access::Write)?;
        let (left, right) = match self.instruction.op_count() {
            2 => (0, 1),
            _ => (1, 2),
        };
        let left = self.place(left, Access::Read)?;
        let right = self.place(right, Access::Read)?;
        let left = self.load(&left, width)?;
        let right = self.load(&right, width)?;
        let (product, change) = alu::multiply_signed(left, right, width);
        self.store(&target, product, width)?;
        self.guest.cpu.change_flags(change);
        Ok(Flow::Next)
    }

    fn multiply_accumulator(&mut self, width: Width) -> Result<Flow, Stop> {
        let op = match self.instruction.mnemonic() {
            Mnemonic::Mul => alu::multiply_wide,
            _ => alu::multiply_signed_wide,
        };
        let source = self.place(0, Access::Read)?;
        let right = self.load(&source, width)?;
        let (low_half, high_half) = accumulator(width);
        let left = self.guest.cpu.read(low_half);
        let (low, high, change) = op(left, right, width);
        self.guest.cpu.write(low_half, low);
        self.guest.cpu.write(high_half, high);
        self.guest.cpu.change_flags(change);
        Ok(Flow::Next)
    }

    /// DIV and IDIV. They leave the flags undefined: here, alone.
    pub(super) fn divide(&mut self) -> Result<Flow, Stop> {
        let op = match self.instruction.mnemonic() {
            Mnemonic::Div => alu::divide,
            _ => alu::divide_signed,
        };
        let width = self.width(0)?;
        let source = self.place(0, Access::Read)?;
        let divisor = self.load(&source, width)?;
        let (low_half, high_half) = accumulator(width);
        let low = self.guest.cpu.read(low_half);
        let high = self.guest.cpu.read(high_half);
        let (quotient, remainder) =
            op(high, low, divisor, width).ok_or(Stop::Exception(Exception::DIVIDE_ERROR))?;
        self.guest.cpu.write(low_half, quotient);
        self.guest.cpu.write(high_half, remainder);
        Ok(Flow::Next)
    }
}

/// Returns the registers of the low and the high half of a double-width number.
fn accumulator(width: Width) -> (Register, Register) {
    match width {
        Width::Byte => (Register::AL, Register::AH),
        Width::Word => (Register::AX, Register::DX),
        Width::Dword => (Register::EAX, Register::EDX),
        Width::Qword => (Register::RAX, Register::RDX),
    }
}
