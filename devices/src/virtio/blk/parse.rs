//! Requests read out of chains (Virtio 1.2, 5.2.6).

use core::array;

use stockade_bus::{Gpa, GuestMemory};

use super::config::{BlkOptions, MAX_RANGES};
use super::request::{Kind, Range, SECTOR_BYTES, Status};
use super::slot::Slot;
use crate::virtio::queue::{Chain, Head, Segment, Violation, pieces, total};

/// Type, a reserved word, and the sector.
const HEADER_BYTES: u64 = 16;
/// Sector, count and flags of a range.
const RANGE_BYTES: usize = 16;
/// Flag of a range: its space may be given back.
const RANGE_UNMAP: u32 = 1;

/// A request's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Type(u32);

impl Type {
    const IN: Self = Self(0);
    const OUT: Self = Self(1);
    const FLUSH: Self = Self(4);
    const GET_ID: Self = Self(8);
    const DISCARD: Self = Self(11);
    const WRITE_ZEROES: Self = Self(13);
}

impl Status {
    /// Returns the status byte (Virtio 1.2, 5.2.6).
    pub(super) fn to_byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoError => 1,
            Self::Unsupported => 2,
        }
    }
}

/// The end of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) head: Head,
    pub(super) status_gpa: Gpa,
    pub(super) status: Status,
    pub(super) written: u32,
}

/// What became of a chain.
#[derive(Debug)]
pub(super) enum Parsed {
    /// The slot holds a request for the engine.
    Request,
    /// It needs no engine.
    Answered(Answer),
}

/// Reads the chain's request into `slot`, whose segments, ranges and kind it replaces.
pub(super) fn parse<M: GuestMemory + ?Sized>(
    memory: &M,
    chain: &Chain,
    options: &BlkOptions,
    is_through: bool,
    slot: &mut Slot,
) -> Result<Parsed, Violation> {
    let mut header = [0; 16];
    if chain.read(memory, 0, &mut header)? < header.len() {
        return Err(Violation::ShortRequest);
    }
    let last = chain.writable().last().ok_or(Violation::ShortRequest)?;
    let status_offset = u64::from(last.len.saturating_sub(1));
    let status_gpa = last.gpa.checked_add(status_offset);
    slot.status_gpa = status_gpa.ok_or(Violation::NotMemory(last.gpa))?;
    slot.before_status = total(chain.writable()) - 1;
    slot.head = chain.head();

    let request = Parser {
        memory,
        chain,
        options,
        is_through,
        sector: u64::from_le_bytes(array::from_fn(|place| header[8 + place])),
    };
    let kind = Type(u32::from_le_bytes(array::from_fn(|place| header[place])));
    if kind == Type::GET_ID {
        return request.answer_id(slot).map(Parsed::Answered);
    }
    // A request that fails here has read and written nothing.
    (slot.kind, slot.data_len, slot.range_count) = (Kind::Flush, 0, 0);
    slot.segments.clear();
    match request.fill(kind, slot)? {
        Status::Ok => Ok(Parsed::Request),
        status => Ok(Parsed::Answered(slot.answer(status))),
    }
}

struct Parser<'a, M: ?Sized> {
    memory: &'a M,
    chain: &'a Chain,
    options: &'a BlkOptions,
    is_through: bool,
    sector: u64,
}

impl<M: GuestMemory + ?Sized> Parser<'_, M> {
    fn fill(&self, kind: Type, slot: &mut Slot) -> Result<Status, Violation> {
        let (sector, is_through) = (self.sector, self.is_through);
        match kind {
            Type::IN => {
                let len = slot.before_status;
                Ok(self.data(slot, Kind::Read { sector }, self.chain.writable(), 0, len))
            }
            Type::OUT if self.options.is_read_only => Ok(Status::IoError),
            Type::OUT => {
                let kind = Kind::Write { sector, is_through };
                let len = total(self.chain.readable()) - HEADER_BYTES;
                Ok(self.data(slot, kind, self.chain.readable(), HEADER_BYTES, len))
            }
            Type::FLUSH => Ok(Status::Ok),
            Type::DISCARD => match self.options.discard {
                Some(limits) => self.ranges(slot, Kind::Discard, limits.max_sectors),
                None => Ok(Status::Unsupported),
            },
            Type::WRITE_ZEROES => match self.options.write_zeroes {
                Some(limits) => {
                    // Whether space may be given back is told by the ranges.
                    let kind = Kind::WriteZeroes {
                        may_unmap: limits.may_unmap,
                        is_through,
                    };
                    self.ranges(slot, kind, limits.max_sectors)
                }
                None => Ok(Status::Unsupported),
            },
            _ => Ok(Status::Unsupported),
        }
    }

    /// Notes where the data lies: whole sectors, at least one, on the disk, in no more segments than may be.
    fn data(
        &self,
        slot: &mut Slot,
        kind: Kind,
        segments: &[Segment],
        offset: u64,
        len: u64,
    ) -> Status {
        let are_sectors = len > 0 && len.is_multiple_of(SECTOR_BYTES);
        if !are_sectors || !self.options.has(self.sector, len / SECTOR_BYTES) {
            return Status::IoError;
        }
        for piece in pieces(segments, offset, len) {
            if slot.segments.len() >= self.options.segments() {
                return Status::IoError;
            }
            slot.segments.push(piece);
        }
        (slot.kind, slot.data_len) = (kind, len);
        Status::Ok
    }

    /// Reads the ranges of a discard or write-zeroes request (Virtio 1.2, 5.2.6.2).
    fn ranges(&self, slot: &mut Slot, kind: Kind, max_sectors: u32) -> Result<Status, Violation> {
        if self.options.is_read_only {
            return Ok(Status::IoError);
        }
        let len = total(self.chain.readable()) - HEADER_BYTES;
        let (count, rest) = (len / RANGE_BYTES as u64, len % RANGE_BYTES as u64);
        if count == 0 || count > MAX_RANGES as u64 || rest != 0 {
            return Ok(Status::IoError);
        }
        let mut bytes = [0; MAX_RANGES * RANGE_BYTES];
        let read = self.chain.read(self.memory, HEADER_BYTES, &mut bytes)?;
        let may_be_unmapped = matches!(kind, Kind::WriteZeroes { .. });
        let mut are_all_unmapped = true;
        let (ranges, _) = bytes.get(..read).unwrap_or_default().as_chunks::<16>();
        for (place, raw) in slot.ranges.iter_mut().zip(ranges) {
            let (range, flags) = parse_range(raw);
            let allowed = if may_be_unmapped { RANGE_UNMAP } else { 0 };
            if flags & !allowed != 0 {
                return Ok(Status::Unsupported);
            }
            if range.count == 0
                || range.count > max_sectors
                || !self.options.has(range.sector, range.count.into())
            {
                return Ok(Status::IoError);
            }
            are_all_unmapped &= flags & RANGE_UNMAP != 0;
            *place = range;
        }
        slot.range_count = ranges.len();
        slot.kind = match kind {
            Kind::WriteZeroes {
                may_unmap,
                is_through,
            } => Kind::WriteZeroes {
                may_unmap: may_unmap && are_all_unmapped,
                is_through,
            },
            kind => kind,
        };
        Ok(Status::Ok)
    }

    /// Tells the disk's name: up to 20 bytes.
    fn answer_id(&self, slot: &Slot) -> Result<Answer, Violation> {
        let room = slot.before_status;
        let len = usize::try_from(room).unwrap_or(usize::MAX);
        let id = &self.options.id[..len.min(self.options.id.len())];
        let written = self.chain.write(self.memory, 0, id)?;
        let is_filled = written as u64 == room;
        Ok(Answer {
            head: slot.head,
            status_gpa: slot.status_gpa,
            status: Status::Ok,
            written: u32::try_from(written).unwrap_or(0) + u32::from(is_filled),
        })
    }
}

fn parse_range(raw: &[u8; RANGE_BYTES]) -> (Range, u32) {
    let second = array::from_fn(|place| raw[8 + place]);
    let [c0, c1, c2, c3, f0, f1, f2, f3] = second;
    let range = Range {
        sector: u64::from_le_bytes(array::from_fn(|place| raw[place])),
        count: u32::from_le_bytes([c0, c1, c2, c3]),
    };
    (range, u32::from_le_bytes([f0, f1, f2, f3]))
}
