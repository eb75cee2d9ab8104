//! Operands: where they are, what they hold.

use iced_x86::{CodeSize, OpKind, Register};

use super::execute::{Executor, Flow};
use super::flags::Width;
use super::guest::Span;
use super::registers::CodeMode;
use super::{MmioBus, Stop};
use crate::walk::Access;

/// Where an integer operand is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Register(Register),
    Memory(Span),
    Immediate(u64),
}

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    /// Finds an integer operand; for a memory operand, everything that can fault happens here.
    pub(super) fn place(&mut self, operand: u32, access: Access) -> Result<Place, Stop> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => {
                let register = self.instruction.op_register(operand);
                if register.is_gpr() {
                    Ok(Place::Register(register))
                } else {
                    Err(self.unsupported())
                }
            }
            OpKind::Memory => {
                let len = self.instruction.memory_size().size();
                let offset = self.offset(operand)?;
                let segment = self.segment();
                let span = self.guest.locate(segment, offset, len, access)?;
                Ok(Place::Memory(span))
            }
            _ => match self.instruction.try_immediate(operand) {
                Ok(value) => Ok(Place::Immediate(value)),
                Err(_) => Err(self.unsupported()),
            },
        }
    }

    /// Returns an operand's width.
    pub(super) fn width(&self, operand: u32) -> Result<Width, Stop> {
        let bytes = match self.instruction.op_kind(operand) {
            OpKind::Register => self.instruction.op_register(operand).size(),
            _ => self.instruction.memory_size().size(),
        };
        Width::from_bytes(bytes).ok_or_else(|| self.unsupported())
    }

    /// Reads an operand.
    pub(super) fn load(&mut self, place: &Place, width: Width) -> Result<u64, Stop> {
        match place {
            Place::Register(register) => Ok(self.guest.cpu.read(*register)),
            Place::Memory(span) => self.guest.read_integer(span, width),
            Place::Immediate(value) => Ok(value & width.mask()),
        }
    }

    /// Writes an operand.
    pub(super) fn store(&mut self, place: &Place, value: u64, width: Width) -> Result<(), Stop> {
        match place {
            Place::Register(register) => {
                self.guest.cpu.write(*register, value);
                Ok(())
            }
            Place::Memory(span) => self.guest.write_integer(span, value, width),
            Place::Immediate(_) => Err(self.unsupported()),
        }
    }

    /// Replaces an operand by what `compute` makes of it, atomically if the instruction is locked.
    /// Returns the old value and what `compute` had to say beside the new one.
    pub(super) fn modify<R>(
        &mut self,
        place: &Place,
        width: Width,
        compute: impl Fn(u64) -> (u64, R),
    ) -> Result<(u64, R), Stop> {
        match place {
            Place::Memory(span) if self.instruction.has_lock_prefix() => {
                self.guest.update_locked(span, width, compute)
            }
            Place::Memory(span) => self.guest.update(span, width, compute),
            Place::Register(register) => {
                let old = self.guest.cpu.read(*register);
                let (new, rest) = compute(old);
                self.guest.cpu.write(*register, new);
                Ok((old, rest))
            }
            Place::Immediate(_) => Err(self.unsupported()),
        }
    }

    /// Returns the offset of a memory operand in its segment.
    pub(super) fn offset(&mut self, operand: u32) -> Result<u64, Stop> {
        let cpu = &mut self.guest.cpu;
        let offset = self
            .instruction
            .virtual_address(operand, 0, |register, _, _| {
                if register.is_segment_register() {
                    Some(0)
                } else {
                    register.is_gpr().then(|| cpu.read(register))
                }
            });
        offset.ok_or_else(|| self.unsupported())
    }

    /// Returns the segment of the memory operand. In 64-bit mode only FS and GS prefixes count.
    pub(super) fn segment(&self) -> Register {
        let named = self.instruction.memory_segment();
        if self.guest.cpu.mode != CodeMode::Bits64 || matches!(named, Register::FS | Register::GS) {
            return named;
        }
        match self.instruction.memory_base() {
            Register::RSP | Register::RBP | Register::ESP | Register::EBP => Register::SS,
            _ => Register::DS,
        }
    }

    /// Returns the mask of the address size of the memory operand.
    pub(super) fn address_mask(&self) -> u64 {
        let base = self.instruction.memory_base();
        let index = self.instruction.memory_index();
        let bytes = match (base.size(), index.size()) {
            (0, 0) => self.instruction.memory_displ_size(),
            (0, bytes) | (bytes, _) => u32::try_from(bytes).unwrap_or(8),
        };
        match (bytes, self.instruction.code_size()) {
            (8, _) | (0 | 1, CodeSize::Code64) => u64::MAX,
            (2, _) | (0 | 1, CodeSize::Code16) => 0xFFFF,
            _ => 0xFFFF_FFFF,
        }
    }

    /// Accesses memory as a read would, and leaves it at that: cache line flushes.
    pub(super) fn touch(&mut self) -> Result<Flow, Stop> {
        let offset = self.offset(0)?;
        let segment = self.segment();
        self.guest.locate(segment, offset, 1, Access::Read)?;
        Ok(Flow::Next)
    }
}
