//! The guest's screen on a disk of the host: what is in its first sector, and where the picture is.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Device number of the disk on bus 0 of the host.
pub const HOST_DEVICE: u8 = 27;
/// Bytes of shared memory it goes through.
pub const SHARED_BYTES: u64 = super::LEAST_DISK_BYTES;
/// Where the picture begins.
pub const PICTURE_OFFSET: u64 = 4096;
/// The disk's size.
pub const DISK_BYTES: u64 = PICTURE_OFFSET + (16 << 20) + 4096;

const MAGIC: [u8; 8] = *b"STKSCRN1";

/// The first sector, written when a picture is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    frame: U32,
    width: U32,
    height: U32,
    stride: U32,
}

impl Header {
    /// Returns the header of picture number `frame`: 32 bits a pixel, blue in the lowest byte; the numbers in bytes or pixels.
    #[must_use]
    pub fn new(frame: u32, width: u32, height: u32, stride: u32) -> Self {
        Self {
            magic: MAGIC,
            frame: frame.into(),
            width: width.into(),
            height: height.into(),
            stride: stride.into(),
        }
    }

    /// Reads a header; `None` if there is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        (header.magic == MAGIC).then_some(header)
    }

    /// Returns the picture's number.
    #[must_use]
    pub fn frame(&self) -> u32 {
        self.frame.get()
    }

    /// Returns width, height and the bytes from a line to the next.
    #[must_use]
    pub fn shape(&self) -> (u32, u32, u32) {
        (self.width.get(), self.height.get(), self.stride.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_comes_back_and_nothing_else_does() {
        let header = Header::new(7, 1024, 768, 4096);
        let bytes = header.as_bytes();
        let parsed = Header::parse(bytes).unwrap();
        assert_eq!((parsed.frame(), parsed.shape()), (7, (1024, 768, 4096)));
        assert_eq!(Header::parse(&[0; 512]), None);
        assert_eq!(Header::parse(&bytes[..20]), None);
    }
}
