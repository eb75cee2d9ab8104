//! The tables as `dmidecode` reads them, where it is installed; lengths and strings in any case.

extern crate std;

use std::process::Command;
use std::string::String;
use std::vec::Vec;

use super::*;

fn machine(ram_bytes: u64) -> Machine<'static> {
    Machine {
        vcpus: 4,
        ram: RamMap::of_size(ram_bytes).unwrap(),
        uuid: uuid(&[0x11; 48]),
        version: "0.1.0",
        processor_id: [0x00A0_0F11, 0x178B_FBFF],
    }
}

/// Splits tables into formatted areas.
fn structures(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some(len) = rest.get(1) {
        let (formatted, strings) = rest.split_at(usize::from(*len));
        let end = strings.windows(2).position(|pair| pair == [0, 0]).unwrap();
        found.push(formatted.to_vec());
        rest = &strings[end + 2..];
    }
    found
}

#[test]
fn structures_have_the_lengths_of_version_3_0() {
    let found: Vec<(u8, usize)> = structures(&tables(&machine(8 << 30)))
        .iter()
        .map(|structure| (structure[0], structure.len()))
        .collect();
    let wanted = [
        (0, 24),
        (1, 27),
        (3, 22),
        (4, 48),
        (16, 23),
        (17, 40),
        (19, 31),
        (19, 31),
        (32, 11),
        (127, 4),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn handles_differ_and_references_meet() {
    let found = structures(&tables(&machine(8 << 30)));
    let mut handles: Vec<_> = found.iter().map(|it| [it[2], it[3]]).collect();
    let array = handles[4];
    assert_eq!(found[5][4..6], array);
    assert_eq!(found[6][12..14], array);
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), found.len());
}

#[test]
fn sizes_beyond_the_short_fields_are_in_the_long_ones() {
    let short = structures(&tables(&machine(1 << 30)));
    assert_eq!(short[5][12..14], 1024_u16.to_le_bytes());
    assert_eq!(short[6][4..12], [0, 0, 0, 0, 0xFF, 0xFF, 0x0F, 0]);
    let long = structures(&tables(&machine(64 << 30)));
    assert_eq!(long[5][12..14], 0x7FFF_u16.to_le_bytes());
    assert_eq!(long[5][28..32], 65536_u32.to_le_bytes());
}

#[test]
fn anchor_sums_to_zero_and_names_the_length() {
    let tables = tables(&machine(1 << 30));
    let anchor = anchor(&tables);
    assert_eq!(anchor.len(), 24);
    let sum = anchor
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, 0);
    let size = u32::try_from(tables.len()).unwrap();
    assert_eq!(anchor[12..16], size.to_le_bytes());
}

/// Returns what `dmidecode` says of the tables in a file of its own format: the anchor, then the tables at offset 32.
fn decode(ram_bytes: u64) -> Option<String> {
    let tables = tables(&machine(ram_bytes));
    let mut dump = anchor(&tables);
    dump[16] = 32;
    dump[5] = dump[5].wrapping_sub(32);
    dump.resize(32, 0);
    dump.extend(tables);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    let output = Command::new("dmidecode")
        .arg("--from-dump")
        .arg(file.path())
        .output()
        .ok()?;
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn dmidecode_reads_what_was_meant() {
    let Some(text) = decode(8 << 30) else {
        return;
    };
    for line in [
        "SMBIOS 3.0.0 present",
        "Product Name: Stockade Q35",
        "UEFI is supported",
        "System is a virtual machine",
        "UUID: 11111111-1111-8111-9111-111111111111",
        "Core Count: 4",
        "Maximum Capacity: 8 GB",
        "Size: 8 GB",
        "Range Size: 2816 MB",
        "Range Size: 5376 MB",
        "End Of Table",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    for word in ["bad", "Invalid", "<OUT OF SPEC>", "Wrong"] {
        assert!(!text.contains(word), "{word} is in:\n{text}");
    }
}
