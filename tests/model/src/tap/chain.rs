//! Descriptor chains in the guest's shared memory. Virtio 1.2, 2.7.5.

use alloc::vec::Vec;

/// Memory of the guest's that the host sees.
pub trait GuestBytes {
    /// Copies out; `false` when not all of it is shared.
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool;
    /// Copies in; `false` when not all of it is shared.
    fn write(&self, gpa: u64, bytes: &[u8]) -> bool;
}

/// A buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where.
    pub gpa: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub is_writable: bool,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Longer chains are none of our drivers'.
const LONGEST: usize = 1024;

struct Descriptor {
    gpa: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn descriptor(memory: &dyn GuestBytes, table: u64, index: u16) -> Option<Descriptor> {
    let mut bytes = [0; 16];
    let at = table.checked_add(u64::from(index) * 16)?;
    if !memory.read(at, &mut bytes) {
        return None;
    }
    let word = u128::from_le_bytes(bytes);
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = word.to_le_bytes();
    Some(Descriptor {
        gpa: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        len: u32::from_le_bytes([i, j, k, l]),
        flags: u16::from_le_bytes([m, n]),
        next: u16::from_le_bytes([o, p]),
    })
}

/// The buffers of the chain that begins with descriptor `head` of `table`.
pub(super) fn segments(memory: &dyn GuestBytes, table: u64, head: u16) -> Vec<Segment> {
    let mut found = Vec::new();
    let (mut table, mut index) = (table, head);
    while let Some(next) = descriptor(memory, table, index)
        && found.len() < LONGEST
    {
        if next.flags & INDIRECT != 0 {
            if !found.is_empty() {
                break;
            }
            (table, index) = (next.gpa, 0);
            if indirect_is_empty(&next) {
                break;
            }
            let first = descriptor(memory, table, 0);
            if first.is_none_or(|first| first.flags & INDIRECT != 0) {
                break;
            }
            continue;
        }
        found.push(Segment {
            gpa: next.gpa,
            len: next.len,
            is_writable: next.flags & WRITE != 0,
        });
        if next.flags & NEXT == 0 {
            break;
        }
        index = next.next;
    }
    found
}

const fn indirect_is_empty(descriptor: &Descriptor) -> bool {
    descriptor.len < 16
}

#[cfg(test)]
pub(super) mod fake {
    use super::GuestBytes;
    use std::cell::RefCell;

    /// Shared memory from address 0 on.
    pub(crate) struct Shared(pub(crate) RefCell<Vec<u8>>);

    impl Shared {
        pub(crate) fn new(bytes: usize) -> Self {
            Self(RefCell::new(vec![0; bytes]))
        }

        pub(crate) fn descriptor(&self, at: u64, gpa: u64, len: u32, flags: u16, next: u16) {
            let mut bytes = gpa.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
            assert!(self.write(at, &bytes));
        }

        pub(crate) fn word(&self, at: u64) -> u16 {
            let mut bytes = [0; 2];
            assert!(self.read(at, &mut bytes));
            u16::from_le_bytes(bytes)
        }
    }

    impl GuestBytes for Shared {
        fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
            let at = usize::try_from(gpa).unwrap();
            let memory = self.0.borrow();
            let Some(from) = at
                .checked_add(bytes.len())
                .and_then(|end| memory.get(at..end))
            else {
                return false;
            };
            bytes.copy_from_slice(from);
            true
        }

        fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
            let at = usize::try_from(gpa).unwrap();
            let mut memory = self.0.borrow_mut();
            let Some(to) = memory.get_mut(at..at + bytes.len()) else {
                return false;
            };
            to.copy_from_slice(bytes);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Shared;
    use super::*;

    fn lens(memory: &Shared, head: u16) -> Vec<u32> {
        let found = segments(memory, 0, head);
        found.iter().map(|segment| segment.len).collect()
    }

    #[test]
    fn chains_and_tables_give_the_same_buffers() {
        let memory = Shared::new(0x1000);
        memory.descriptor(0x30, 0x800, 16, NEXT, 1);
        memory.descriptor(0x10, 0x900, 512, NEXT | WRITE, 0);
        memory.descriptor(0x00, 0xA00, 1, WRITE, 0);
        assert_eq!(lens(&memory, 3), [16, 512, 1]);
        memory.descriptor(0x40, 0x200, 48, INDIRECT, 0);
        memory.descriptor(0x200, 0x800, 16, NEXT, 1);
        memory.descriptor(0x210, 0x900, 512, NEXT | WRITE, 2);
        memory.descriptor(0x220, 0xA00, 1, WRITE, 0);
        assert_eq!(lens(&memory, 4), [16, 512, 1]);
        assert!(segments(&memory, 0, 4)[1].is_writable);
    }

    #[test]
    fn loops_and_tables_of_tables_end() {
        let memory = Shared::new(0x1000);
        memory.descriptor(0, 0, 1, NEXT, 0);
        assert_eq!(lens(&memory, 0).len(), LONGEST);
        memory.descriptor(0x10, 0, 64, INDIRECT, 0);
        memory.descriptor(0, 0, 64, INDIRECT, 0);
        assert!(lens(&memory, 1).is_empty());
        assert!(lens(&memory, 0xFFFF).is_empty());
    }
}
