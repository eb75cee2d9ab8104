//! Names for addresses: the paravisor prints a backtrace as bare numbers, its ELF file knows what they are.

use std::path::Path;

use object::{Object, SymbolMap, SymbolMapName};

/// Replaces `backtrace: 0x…` lines by the functions they are in. Without the file the numbers stay.
pub(super) fn backtrace(log: &str, elf: Option<&Path>) -> Vec<String> {
    let addresses: Vec<u64> = log
        .lines()
        .filter_map(|line| {
            line.split_once("backtrace: 0x")?
                .1
                .split_whitespace()
                .next()
        })
        .filter_map(|digits| u64::from_str_radix(digits, 16).ok())
        .collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let bytes = elf
        .and_then(|path| std::fs::read(path).ok())
        .unwrap_or_default();
    let file = object::File::parse(&*bytes).ok();
    let map = file.as_ref().map(Object::symbol_map);
    addresses
        .iter()
        .map(|address| name(*address, map.as_ref()))
        .collect()
}

fn name(address: u64, map: Option<&SymbolMap<SymbolMapName<'_>>>) -> String {
    match map.and_then(|map| map.containing(address)) {
        Some(symbol) => format!(
            "{:#} + {:#x}",
            rustc_demangle::demangle(symbol.name()),
            address - symbol.address()
        ),
        None => format!("{address:#x}"),
    }
}
