//! What a chain asks of a disk. Virtio 1.2, 5.2.6.

use super::chain::{GuestBytes, Segment};
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockKind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Another.
    Other(u32),
}

/// A request, as its driver put it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockRequest {
    /// What.
    pub kind: BlockKind,
    /// From which sector on.
    pub sector: u64,
    /// Its data.
    pub data: Vec<Segment>,
    /// Where the status goes.
    pub status: u64,
}

impl BlockRequest {
    /// Reads a chain; the header is the first 16 bytes, the status the last.
    pub(super) fn parse(memory: &dyn GuestBytes, chain: &[Segment]) -> Option<Self> {
        let (header, rest) = chain.split_first()?;
        let (status, data) = rest.split_last()?;
        let mut bytes = [0; 16];
        if header.len != 16 || status.len != 1 || !memory.read(header.gpa, &mut bytes) {
            return None;
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = bytes;
        Some(Self {
            kind: match u32::from_le_bytes([a, b, c, d]) {
                0 => BlockKind::Read,
                1 => BlockKind::Write,
                other => BlockKind::Other(other),
            },
            sector: u64::from_le_bytes(sector),
            data: data.to_vec(),
            status: status.gpa,
        })
    }

    /// Bytes of data.
    #[must_use]
    pub fn len(&self) -> usize {
        let bytes: u64 = self.data.iter().map(|part| u64::from(part.len)).sum();
        usize::try_from(bytes).unwrap_or(0)
    }

    /// Whether there is no data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The data as it is now.
    #[must_use]
    pub fn content(&self, memory: &dyn GuestBytes) -> Vec<u8> {
        let mut content = Vec::new();
        for part in &self.data {
            let mut bytes = vec![0; usize::try_from(part.len).unwrap_or(0)];
            memory.read(part.gpa, &mut bytes);
            content.append(&mut bytes);
        }
        content
    }

    /// Puts other data in its place, as much as there is room for.
    pub fn replace(&self, memory: &dyn GuestBytes, mut content: &[u8]) {
        for part in &self.data {
            let len = usize::try_from(part.len).unwrap_or(0).min(content.len());
            let (now, later) = content.split_at(len);
            memory.write(part.gpa, now);
            content = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::fake::Shared;
    use super::*;

    const fn part(gpa: u64, len: u32) -> Segment {
        Segment {
            gpa,
            len,
            is_writable: true,
        }
    }

    #[test]
    fn a_request_is_header_data_and_status() {
        let memory = Shared::new(0x1000);
        memory.write(0, &[0, 0, 0, 0, 9, 9, 9, 9, 7, 0, 0, 0, 0, 0, 0, 0]);
        let chain = [part(0, 16), part(0x100, 4), part(0x200, 2), part(0x300, 1)];
        let request = BlockRequest::parse(&memory, &chain).unwrap();
        assert_eq!((request.kind, request.sector), (BlockKind::Read, 7));
        assert_eq!((request.len(), request.status), (6, 0x300));
        request.replace(&memory, b"abcdefgh");
        assert_eq!(request.content(&memory), b"abcdef");
        assert_eq!(memory.word(0x202), 0);
        assert_eq!(BlockRequest::parse(&memory, &chain[..1]), None);
        assert_eq!(BlockRequest::parse(&memory, &chain[1..]), None);
    }
}
