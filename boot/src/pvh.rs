//! Kernels by Xen's PVH protocol (Xen `docs/misc/pvh.pandoc`, `xen/include/public/arch-x86/hvm/start_info.h`).
//!
//! An ELF file whose note names a 32-bit physical entry, which is what a `vmlinux` has. EBX points to a start-info structure.

use alloc::vec::Vec;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::kernel::block::{Block, HandOver};
use crate::kernel::{ElfError, ElfFile, Image, KernelFile};
use crate::memory_map::{self, E820Kind};

const NOTE_OWNER: &[u8] = b"Xen";
/// XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE_PHYS32_ENTRY: u64 = 18;
const START_MAGIC: u32 = 0x336E_C578;
/// The version that has a memory map.
const START_VERSION: u32 = 1;

/// Why an ELF file cannot be started this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PvhError {
    /// The file itself.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// No note, or one of a strange length.
    #[error("the kernel is an ELF file without a multiboot header and without a PVH entry")]
    NoEntry,
}

/// Returns the kernel as it lies in memory.
pub fn image<F: KernelFile + ?Sized>(file: &F) -> Result<Image, PvhError> {
    let elf = ElfFile::parse(file)?;
    let notes = elf.notes(file)?;
    let entry = notes
        .iter()
        .find(|note| note.owner == NOTE_OWNER && note.kind == NOTE_PHYS32_ENTRY)
        .and_then(|note| entry(&note.content))
        .ok_or(PvhError::NoEntry)?;
    Ok(Image::try_new(entry, elf.segments(file)?)?)
}

/// Kernels write it in 4 or in 8 bytes.
fn entry(content: &[u8]) -> Option<u64> {
    if let Ok(bytes) = content.try_into() {
        return Some(u64::from_le_bytes(bytes));
    }
    let bytes = content.try_into().ok()?;
    Some(u32::from_le_bytes(bytes).into())
}

/// `struct hvm_start_info`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    module_count: U32,
    modules: U64,
    command_line: U64,
    rsdp: U64,
    map: U64,
    map_entries: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<StartInfo>() == 56);

/// `struct hvm_modlist_entry`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Module {
    address: U64,
    len_bytes: U64,
    command_line: U64,
    reserved: U64,
}

/// `struct hvm_memmap_table_entry`; types are those of e820.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapEntry {
    address: U64,
    len_bytes: U64,
    kind: E820Kind,
    reserved: U32,
}

const _: () = assert!(size_of::<Module>() == 32 && size_of::<MapEntry>() == 24);

/// Appends the start info and all it points to; returns its address.
pub(crate) fn hand_over(block: &mut Block, what: &HandOver<'_>) -> u32 {
    let modules: Vec<Module> = what
        .modules
        .iter()
        .map(|module| Module {
            address: module.place.start.into(),
            len_bytes: (module.place.end - module.place.start).into(),
            command_line: u64::from(block.add_string(module.command_line)).into(),
            reserved: U64::ZERO,
        })
        .collect();
    let map: Vec<MapEntry> = memory_map::e820(what.ram)
        .into_iter()
        .map(|entry| MapEntry {
            address: entry.address,
            len_bytes: entry.len_bytes,
            kind: entry.kind,
            reserved: U32::ZERO,
        })
        .collect();
    let count = |len: usize| U32::new(u32::try_from(len).unwrap_or(u32::MAX));
    let info = StartInfo {
        magic: START_MAGIC.into(),
        version: START_VERSION.into(),
        flags: U32::ZERO,
        module_count: count(modules.len()),
        modules: u64::from(block.add(modules.as_bytes())).into(),
        command_line: u64::from(block.add_string(what.command_line)).into(),
        rsdp: what.acpi_rsdp.into(),
        map: u64::from(block.add(map.as_bytes())).into(),
        map_entries: count(map.len()),
        reserved: U32::ZERO,
    };
    block.add(info.as_bytes())
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use elf::file::Class;

    use super::*;
    use crate::kernel::tests::{elf, load, xen_note};

    fn kernel(note: &[u8]) -> Vec<u8> {
        let parts = [
            load(0x100_0000, 0x100, vec![0x90; 0x40]),
            xen_note(18, note),
        ];
        elf(Class::ELF64, 0x100_0000, &parts)
    }

    #[test]
    fn entry_is_the_notes_in_either_width() {
        for note in [
            0x100_0020_u32.to_le_bytes().as_slice(),
            &0x100_0020_u64.to_le_bytes(),
        ] {
            assert_eq!(image(&*kernel(note)).unwrap().entry, 0x100_0020);
        }
    }

    #[test]
    fn elf_file_without_the_note_is_refused() {
        let plain = elf(
            Class::ELF64,
            0x10_0000,
            &[load(0x10_0000, 0x10, vec![0; 16]), xen_note(6, b"linux\0")],
        );
        assert_eq!(image(&*plain), Err(PvhError::NoEntry));
        assert_eq!(image(&*kernel(&[0; 5])), Err(PvhError::NoEntry));
    }

    #[test]
    fn entry_outside_the_kernel_is_refused() {
        for entry in [0_u64, 0x100_0100, 0x1_0100_0000, u64::MAX] {
            let error = image(&*kernel(&entry.to_le_bytes()));
            assert_eq!(error, Err(PvhError::Elf(ElfError::Entry(entry))));
        }
    }
}
