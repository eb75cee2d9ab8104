//! Descriptors, and the walk along a chain of them.

use core::array;

use bitflags::bitflags;
use stockade_bus::{Gpa, GuestMemory};

use super::chain::{Chain, Direction};
use super::violation::Violation;
use crate::virtio::Features;

/// Size of a descriptor in any ring or table.
pub(super) const DESCRIPTOR_BYTES: u64 = 16;

bitflags! {
    /// Flags of a descriptor (Virtio 1.2, 2.7.5 and 2.8.1). Others are ignored.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u16 {
        /// The chain goes on.
        const NEXT = 1 << 0;
        /// The device writes the buffer.
        const WRITE = 1 << 1;
        /// The buffer is a table of descriptors.
        const INDIRECT = 1 << 2;
        /// Packed rings: the driver made it available, by its wrap counter.
        const AVAIL = 1 << 7;
        /// Packed rings: the device gave it back, by its wrap counter.
        const USED = 1 << 15;

        const _ = !0;
    }
}

impl Flags {
    pub(super) fn direction(self) -> Direction {
        if self.contains(Self::WRITE) {
            Direction::Writable
        } else {
            Direction::Readable
        }
    }
}

/// A descriptor, copied out of guest memory.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    gpa: Gpa,
    len: u32,
    /// Flags and the next descriptor in a split ring, buffer ID and flags in a packed one.
    words: [u16; 2],
}

/// Descriptors one after the other in guest memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    gpa: Gpa,
    len: u32,
}

impl Table {
    /// Returns the descriptors of a split ring.
    pub(super) fn of_ring(gpa: Gpa, size: u16) -> Self {
        let len = u32::from(size);
        Self { gpa, len }
    }

    /// Returns the table a descriptor refers to.
    pub(super) fn try_indirect(gpa: Gpa, len_bytes: u32) -> Result<Self, Violation> {
        let (len, rest) = (len_bytes / 16, len_bytes % 16);
        if len == 0 || rest != 0 {
            return Err(Violation::TableLength(len_bytes));
        }
        Ok(Self { gpa, len })
    }

    fn read<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        index: u16,
    ) -> Result<Descriptor, Violation> {
        if u32::from(index) >= self.len {
            return Err(Violation::NoDescriptor(index));
        }
        let at = self
            .gpa
            .checked_add(u64::from(index) * DESCRIPTOR_BYTES)
            .ok_or(Violation::NotMemory(self.gpa))?;
        let mut bytes = [0; 16];
        memory.read(at, &mut bytes)?;
        let second = array::from_fn(|place| bytes[8 + place]);
        let [l0, l1, l2, l3, a0, a1, b0, b1] = second;
        Ok(Descriptor {
            gpa: Gpa(u64::from_le_bytes(array::from_fn(|place| bytes[place]))),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            words: [u16::from_le_bytes([a0, a1]), u16::from_le_bytes([b0, b1])],
        })
    }
}

/// Collects the chain that begins at `head`, which may end in a table of its own (Virtio 1.2, 2.7.5.3). A loop ends where the chain's
/// capacity does.
pub(super) fn walk_split<M: GuestMemory + ?Sized>(
    memory: &M,
    ring: Table,
    head: u16,
    features: Features,
    chain: &mut Chain,
) -> Result<(), Violation> {
    let mut may_be_indirect = features.contains(Features::INDIRECT_DESC);
    let (mut table, mut index) = (ring, head);
    chain.clear();
    loop {
        let descriptor = table.read(memory, index)?;
        let [flags, next] = descriptor.words;
        let flags = Flags::from_bits_retain(flags);
        if flags.contains(Flags::INDIRECT) {
            if !may_be_indirect || flags.contains(Flags::NEXT) {
                return Err(Violation::Indirect);
            }
            may_be_indirect = false;
            table = Table::try_indirect(descriptor.gpa, descriptor.len)?;
            index = 0;
            continue;
        }
        chain.push(memory, descriptor.gpa, descriptor.len, flags.direction())?;
        if !flags.contains(Flags::NEXT) {
            return chain.check();
        }
        index = next;
    }
}

/// Collects the buffers of a packed ring's table: all of its descriptors in order (Virtio 1.2, 2.8.7).
pub(super) fn walk_packed_table<M: GuestMemory + ?Sized>(
    memory: &M,
    table: Table,
    chain: &mut Chain,
) -> Result<(), Violation> {
    for index in 0..table.len {
        let index = u16::try_from(index).map_err(|_| Violation::ChainTooLong)?;
        let descriptor = table.read(memory, index)?;
        let [_, flags] = descriptor.words;
        let direction = Flags::from_bits_retain(flags).direction();
        chain.push(memory, descriptor.gpa, descriptor.len, direction)?;
    }
    Ok(())
}

/// Checks a part of a ring: aligned, and all of it guest RAM.
pub(super) fn check_part<M: GuestMemory + ?Sized>(
    memory: &M,
    gpa: Gpa,
    len: u64,
    alignment: u64,
) -> Result<(), Violation> {
    if !gpa.0.is_multiple_of(alignment) {
        return Err(Violation::Alignment(gpa));
    }
    if !memory.is_ram_range(gpa, len) {
        return Err(Violation::NotMemory(gpa));
    }
    Ok(())
}
