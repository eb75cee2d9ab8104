//! Exchanges, locked or not. APM vol. 3: XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.
//!
//! A compare that fails writes the old value back, as the processor does: a device sees one read and one write in any case.

use iced_x86::{Mnemonic, Register};

use super::alu::{self, Binary};
use super::execute::{Executor, Flow};
use super::flags::{FlagChange, Flags, Width};
use super::operand::Place;
use super::{MmioBus, Stop};
use crate::walk::Access;

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    /// XCHG with memory is locked without a prefix.
    pub(super) fn exchange(&mut self) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        let source = self.place(1, Access::Write)?;
        let new = self.load(&source, width)?;
        let (old, ()) = match (&target, &source) {
            (Place::Memory(span), _) => self.guest.update_locked(span, width, |_| (new, ()))?,
            _ => self.modify(&target, width, |_| (new, ()))?,
        };
        self.store(&source, old, width)?;
        Ok(Flow::Next)
    }

    pub(super) fn exchange_add(&mut self) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        let source = self.place(1, Access::Write)?;
        let addend = self.load(&source, width)?;
        let sum = |old| alu::binary(Binary::Add, old, addend, Flags::empty(), width);
        if let Place::Register(_) = target {
            // The sum wins if both operands are the same register.
            let old = self.load(&target, width)?;
            self.store(&source, old, width)?;
            let (value, change) = sum(old);
            self.store(&target, value, width)?;
            self.guest.cpu.change_flags(change);
            return Ok(Flow::Next);
        }
        let (old, change) = self.modify(&target, width, sum)?;
        self.store(&source, old, width)?;
        self.guest.cpu.change_flags(change);
        Ok(Flow::Next)
    }

    pub(super) fn compare_exchange(&mut self) -> Result<Flow, Stop> {
        let width = self.width(0)?;
        let target = self.place(0, Access::Write)?;
        let source = self.place(1, Access::Read)?;
        let new = self.load(&source, width)?;
        let accumulator = match width {
            Width::Byte => Register::AL,
            Width::Word => Register::AX,
            Width::Dword => Register::EAX,
            Width::Qword => Register::RAX,
        };
        let expected = self.guest.cpu.read(accumulator);
        let (old, ()) = self.modify(&target, width, |old| {
            (if old == expected { new } else { old }, ())
        })?;
        if old != expected {
            self.guest.cpu.write(accumulator, old);
        }
        let (_, change) = alu::binary(Binary::Sub, expected, old, Flags::empty(), width);
        self.guest.cpu.change_flags(change);
        Ok(Flow::Next)
    }

    pub(super) fn compare_exchange_pair(&mut self) -> Result<Flow, Stop> {
        let offset = self.offset(0)?;
        let segment = self.segment();
        let is_equal = if self.instruction.mnemonic() == Mnemonic::Cmpxchg8b {
            self.compare_exchange_eight(segment, offset)?
        } else {
            self.compare_exchange_sixteen(segment, offset)?
        };
        let change = FlagChange::new(Flags::ZERO, Flags::ZERO.when(is_equal));
        self.guest.cpu.change_flags(change);
        Ok(Flow::Next)
    }

    fn compare_exchange_eight(&mut self, segment: Register, offset: u64) -> Result<bool, Stop> {
        let place = Place::Memory(self.guest.locate(segment, offset, 8, Access::Write)?);
        let cpu = &mut self.guest.cpu;
        let expected = cpu.read(Register::EDX) << 32 | cpu.read(Register::EAX);
        let new = cpu.read(Register::ECX) << 32 | cpu.read(Register::EBX);
        let (old, ()) = self.modify(&place, Width::Qword, |old| {
            (if old == expected { new } else { old }, ())
        })?;
        if old != expected {
            self.guest.cpu.write(Register::EAX, old & 0xFFFF_FFFF);
            self.guest.cpu.write(Register::EDX, old >> 32);
        }
        Ok(old == expected)
    }

    fn compare_exchange_sixteen(&mut self, segment: Register, offset: u64) -> Result<bool, Stop> {
        let span = self
            .guest
            .locate_aligned(segment, offset, 16, Access::Write)?;
        if self.instruction.has_lock_prefix() {
            self.guest.refuse_locked_ram(&span)?;
        }
        let cpu = &mut self.guest.cpu;
        let expected = [cpu.read(Register::RAX), cpu.read(Register::RDX)];
        let new = [cpu.read(Register::RBX), cpu.read(Register::RCX)];
        let mut old = [0; 16];
        self.guest.read(&span, &mut old)?;
        let is_equal = old == join(expected);
        let written = if is_equal { join(new) } else { old };
        self.guest.write(&span, &written)?;
        if !is_equal {
            let value = u128::from_le_bytes(old);
            self.guest.cpu.write(Register::RAX, low(value));
            self.guest.cpu.write(Register::RDX, low(value >> 64));
        }
        Ok(is_equal)
    }
}

fn join([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(value: u128) -> u64 {
    value as u64
}
