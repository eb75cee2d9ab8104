//! What was left undone to a frame, done here: for a host's card that does not, or a guest that does not take it.
//!
//! Of a large TCP packet come the packets it stands for (as any card with segmentation makes them), of any other frame comes the frame itself, its
//! checksum filled in.

use super::checksum;
use super::header::Header;
use super::packet::{IPV6_BYTES, Packet, TCP_CHECKSUM, Version};

/// Where a TCP header has its sequence number and its flags.
const SEQUENCE: usize = 4;
const FLAGS: usize = 13;
/// Set in the last packet only: end of the stream, push.
const LAST_ONLY: u8 = 0x01 | 0x08;
/// Set in the first packet only: congestion window reduced (RFC 3168, 6.1.2).
const FIRST_ONLY: u8 = 0x80;

/// The frames to be made of one, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    shape: Shape,
    /// Where the next piece's data begin; past the frame's end once the last was made.
    at: usize,
    index: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// The frame as it is.
    Whole,
    /// The frame with a checksum of what is behind `start` at `place`.
    Summed { start: usize, place: usize },
    /// Packets of at most `size` bytes of data.
    Split { packet: Packet, size: usize },
}

impl Pieces {
    /// Returns what is to be made of `frame`; `None` if it is not what its header says.
    #[must_use]
    pub fn try_new(header: Header, frame: &[u8]) -> Option<Self> {
        let whole = |shape| Self {
            shape,
            at: 0,
            index: 0,
        };
        if header.is_split() {
            let packet = header.packet(frame)?;
            let size = usize::from(header.gso_size);
            return (size != 0).then_some(Self {
                shape: Shape::Split { packet, size },
                at: packet.data,
                index: 0,
            });
        }
        if !header.needs_checksum() {
            return Some(whole(Shape::Whole));
        }
        let start = usize::from(header.csum_start);
        let place = start + usize::from(header.csum_offset);
        (place + 2 <= frame.len()).then_some(whole(Shape::Summed { start, place }))
    }

    /// Returns how many bytes the longest piece has.
    #[must_use]
    pub fn longest(&self, frame: &[u8]) -> usize {
        match self.shape {
            Shape::Split { packet, size } => frame.len().min(packet.data + size),
            Shape::Whole | Shape::Summed { .. } => frame.len(),
        }
    }

    /// Makes the next piece of the same `frame` and returns how long it is; `None` after the last, or if `piece` is too short for it.
    pub fn next(&mut self, frame: &[u8], piece: &mut [u8]) -> Option<usize> {
        if self.at > frame.len() {
            return None;
        }
        let (head, from, to) = match self.shape {
            Shape::Split { packet, size } => {
                (packet.data, self.at, frame.len().min(self.at + size))
            }
            Shape::Whole | Shape::Summed { .. } => (0, 0, frame.len()),
        };
        let len = head + to - from;
        let piece = piece.get_mut(..len)?;
        piece.get_mut(..head)?.copy_from_slice(frame.get(..head)?);
        piece.get_mut(head..)?.copy_from_slice(frame.get(from..to)?);
        let is_last = to == frame.len();
        self.complete(piece, is_last)?;
        self.at = if is_last { frame.len() + 1 } else { to };
        self.index = self.index.wrapping_add(1);
        Some(len)
    }

    fn complete(&self, piece: &mut [u8], is_last: bool) -> Option<()> {
        match self.shape {
            Shape::Whole => {}
            Shape::Summed { start, place } => {
                // The field holds the sum of the pseudo header.
                let sum = checksum::sum(piece.get(start..)?);
                put(piece, place, never_zero(checksum::finish(sum)))?;
            }
            Shape::Split { packet, size } => {
                match packet.version {
                    Version::V4 => self.complete_v4(piece, &packet)?,
                    Version::V6 => complete_v6(piece, &packet)?,
                }
                self.complete_tcp(piece, &packet, size, is_last)?;
            }
        }
        Some(())
    }

    /// Length, identification and checksum (RFC 791, 3.1).
    fn complete_v4(&self, piece: &mut [u8], packet: &Packet) -> Option<()> {
        let network = packet.network;
        let len = u16::try_from(piece.len() - network).ok()?;
        put(piece, network + 2, len)?;
        let first = u16::from_be_bytes(*piece.get(network + 4..)?.first_chunk()?);
        let [_, _, low @ ..] = self.index.to_be_bytes();
        let number = first.wrapping_add(u16::from_be_bytes(low));
        put(piece, network + 4, number)?;
        put(piece, network + 10, 0)?;
        let header = piece.get(network..packet.transport)?;
        put(piece, network + 10, checksum::finish(checksum::sum(header)))
    }

    /// Sequence number, flags and checksum (RFC 9293, 3.1).
    fn complete_tcp(
        &self,
        piece: &mut [u8],
        packet: &Packet,
        size: usize,
        is_last: bool,
    ) -> Option<()> {
        let transport = packet.transport;
        let at = transport + SEQUENCE;
        let first = u32::from_be_bytes(*piece.get(at..)?.first_chunk()?);
        let ahead = self.index.wrapping_mul(u32::try_from(size).ok()?);
        let sequence = first.wrapping_add(ahead).to_be_bytes();
        piece.get_mut(at..at + 4)?.copy_from_slice(&sequence);
        let flags = piece.get_mut(transport + FLAGS)?;
        *flags &= !(if is_last { 0 } else { LAST_ONLY });
        *flags &= !(if self.index == 0 { 0 } else { FIRST_ONLY });
        put(piece, transport + TCP_CHECKSUM, 0)?;
        let sum = pseudo_header(piece, packet)? + checksum::sum(piece.get(transport..)?);
        put(piece, transport + TCP_CHECKSUM, checksum::finish(sum))
    }
}

/// The payload's length (RFC 8200, 3).
fn complete_v6(piece: &mut [u8], packet: &Packet) -> Option<()> {
    let len = piece.len().checked_sub(packet.network + IPV6_BYTES)?;
    put(piece, packet.network + 4, u16::try_from(len).ok()?)
}

/// Addresses, protocol and length, which the checksum covers too (RFC 9293, 3.1; RFC 8200, 8.1).
fn pseudo_header(piece: &[u8], packet: &Packet) -> Option<u64> {
    let addresses = match packet.version {
        Version::V4 => 12..20,
        Version::V6 => 8..40,
    };
    let addresses = piece.get(packet.network..)?.get(addresses)?;
    let len = u64::try_from(piece.len() - packet.transport).ok()?;
    Some(checksum::sum(addresses) + 6 + len)
}

fn put(piece: &mut [u8], at: usize, value: u16) -> Option<()> {
    let place = piece.get_mut(at..at + 2)?;
    place.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// A checksum of zero says that there is none (RFC 768).
fn never_zero(sum: u16) -> u16 {
    if sum == 0 { 0xFFFF } else { sum }
}

#[cfg(test)]
mod tests;
