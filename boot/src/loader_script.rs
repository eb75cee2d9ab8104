//! The script by which firmware links tables it has put where it likes (QEMU `hw/acpi/bios-linker-loader.c`): entries of 128 bytes,
//! carried out in their order. Names are those of files of the firmware configuration device.

use alloc::vec::Vec;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 128;
/// Bytes of a name, with its terminating zero.
const NAME_BYTES: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Where in memory a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Anywhere below 4 GiB.
    High = 1,
    /// Where a guest scans for anchors, below 1 MiB.
    FSegment = 2,
}

/// A script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoaderScript(Vec<u8>);

impl LoaderScript {
    /// Puts a file into memory, aligned to so many bytes.
    pub fn allocate(&mut self, file: &str, alignment: u32, zone: Zone) {
        let zone = [zone as u8];
        self.entry(ALLOCATE, &[file], &[&alignment.to_le_bytes(), &zone]);
    }

    /// Adds the address of the file `to` to the number of so many bytes at this place.
    pub fn add_pointer(&mut self, (file, offset): (&str, u32), bytes: u8, to: &str) {
        self.entry(ADD_POINTER, &[file, to], &[&offset.to_le_bytes(), &[bytes]]);
    }

    /// Makes the byte at `place` such that the `len` bytes at `start` sum to zero, if it was zero before.
    pub fn add_checksum(&mut self, file: &str, place: u32, start: u32, len: u32) {
        let numbers = [place, start, len].map(u32::to_le_bytes);
        self.entry(ADD_CHECKSUM, &[file], &[numbers.as_flattened()]);
    }

    /// Returns the file's content.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn entry(&mut self, command: u32, names: &[&str], numbers: &[&[u8]]) {
        let end = self.0.len() + ENTRY_BYTES;
        self.0.extend(command.to_le_bytes());
        for name in names {
            let end = self.0.len() + NAME_BYTES;
            // Our own names, all shorter.
            self.0.extend(name.bytes().take(NAME_BYTES - 1));
            self.0.resize(end, 0);
        }
        for number in numbers {
            self.0.extend_from_slice(number);
        }
        self.0.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_names_and_numbers_at_their_places() {
        let mut script = LoaderScript::default();
        script.allocate("etc/a", 64, Zone::FSegment);
        script.add_pointer(("etc/a", 0x1234), 8, "etc/b");
        script.add_checksum("etc/b", 9, 2, 40);
        let bytes = script.into_bytes();
        let [first, second, third] = [0, 1, 2].map(|index| &bytes[index * 128..][..128]);
        assert_eq!(first[..10], *b"\x01\0\0\0etc/a\0");
        assert_eq!(first[60..66], [64, 0, 0, 0, 2, 0]);
        assert_eq!(second[60..66], *b"etc/b\0");
        assert_eq!(second[116..121], [0x34, 0x12, 0, 0, 8]);
        assert_eq!(third[60..72], [9, 0, 0, 0, 2, 0, 0, 0, 40, 0, 0, 0]);
        assert_eq!(bytes.len(), 3 * ENTRY_BYTES);
    }
}
