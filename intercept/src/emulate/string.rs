//! String instructions, an element at a time. APM vol. 3: MOVS, STOS, LODS, SCAS, CMPS.
//!
//! A repeated instruction executes up to `REPEAT_LIMIT` elements and then lets the guest take its interrupts. Finished elements stay
//! finished when a later one faults, as on the processor.

use iced_x86::{Mnemonic, OpKind, Register};

use super::alu::{self, Binary};
use super::execute::{Executor, Flow};
use super::flags::{Flags, Width};
use super::guest::Span;
use super::registers::Cpu;
use super::{MmioBus, REPEAT_LIMIT, Stop};
use crate::walk::Access;

/// The registers a string instruction counts and points with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointers {
    pub(super) source: Register,
    pub(super) target: Register,
    count: Register,
}

impl Pointers {
    pub(super) const BITS16: Self = Self {
        source: Register::SI,
        target: Register::DI,
        count: Register::CX,
    };
    pub(super) const BITS32: Self = Self {
        source: Register::ESI,
        target: Register::EDI,
        count: Register::ECX,
    };
    pub(super) const BITS64: Self = Self {
        source: Register::RSI,
        target: Register::RDI,
        count: Register::RCX,
    };
}

/// What the elements do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Move,
    Store,
    Load,
    Scan,
    Compare,
}

/// When a repeated instruction ends before its count does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    Counted,
    NotEqual,
    Equal,
}

impl Cpu<'_> {
    /// Moves a pointer on by one element, in the direction DF says.
    pub(super) fn advance(&mut self, pointer: Register, width: Width) {
        let step = width.bytes() as u64;
        let at = self.read(pointer);
        let next = if self.flags().contains(Flags::DIRECTION) {
            at.wrapping_sub(step)
        } else {
            at.wrapping_add(step)
        };
        self.write(pointer, next);
    }

    /// Returns how many elements one call may execute: one if each is to be trapped.
    pub(super) fn repeat_limit(&self) -> usize {
        if self.flags().contains(Flags::TRAP) {
            1
        } else {
            REPEAT_LIMIT
        }
    }

    /// Returns whether no elements are left.
    pub(super) fn is_counted_out(&mut self, pointers: Pointers) -> bool {
        self.read(pointers.count) == 0
    }

    /// Counts one element.
    pub(super) fn count_down(&mut self, pointers: Pointers) {
        let left = self.read(pointers.count).wrapping_sub(1);
        self.write(pointers.count, left);
    }
}

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    pub(super) fn string(&mut self) -> Result<Flow, Stop> {
        use Mnemonic as M;
        let family = match self.instruction.mnemonic() {
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => Family::Move,
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => Family::Store,
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => Family::Load,
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => Family::Scan,
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => Family::Compare,
            _ => return Err(self.unsupported()),
        };
        let pointers = self.pointers()?;
        let Some(until) = self.repeats(family) else {
            self.element(family, pointers)?;
            return Ok(Flow::Next);
        };
        for _ in 0..self.guest.cpu.repeat_limit() {
            if self.guest.cpu.is_counted_out(pointers) {
                return Ok(Flow::Next);
            }
            self.element(family, pointers)?;
            self.guest.cpu.count_down(pointers);
            let is_equal = self.guest.cpu.flags().contains(Flags::ZERO);
            let is_over = match until {
                Until::Counted => false,
                Until::NotEqual => !is_equal,
                Until::Equal => is_equal,
            };
            if is_over {
                return Ok(Flow::Next);
            }
            if self.guest.cpu.has_met_breakpoint() {
                break;
            }
        }
        if self.guest.cpu.is_counted_out(pointers) {
            return Ok(Flow::Next);
        }
        Ok(Flow::Repeat)
    }

    /// Returns what the prefix makes of the instruction; only SCAS and CMPS tell the two prefixes apart.
    fn repeats(&self, family: Family) -> Option<Until> {
        let is_equal = self.instruction.has_repe_prefix();
        let is_not_equal = self.instruction.has_repne_prefix();
        match family {
            _ if !is_equal && !is_not_equal => None,
            Family::Scan | Family::Compare if is_not_equal => Some(Until::Equal),
            Family::Scan | Family::Compare => Some(Until::NotEqual),
            Family::Move | Family::Store | Family::Load => Some(Until::Counted),
        }
    }

    fn pointers(&self) -> Result<Pointers, Stop> {
        for operand in [self.instruction.op0_kind(), self.instruction.op1_kind()] {
            match operand {
                OpKind::MemorySegSI | OpKind::MemoryESDI => return Ok(Pointers::BITS16),
                OpKind::MemorySegESI | OpKind::MemoryESEDI => return Ok(Pointers::BITS32),
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => return Ok(Pointers::BITS64),
                _ => {}
            }
        }
        Err(self.unsupported())
    }

    fn element(&mut self, family: Family, pointers: Pointers) -> Result<(), Stop> {
        let width = Width::from_bytes(self.instruction.memory_size().size())
            .ok_or_else(|| self.unsupported())?;
        match family {
            Family::Move => self.move_element(pointers, width),
            Family::Store => self.store_element(pointers, width),
            Family::Load => self.load_element(pointers, width),
            Family::Scan | Family::Compare => self.compare_element(family, pointers, width),
        }
    }

    fn move_element(&mut self, pointers: Pointers, width: Width) -> Result<(), Stop> {
        let source = self.source(pointers, width)?;
        let target = self.target(pointers, width, Access::Write)?;
        let value = self.guest.read_integer(&source, width)?;
        self.guest.write_integer(&target, value, width)?;
        self.guest.cpu.advance(pointers.source, width);
        self.guest.cpu.advance(pointers.target, width);
        Ok(())
    }

    fn store_element(&mut self, pointers: Pointers, width: Width) -> Result<(), Stop> {
        let target = self.target(pointers, width, Access::Write)?;
        let value = self.guest.cpu.vmsa.rax;
        self.guest.write_integer(&target, value, width)?;
        self.guest.cpu.advance(pointers.target, width);
        Ok(())
    }

    fn load_element(&mut self, pointers: Pointers, width: Width) -> Result<(), Stop> {
        let source = self.source(pointers, width)?;
        let value = self.guest.read_integer(&source, width)?;
        let register = self.instruction.op0_register();
        self.guest.cpu.write(register, value);
        self.guest.cpu.advance(pointers.source, width);
        Ok(())
    }

    fn compare_element(
        &mut self,
        family: Family,
        pointers: Pointers,
        width: Width,
    ) -> Result<(), Stop> {
        let source = match family {
            Family::Compare => Some(self.source(pointers, width)?),
            _ => None,
        };
        let target = self.target(pointers, width, Access::Read)?;
        let left = match &source {
            Some(span) => self.guest.read_integer(span, width)?,
            None => self.guest.cpu.vmsa.rax,
        };
        let right = self.guest.read_integer(&target, width)?;
        let (_, change) = alu::binary(Binary::Sub, left, right, Flags::empty(), width);
        self.guest.cpu.change_flags(change);
        if source.is_some() {
            self.guest.cpu.advance(pointers.source, width);
        }
        self.guest.cpu.advance(pointers.target, width);
        Ok(())
    }

    fn source(&mut self, pointers: Pointers, width: Width) -> Result<Span, Stop> {
        let segment = self.instruction.memory_segment();
        let offset = self.guest.cpu.read(pointers.source);
        self.guest
            .locate(segment, offset, width.bytes(), Access::Read)
    }

    fn target(&mut self, pointers: Pointers, width: Width, access: Access) -> Result<Span, Stop> {
        let offset = self.guest.cpu.read(pointers.target);
        self.guest
            .locate(Register::ES, offset, width.bytes(), access)
    }
}
