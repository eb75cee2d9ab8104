//! What a disk is told of a request: header, status, range and descriptors, in a control block of its own a ticket.

use super::{Kind, MAX_RUNS, Request, SECTOR_BYTES, Ticket};
use crate::queue::{self, Access, DESCRIPTOR_SIZE, Posted, QUEUE_BYTES};
use crate::shared::SharedMemory;

/// Bytes of a control block.
pub(super) const BYTES: usize = 640;
const STATUS_OFFSET: usize = 16;
const RANGE_OFFSET: usize = 32;
const RANGE_BYTES: usize = 16;
const TABLE_OFFSET: usize = 64;
/// A status the device does not write.
const NO_STATUS: u8 = 0xFF;

const _: () = assert!(TABLE_OFFSET + (MAX_RUNS + 2) * DESCRIPTOR_SIZE <= BYTES);

fn place(ticket: Ticket) -> usize {
    QUEUE_BYTES + usize::from(ticket.0) * BYTES
}

/// Returns the status the device wrote.
pub(super) fn read_status(memory: &impl SharedMemory, ticket: Ticket) -> u8 {
    let mut status = [NO_STATUS];
    memory.read(place(ticket) + STATUS_OFFSET, &mut status);
    let [status] = status;
    status
}

/// Writes header, status and descriptors (virtio 1.2, section 5.2.6).
pub(super) fn write(
    memory: &impl SharedMemory,
    ticket: Ticket,
    request: &Request,
    data: impl Iterator<Item = (usize, usize)>,
) -> Posted {
    let control = place(ticket);
    let mut header = [0; 16];
    header[..4].copy_from_slice(&request.kind.code().to_le_bytes());
    header[8..].copy_from_slice(&request.sector.to_le_bytes());
    memory.write(control, &header);
    memory.write(control + STATUS_OFFSET, &[NO_STATUS]);
    let mut chain = Chain::new(memory, control + TABLE_OFFSET);
    chain.push(control, header.len(), Access::Readable);
    let access = match request.kind {
        Kind::Read => Access::Writable,
        _ => Access::Readable,
    };
    for (offset, len) in data {
        chain.push(offset, len, access);
    }
    if let Some(flags) = range_flags(request.kind) {
        write_range(memory, control, request, flags);
        chain.push(control + RANGE_OFFSET, RANGE_BYTES, Access::Readable);
    }
    chain.push(control + STATUS_OFFSET, 1, Access::Writable);
    chain.finish()
}

fn range_flags(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Discard => Some(0),
        Kind::WriteZeroes { unmap } => Some(u32::from(unmap)),
        _ => None,
    }
}

fn write_range(memory: &impl SharedMemory, control: usize, request: &Request, flags: u32) {
    let sectors = u64::from(request.len_bytes) / SECTOR_BYTES;
    let mut range = [0; RANGE_BYTES];
    range[..8].copy_from_slice(&request.sector.to_le_bytes());
    range[8..].copy_from_slice(&(sectors | u64::from(flags) << 32).to_le_bytes());
    // Such a request's own header names no sector.
    memory.write(control + 8, &[0; 8]);
    memory.write(control + RANGE_OFFSET, &range);
}

/// A table of descriptors as it grows.
struct Chain<'a, M> {
    memory: &'a M,
    table: usize,
    count: u16,
    last: (u64, u32, Access),
    writable: u32,
}

impl<'a, M: SharedMemory> Chain<'a, M> {
    fn new(memory: &'a M, table: usize) -> Self {
        Self {
            memory,
            table,
            count: 0,
            last: (0, 0, Access::Readable),
            writable: 0,
        }
    }

    fn push(&mut self, offset: usize, len: usize, access: Access) {
        if self.count != 0 {
            self.write_last(Some(self.count));
        }
        let len = u32::try_from(len).unwrap_or(0);
        self.last = (self.memory.bus_address(offset), len, access);
        self.count += 1;
        if access == Access::Writable {
            self.writable += len;
        }
    }

    fn write_last(&self, next: Option<u16>) {
        let (address, len, access) = self.last;
        let at = self.table + usize::from(self.count - 1) * DESCRIPTOR_SIZE;
        let descriptor = queue::descriptor(address, len, access, next);
        self.memory.write(at, &descriptor);
    }

    fn finish(self) -> Posted {
        self.write_last(None);
        let len = 16 * u32::from(self.count);
        Posted::indirect(self.memory.bus_address(self.table), len, self.writable)
    }
}
