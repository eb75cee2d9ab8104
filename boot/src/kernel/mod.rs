//! Kernels other than bzImages: ELF files and flat images, started in 32-bit protected mode.
//!
//! [`ElfFile`] reads the headers, [`Image`] is a kernel as pieces of its file with places in memory, [`Places`] decides where
//! everything that goes with it lies, [`KernelPlan`] is all of that. Such a file must be read out of order, so it is first copied whole to the top of low
//! RAM, private and checked ([`PrivateFile`]); the image builder reads the file it has in hand.

pub(crate) mod block;
mod elf_file;
mod places;
mod plan;

use alloc::vec::Vec;
use core::ops::Range;

use stockade_bus::{Gpa, GuestMemory, MemoryError};

pub(crate) use elf_file::check_range;
#[cfg(test)]
pub(crate) use elf_file::tests;
pub use elf_file::{ElfError, ElfFile, Note};
pub use places::{PlaceError, Places, scratch};
pub use plan::{KernelPlan, Module, Protocol, Told};

/// A kernel file that can be read anywhere, and never changes meanwhile.
pub trait KernelFile {
    /// Returns how long the file is.
    fn len_bytes(&self) -> u64;
    /// Copies the file's bytes from `offset` on, all of which must be in it.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError>;
}

impl KernelFile for [u8] {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(MemoryError::NotMemory(Gpa(offset)))?);
        Ok(())
    }
}

/// A file in guest memory while no vCPU of the guest runs.
#[derive(Debug)]
pub struct PrivateFile<'a, M: ?Sized> {
    /// Guest memory.
    pub memory: &'a M,
    /// Where the file begins.
    pub start: u64,
    /// How long it is.
    pub len_bytes: u64,
}

impl<M: GuestMemory + ?Sized> KernelFile for PrivateFile<'_, M> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let outside = MemoryError::NotMemory(Gpa(offset));
        let end = offset.checked_add(buffer.len() as u64).ok_or(outside)?;
        if end > self.len_bytes {
            return Err(outside);
        }
        let gpa = Gpa(self.start).checked_add(offset).ok_or(outside)?;
        self.memory.read(gpa, buffer)
    }
}

/// Part of a kernel's file and where it goes; the rest of its place is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file: no more than the place has.
    pub len_bytes: u64,
    /// Where it lies in guest memory.
    pub place: Range<u64>,
}

/// A kernel as it lies in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The first instruction: in one of the segments.
    pub entry: u32,
    /// Its parts, in the order of the file. Later ones win where they overlap.
    pub segments: Vec<Segment>,
}

impl Image {
    /// Returns whether an address is in one of these segments.
    fn is_in(segments: &[Segment], address: u64) -> bool {
        segments.iter().any(|part| part.place.contains(&address))
    }

    /// Returns an image of these segments, whose entry must be in one of them.
    pub fn try_new(entry: u64, segments: Vec<Segment>) -> Result<Self, ElfError> {
        match u32::try_from(entry) {
            Ok(address) if Self::is_in(&segments, entry) => Ok(Self {
                entry: address,
                segments,
            }),
            _ => Err(ElfError::Entry(entry)),
        }
    }
}
