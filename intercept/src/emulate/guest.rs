//! Guest memory and devices as an instruction reaches them: by segment and offset, a page at a time.
//!
//! An access has two steps. [`Guest::locate`] does everything that can fault and yields a [`Span`]; [`Guest::read`], [`Guest::write`] and
//! [`Guest::update`] then move bytes. An instruction that locates all it needs before it moves the first byte can be restarted.

use iced_x86::Register;
use stockade_bus::{Gpa, GuestMemory};

use super::flags::{Flags, Width};
use super::registers::{CodeMode, Cpu};
use super::{Exception, Hint, MmioBus, Stop};
use crate::debug::Touch;
use crate::walk::{self, Access, WalkError, control};

const PAGE_BYTES: u64 = 0x1000;

/// How often a locked update is tried while other processors change the operand.
const LOCK_RETRY_LIMIT: usize = 64;

/// Part of an access within one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    gpa: Gpa,
    len: usize,
    is_ram: bool,
}

/// Where the bytes of one access lie: in one page, or at the end of one and the start of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    first: Piece,
    second: Option<Piece>,
}

impl Span {
    /// Returns whether every byte is guest RAM.
    fn is_ram(&self) -> bool {
        self.first.is_ram && self.second.is_none_or(|piece| piece.is_ram)
    }
}

/// A translation used earlier in the same instruction.
#[derive(Clone, Copy)]
struct Recent {
    linear_page: u64,
    access: Access,
    page: Gpa,
    is_ram: bool,
}

/// A vCPU with its memory and its devices.
pub(super) struct Guest<'a, B: ?Sized> {
    pub(super) cpu: Cpu<'a>,
    pub(super) bus: &'a mut B,
    memory: &'a dyn GuestMemory,
    hint: Option<Hint>,
    recent: [Option<Recent>; 2],
}

impl<'a, B: MmioBus + ?Sized> Guest<'a, B> {
    pub(super) fn new(cpu: Cpu<'a>, memory: &'a dyn GuestMemory, bus: &'a mut B) -> Self {
        Self {
            cpu,
            bus,
            memory,
            hint: None,
            recent: [None; 2],
        }
    }

    /// Lets the next access, and only that, use what the exit said about its address.
    pub(super) fn set_hint(&mut self, hint: Option<Hint>) {
        self.hint = hint.filter(|hint| !self.memory.is_ram(hint.gpa));
    }

    /// Finds the `len` bytes at `offset` of a segment, for data.
    pub(super) fn locate(
        &mut self,
        segment: Register,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Span, Stop> {
        let linear = self.cpu.linear(segment, offset, len, access)?;
        if self.checks_alignment() && !linear.is_multiple_of(len as u64) {
            return Err(Stop::Exception(Exception::ALIGNMENT_CHECK));
        }
        let room = PAGE_BYTES - linear % PAGE_BYTES;
        let span = if len as u64 <= room {
            let first = self.piece(linear, len, access)?;
            let second = None;
            Span { first, second }
        } else {
            self.locate_crossing(linear, len, access)?
        };
        let mode = self.cpu.mode;
        let addresses = (0..len as u64).map(|at| wrap(mode, linear.wrapping_add(at)));
        let touch = match access {
            Access::Write => Touch::Write,
            Access::Read | Access::Fetch => Touch::Read,
        };
        self.cpu.watch(touch, addresses);
        Ok(span)
    }

    /// As [`Self::locate`], for operands that must lie at a multiple of their length.
    pub(super) fn locate_aligned(
        &mut self,
        segment: Register,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Span, Stop> {
        let linear = self.cpu.linear(segment, offset, len, access)?;
        if !linear.is_multiple_of(len as u64) {
            return Err(Stop::Exception(Exception::GENERAL_PROTECTION));
        }
        self.locate(segment, offset, len, access)
    }

    fn checks_alignment(&self) -> bool {
        self.cpu.vmsa.cpl == 3
            && self.cpu.vmsa.cr0 & control::CR0_AM != 0
            && self.cpu.flags().contains(Flags::ALIGNMENT_CHECK)
    }

    fn locate_crossing(&mut self, linear: u64, len: usize, access: Access) -> Result<Span, Stop> {
        let room = PAGE_BYTES - linear % PAGE_BYTES;
        let next = wrap(self.cpu.mode, linear.wrapping_add(room));
        let room = usize::try_from(room).map_or(len, |room| room.min(len));
        if access == Access::Write {
            // Neither page may become dirty unless both can be written.
            for address in [linear, next] {
                walk::probe(&self.cpu.walk, self.memory, address, access).map_err(stop)?;
            }
        }
        let first = self.piece(linear, room, access)?;
        let second = Some(self.piece(next, len - room, access)?);
        Ok(Span { first, second })
    }

    fn piece(&mut self, linear: u64, len: usize, access: Access) -> Result<Piece, Stop> {
        let (page, is_ram) = self.page(linear, access)?;
        let gpa = Gpa(page.0 | (linear % PAGE_BYTES));
        Ok(Piece { gpa, len, is_ram })
    }

    /// Translates an address; what the same instruction or its exit already found out is not walked again.
    fn page(&mut self, linear: u64, access: Access) -> Result<(Gpa, bool), Stop> {
        if let Some(hint) = self.hint.take()
            && hint.gpa.page_offset() == linear % PAGE_BYTES
            && serves(hint.access, access)
        {
            return Ok((hint.gpa.page(), false));
        }
        let linear_page = linear & !(PAGE_BYTES - 1);
        for recent in self.recent.iter().flatten() {
            if recent.linear_page == linear_page && serves(recent.access, access) {
                return Ok((recent.page, recent.is_ram));
            }
        }
        let found = walk::translate(&self.cpu.walk, self.memory, linear, access).map_err(stop)?;
        let page = found.gpa.page();
        let is_ram = self.memory.is_ram(page);
        self.recent[0] = self.recent[1].replace(Recent {
            linear_page,
            access,
            page,
            is_ram,
        });
        Ok((page, is_ram))
    }

    /// Reads all of a located access.
    pub(super) fn read(&mut self, span: &Span, data: &mut [u8]) -> Result<(), Stop> {
        let (first, second) = data.split_at_mut(span.first.len.min(data.len()));
        self.read_piece(span.first, first)?;
        match span.second {
            Some(piece) => self.read_piece(piece, second),
            None => Ok(()),
        }
    }

    fn read_piece(&mut self, piece: Piece, data: &mut [u8]) -> Result<(), Stop> {
        if piece.is_ram || self.memory.is_rom(piece.gpa) {
            return self.memory.read(piece.gpa, data).map_err(Stop::Memory);
        }
        self.bus.mmio_read(piece.gpa, data);
        Ok(())
    }

    /// Writes all of a located access.
    pub(super) fn write(&mut self, span: &Span, data: &[u8]) -> Result<(), Stop> {
        let (first, second) = data.split_at(span.first.len.min(data.len()));
        self.write_piece(span.first, first)?;
        match span.second {
            Some(piece) => self.write_piece(piece, second),
            None => Ok(()),
        }
    }

    fn write_piece(&mut self, piece: Piece, data: &[u8]) -> Result<(), Stop> {
        if piece.is_ram {
            return self.memory.write(piece.gpa, data).map_err(Stop::Memory);
        }
        self.bus.mmio_write(piece.gpa, data);
        Ok(())
    }

    /// Reads a located integer.
    pub(super) fn read_integer(&mut self, span: &Span, width: Width) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        self.read(span, &mut bytes[..width.bytes()])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a located integer.
    pub(super) fn write_integer(
        &mut self,
        span: &Span,
        value: u64,
        width: Width,
    ) -> Result<(), Stop> {
        self.write(span, &value.to_le_bytes()[..width.bytes()])
    }

    /// Reads a located integer, computes its successor and writes that: one read and one write for a device.
    /// Returns the old value and what `compute` had to say beside the new one.
    pub(super) fn update<R>(
        &mut self,
        span: &Span,
        width: Width,
        compute: impl Fn(u64) -> (u64, R),
    ) -> Result<(u64, R), Stop> {
        let old = self.read_integer(span, width)?;
        let (new, rest) = compute(old);
        self.write_integer(span, new, width)?;
        Ok((old, rest))
    }

    /// As [`Self::update`], and atomic in RAM.
    pub(super) fn update_locked<R>(
        &mut self,
        span: &Span,
        width: Width,
        compute: impl Fn(u64) -> (u64, R),
    ) -> Result<(u64, R), Stop> {
        if !span.is_ram() {
            return self.update(span, width, compute);
        }
        let Some(bytes) = atomic_bytes(span, width) else {
            // No device is touched, so the processor itself can do what cannot be done atomically here.
            return Err(Stop::Retry);
        };
        for _ in 0..LOCK_RETRY_LIMIT {
            let old = self.read_integer(span, width)?;
            let (new, rest) = compute(old);
            if self
                .memory
                .compare_exchange(span.first.gpa, bytes, old, new)
                .map_err(Stop::Memory)?
            {
                return Ok((old, rest));
            }
        }
        Err(Stop::Retry)
    }

    /// Refuses to emulate a locked access to RAM that is wider than an atomic one here.
    pub(super) fn refuse_locked_ram(&self, span: &Span) -> Result<(), Stop> {
        if span.is_ram() {
            Err(Stop::Retry)
        } else {
            Ok(())
        }
    }

    /// Fetches code at a linear address, up to the end of its page. Returns how many bytes came.
    pub(super) fn fetch(&mut self, linear: u64, data: &mut [u8]) -> Result<usize, Stop> {
        let room = PAGE_BYTES - linear % PAGE_BYTES;
        let len = usize::try_from(room).map_or(data.len(), |room| room.min(data.len()));
        let found = walk::translate(&self.cpu.walk, self.memory, linear, Access::Fetch);
        let gpa = found.map_err(stop)?.gpa;
        let is_ram = self.memory.is_ram(gpa);
        self.read_piece(Piece { gpa, len, is_ram }, &mut data[..len])?;
        Ok(len)
    }
}

/// Linear addresses have 32 bits outside 64-bit mode.
fn wrap(mode: CodeMode, linear: u64) -> u64 {
    if mode == CodeMode::Bits64 {
        linear
    } else {
        linear & 0xFFFF_FFFF
    }
}

/// Returns whether a translation made for one access also allows another.
fn serves(made_for: Access, access: Access) -> bool {
    made_for == access || (made_for == Access::Write && access == Access::Read)
}

/// Returns the width of an atomic access to the span, if it can be made.
fn atomic_bytes(span: &Span, width: Width) -> Option<u8> {
    let bytes = u8::try_from(width.bytes()).ok()?;
    let is_natural = span.first.gpa.0.is_multiple_of(u64::from(bytes));
    (span.second.is_none() && is_natural).then_some(bytes)
}

fn stop(error: WalkError) -> Stop {
    match error {
        WalkError::PageFault(fault) => Stop::Exception(Exception::page_fault(fault)),
        WalkError::NonCanonical(_) => Stop::Exception(Exception::GENERAL_PROTECTION),
        WalkError::Contended => Stop::Retry,
        WalkError::Memory(error) => Stop::Memory(error),
    }
}
