//! Base address registers: where a function's memory lies (PCI Local Bus 3.0, 6.2.5.1).
//!
//! A register keeps only the address bits above the size, which is how software learns the size: it writes ones and sees which stay.

use super::ConfigSpace;

/// How many registers a function has.
pub const BARS: usize = 6;
/// Offset of the first register.
const FIRST: u8 = 0x10;
/// Type field: the register and the next one are one of 64 bits.
const TYPE_64: u32 = 0b100;
/// Reads have no side effects.
const PREFETCHABLE: u32 = 0b1000;
/// Address bits of the low register.
const ADDRESS: u32 = !0xF;

/// The number of a base address register, 0 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar(u8);

impl Bar {
    /// Returns register `number`, `None` past the last.
    #[must_use]
    pub const fn try_new(number: u8) -> Option<Self> {
        if (number as usize) < BARS {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Returns its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    const fn offset(self) -> u8 {
        FIRST + 4 * self.0
    }
}

/// What kind of memory a register places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Anywhere below 4 GiB.
    Memory32,
    /// Anywhere, prefetchable; it takes the next register too.
    Memory64,
}

/// A range of guest-physical addresses that a function answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarRange {
    /// The first address.
    pub base: u64,
    /// How many bytes, a power of two.
    pub size: u64,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    kind: BarKind,
    size: u64,
}

/// The registers of a function: what is behind each. Their values are in its configuration space.
#[derive(Clone, Debug, Default)]
pub(super) struct Bars([Option<Window>; BARS]);

impl Bars {
    /// Makes a register in `space`.
    ///
    /// # Panics
    ///
    /// If the size is no power of two of at least a page, or the register is in use: a mistake of the device's author.
    pub(super) fn add(&mut self, space: &mut ConfigSpace, bar: Bar, kind: BarKind, size: u64) {
        assert!(size.is_power_of_two() && size >= 0x1000, "size of a BAR");
        assert!(self.0[bar.index()].is_none(), "a BAR given twice");
        let (low, high) = halves(!(size - 1));
        match kind {
            BarKind::Memory32 => assert!(size < 1 << 32, "a BAR below 4 GiB"),
            BarKind::Memory64 => {
                let above = Bar::try_new(bar.0 + 1).filter(|next| self.0[next.index()].is_none());
                let next = above.expect("a BAR of 64 bits has a free one behind it");
                space.set(bar.offset(), &(TYPE_64 | PREFETCHABLE).to_le_bytes());
                space.set_writable(next.offset(), &high.to_le_bytes());
            }
        }
        space.set_writable(bar.offset(), &(low & ADDRESS).to_le_bytes());
        self.0[bar.index()] = Some(Window { kind, size });
    }

    /// Returns where the windows lie by the registers in `space`.
    pub(super) fn ranges(&self, space: &ConfigSpace) -> [Option<BarRange>; BARS] {
        let mut number = 0_u8;
        self.0.map(|window| {
            let offset = FIRST + 4 * number;
            number += 1;
            let Window { kind, size } = window?;
            let low = u64::from(space.dword(offset) & ADDRESS);
            let high = match kind {
                BarKind::Memory32 => 0,
                BarKind::Memory64 => u64::from(space.dword(offset + 4)),
            };
            let base = high << 32 | low;
            Some(BarRange { base, size })
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use stockade_bus::PciConfig;

    use super::{Bar, BarKind, BarRange, Bars};
    use crate::pci::ConfigSpace;

    fn space() -> (ConfigSpace, Bars) {
        let mut space = ConfigSpace::new(0x1AF4, 0x1041, [0, 0, 2], 1);
        let mut bars = Bars::default();
        let bar = |number| Bar::try_new(number).unwrap();
        bars.add(&mut space, bar(1), BarKind::Memory32, 0x1000);
        bars.add(&mut space, bar(4), BarKind::Memory64, 0x2_0000_0000);
        (space, bars)
    }

    #[test]
    fn ones_written_show_the_size() {
        let (mut space, _) = space();
        for offset in [0x10, 0x14, 0x18, 0x1C, 0x20, 0x24] {
            space.config_write(offset, u32::MAX, u32::MAX);
        }
        assert_eq!(space.config_read(0x10), 0);
        assert_eq!(space.config_read(0x14), 0xFFFF_F000);
        assert_eq!(space.config_read(0x18), 0);
        assert_eq!(space.config_read(0x20), 0x0000_000C);
        assert_eq!(space.config_read(0x24), 0xFFFF_FFFE);
    }

    #[test]
    fn window_lies_where_the_register_says_aligned_to_its_size() {
        let (mut space, bars) = space();
        space.config_write(0x14, 0xC123_4567, u32::MAX);
        space.config_write(0x20, 0x8000_0000, u32::MAX);
        space.config_write(0x24, 0x0000_0105, u32::MAX);
        let ranges = bars.ranges(&space);
        let low = BarRange {
            base: 0xC123_4000,
            size: 0x1000,
        };
        let high = BarRange {
            base: 0x104_0000_0000,
            size: 0x2_0000_0000,
        };
        assert_eq!(ranges, [None, Some(low), None, None, Some(high), None]);
    }

    #[test]
    fn there_are_six_registers() {
        assert_eq!(Bar::try_new(5).map(Bar::number), Some(5));
        assert_eq!(Bar::try_new(6), None);
    }
}
