//! What a multiboot kernel is told (Multiboot 0.6.96, 3.3).

use alloc::vec::Vec;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::kernel::block::{Block, HandOver};
use crate::layout::guest;
use crate::memory_map::{self, E820Kind};

const MEMORY: u32 = 1 << 0;
const COMMAND_LINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;

/// Multiboot's command lines begin with the file's name, which kernels skip.
const KERNEL_NAME: &[u8] = b"kernel ";

/// The information structure up to the fields of graphics, none of which is filled in.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    flags: U32,
    lower_kib: U32,
    upper_kib: U32,
    boot_device: U32,
    command_line: U32,
    module_count: U32,
    modules: U32,
    symbols: [U32; 4],
    map_bytes: U32,
    map: U32,
    _not_given: [U32; 17],
}

const _: () = assert!(size_of::<Info>() == 120);

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Module {
    start: U32,
    end: U32,
    string: U32,
    reserved: U32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapEntry {
    /// Bytes that follow this field.
    size: U32,
    address: U64,
    len_bytes: U64,
    kind: E820Kind,
}

const _: () = assert!(size_of::<MapEntry>() == 24);

/// Appends the information structure and all it points to; returns its address.
pub(crate) fn hand_over(block: &mut Block, what: &HandOver<'_>) -> u32 {
    let command_line = [KERNEL_NAME, what.command_line].concat();
    let command_line = block.add_string(&command_line);
    let modules: Vec<Module> = what
        .modules
        .iter()
        .map(|module| Module {
            start: low(module.place.start),
            end: low(module.place.end),
            string: block.add_string(module.command_line).into(),
            reserved: U32::ZERO,
        })
        .collect();
    let map: Vec<MapEntry> = memory_map::e820(what.ram)
        .into_iter()
        .map(|entry| MapEntry {
            size: 20.into(),
            address: entry.address,
            len_bytes: entry.len_bytes,
            kind: entry.kind,
        })
        .collect();
    let upper = what.ram.acpi_tables().start - guest::EXTENDED_START;
    let info = Info {
        flags: (MEMORY | COMMAND_LINE | MODULES | MEMORY_MAP).into(),
        lower_kib: low(guest::CONVENTIONAL_END >> 10),
        upper_kib: low(upper >> 10),
        command_line: command_line.into(),
        module_count: low(modules.len() as u64),
        modules: block.add(modules.as_bytes()).into(),
        map_bytes: low(size_of_val(&*map) as u64),
        map: block.add(map.as_bytes()).into(),
        ..Info::default()
    };
    block.add(info.as_bytes())
}

/// All of it lies in low RAM, below 4 GiB.
fn low(value: u64) -> U32 {
    u32::try_from(value).unwrap_or(u32::MAX).into()
}
