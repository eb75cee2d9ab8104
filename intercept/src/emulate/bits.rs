//! Single bits of registers and memory. APM vol. 3: BT, BTS, BTR, BTC.

use iced_x86::OpKind;

use super::execute::{Executor, Flow};
use super::flags::{FlagChange, Flags, Width};
use super::operand::Place;
use super::{MmioBus, Stop};
use crate::walk::Access;

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    pub(super) fn bit_test(&mut self) -> Result<Flow, Stop> {
        let (target, width, bit) = self.bit_place(Access::Read)?;
        let value = self.load(&target, width)?;
        Ok(self.report_bit(value & bit != 0))
    }

    pub(super) fn bit_change(&mut self, change: impl Fn(u64, u64) -> u64) -> Result<Flow, Stop> {
        let (target, width, bit) = self.bit_place(Access::Write)?;
        let (old, ()) = self.modify(&target, width, |value| (change(value, bit), ()))?;
        Ok(self.report_bit(old & bit != 0))
    }

    /// CF becomes the bit; ZF stays, and so do the flags the manual leaves undefined.
    fn report_bit(&mut self, is_set: bool) -> Flow {
        let change = FlagChange::new(Flags::CARRY, Flags::CARRY.when(is_set));
        self.guest.cpu.change_flags(change);
        Flow::Next
    }

    /// Finds the operand with the bit, and the bit in it. A bit number in a register is signed and reaches beyond a memory operand.
    fn bit_place(&mut self, access: Access) -> Result<(Place, Width, u64), Stop> {
        let width = self.width(0)?;
        let number = self.place(1, Access::Read)?;
        let number = self.load(&number, width)?;
        let bit = 1 << (number % u64::from(width.bits()));
        let reaches_beyond = self.instruction.op0_kind() == OpKind::Memory
            && self.instruction.op1_kind() == OpKind::Register;
        if !reaches_beyond {
            return Ok((self.place(0, access)?, width, bit));
        }
        let units = width.sign_extend(number).cast_signed() >> width.bits().trailing_zeros();
        let distance = units.cast_unsigned().wrapping_mul(width.bytes() as u64);
        let offset = self.offset(0)?.wrapping_add(distance) & self.address_mask();
        let segment = self.segment();
        let span = self.guest.locate(segment, offset, width.bytes(), access)?;
        Ok((Place::Memory(span), width, bit))
    }
}
