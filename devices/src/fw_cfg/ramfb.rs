//! `etc/ramfb`: by this file a guest tells where in its memory a picture is (QEMU `hw/display/ramfb.c`, edk2 `QemuRamfbDxe`).
//!
//! The guest writes the file as a whole. What it says is an allegation: [`Picture::parse`] sees that the numbers make sense together, not
//! that there is memory.

use stockade_bus::Gpa;
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The file's name.
pub const NAME: &str = "etc/ramfb";
/// The file's length.
pub const BYTES: usize = size_of::<Words>();
/// The most a picture has.
pub const MAX_PICTURE_BYTES: u32 = 16 << 20;
/// The longest side of one.
const MAX_SIDE: u32 = 4096;
/// The only form firmware asks for: 32 bits a pixel, blue in the lowest byte, the highest unused (`XR24` of `drm_fourcc.h`).
const XRGB: u32 = u32::from_le_bytes(*b"XR24");
/// Bytes of a pixel.
const PIXEL: u32 = 4;

#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Words {
    address: U64,
    format: U32,
    flags: U32,
    width: U32,
    height: U32,
    stride: U32,
}

const _: () = assert!(BYTES == 28);

/// Where a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Its first pixel.
    pub gpa: Gpa,
    /// Pixels of a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bytes from a line to the next.
    pub stride: u32,
}

impl Picture {
    /// Returns what a guest wrote to the file; `None` where that is no picture.
    #[must_use]
    pub fn parse(file: &[u8]) -> Option<Self> {
        let (words, _) = Words::read_from_prefix(file).ok()?;
        let (width, height) = (words.width.get(), words.height.get());
        let line = width.checked_mul(PIXEL)?;
        let stride = match words.stride.get() {
            0 => line,
            stride => stride,
        };
        let picture = Self {
            gpa: Gpa(words.address.get()),
            width,
            height,
            stride,
        };
        let sides = 1..=MAX_SIDE;
        let is_sound = words.format == XRGB
            && sides.contains(&width)
            && sides.contains(&height)
            && line <= stride
            && stride.checked_mul(height)? <= MAX_PICTURE_BYTES;
        is_sound.then_some(picture)
    }

    /// Returns how many bytes it has.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        self.stride * self.height
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn file(address: u64, words: [u32; 5]) -> Vec<u8> {
        let mut file = address.to_be_bytes().to_vec();
        file.extend(words.into_iter().flat_map(u32::to_be_bytes));
        file
    }

    #[test]
    fn picture_is_as_the_guest_says_it_is() {
        let file = file(0x7F00_0000, [XRGB, 0, 1024, 768, 4096]);
        let picture = Picture::parse(&file).unwrap();
        assert_eq!(picture.gpa, Gpa(0x7F00_0000));
        assert_eq!((picture.width, picture.height), (1024, 768));
        assert_eq!(picture.len_bytes(), 3 << 20);
    }

    #[test]
    fn lines_without_a_stride_follow_each_other() {
        let picture = Picture::parse(&file(0, [XRGB, 0, 10, 2, 0])).unwrap();
        assert_eq!(picture.stride, 40);
    }

    #[test]
    fn nonsense_is_no_picture() {
        for words in [
            [0; 5],
            [XRGB, 0, 0, 10, 0],
            [XRGB, 0, 10, 0, 0],
            [XRGB, 0, 10, 10, 39],
            [XRGB, 0, u32::MAX, 1, 0],
            [XRGB, 0, 1, u32::MAX, u32::MAX],
            [XRGB, 0, 4096, 4096, 0],
            [XRGB + 1, 0, 10, 10, 0],
        ] {
            assert_eq!(Picture::parse(&file(0, words)), None, "{words:?}");
        }
        assert_eq!(Picture::parse(&[]), None);
    }
}
