//! What firmware would do to the functions before it starts an operating system: give each window an address, have it answer,
//! and note which interrupt it has.
//!
//! An operating system may do all of it anew. It is done by the registers alone, as firmware does.

use core::ops::Range;

use stockade_bus::PciConfig;

use super::bars::BARS;

const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASK: u32 = 0xFFFF;
const FIRST_BAR: u16 = 0x10;
const INTERRUPT_LINE: u16 = 0x3C;
const TYPE_64: u32 = 0b100;
const ADDRESS: u32 = !0xF;

/// Address space that is still free.
#[derive(Clone, Debug)]
pub struct Windows {
    low: Range<u64>,
    high: Range<u64>,
}

impl Windows {
    /// Returns the windows of the host bridge, below and above 4 GiB.
    #[must_use]
    pub const fn new(low: Range<u64>, high: Range<u64>) -> Self {
        Self { low, high }
    }

    /// Takes `size` bytes, a power of two: below 4 GiB if they fit, so that every guest reaches them.
    fn take(&mut self, size: u64, is_64: bool) -> Option<u64> {
        let above = is_64.then_some(&mut self.high);
        [Some(&mut self.low), above]
            .into_iter()
            .flatten()
            .find_map(|window| {
                let base = window.start.checked_next_multiple_of(size)?;
                let end = base.checked_add(size)?;
                (end <= window.end).then(|| {
                    window.start = end;
                    base
                })
            })
    }

    /// Gives the function's windows their addresses, and notes its interrupt.
    ///
    /// A window there is no room for stays where it is, and a function with one such stays silent.
    pub fn assign(&mut self, function: &mut dyn PciConfig, interrupt_line: u8) {
        let mut has_all = true;
        let mut bar = 0;
        while bar < BARS {
            let offset = FIRST_BAR + 4 * u16::try_from(bar).unwrap_or(0);
            let (size, is_64) = size(function, offset);
            if size != 0 {
                match self.take(size, is_64) {
                    Some(base) => place(function, offset, base, is_64),
                    None => has_all = false,
                }
            }
            bar += if is_64 { 2 } else { 1 };
        }
        if has_all {
            function.config_write(COMMAND, COMMAND_MEMORY, COMMAND_MASK);
        }
        function.config_write(INTERRUPT_LINE, interrupt_line.into(), 0xFF);
    }
}

/// Returns a window's size (0 without one) and whether its register has 64 bits.
fn size(function: &mut dyn PciConfig, offset: u16) -> (u64, bool) {
    let mut ones = |offset| {
        function.config_write(offset, u32::MAX, u32::MAX);
        function.config_read(offset)
    };
    let low = ones(offset);
    let is_64 = low & 0b111 == TYPE_64;
    let high = if is_64 { ones(offset + 4) } else { u32::MAX };
    let mask = u64::from(high) << 32 | u64::from(low & ADDRESS);
    let size = if low & ADDRESS == 0 && (!is_64 || high == 0) {
        0
    } else {
        (!mask).wrapping_add(1)
    };
    (size, is_64)
}

fn place(function: &mut dyn PciConfig, offset: u16, base: u64, is_64: bool) {
    let [a, b, c, d, e, f, g, h] = base.to_le_bytes();
    function.config_write(offset, u32::from_le_bytes([a, b, c, d]), u32::MAX);
    if is_64 {
        function.config_write(offset + 4, u32::from_le_bytes([e, f, g, h]), u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use stockade_bus::PciConfig;

    use super::Windows;
    use crate::pci::bars::{Bar, BarKind, BarRange};
    use crate::pci::endpoint::tests::{Registers, identity};
    use crate::pci::{Endpoint, Written};

    impl PciConfig for Registers {
        fn config_read(&mut self, offset: u16) -> u32 {
            self.0.read(offset)
        }

        fn config_write(&mut self, offset: u16, value: u32, mask: u32) {
            assert_eq!(self.0.write(offset, value, mask), Written::Nothing);
        }
    }

    fn function(size: u64) -> Registers {
        let bar = |number| Bar::try_new(number).unwrap();
        Registers(Endpoint::new(identity()).with_msix(bar(1), 2).with_bar(
            bar(4),
            BarKind::Memory64,
            size,
        ))
    }

    fn windows() -> Windows {
        Windows::new(0xC000_0000..0xFEC0_0000, 1 << 40..1 << 41)
    }

    #[test]
    fn windows_are_placed_one_after_the_other_aligned_and_answered() {
        let mut windows = windows();
        let (mut one, mut two) = (function(0x4000), function(0x4000));
        windows.assign(&mut one, 10);
        windows.assign(&mut two, 11);
        let at = |base, size| Some(BarRange { base, size });
        let none = None;
        assert_eq!(
            one.0.decoded(),
            [
                none,
                at(0xC000_0000, 0x1000),
                none,
                none,
                at(0xC000_4000, 0x4000),
                none
            ]
        );
        assert_eq!(
            two.0.decoded(),
            [
                none,
                at(0xC000_8000, 0x1000),
                none,
                none,
                at(0xC000_C000, 0x4000),
                none
            ]
        );
        assert_eq!(two.config_read(0x3C), 0x010B);
        assert!(!two.0.is_bus_master(), "for the driver to enable");
    }

    #[test]
    fn wide_window_that_does_not_fit_below_goes_above() {
        let mut function = function(1 << 32);
        windows().assign(&mut function, 10);
        let expected = BarRange {
            base: 1 << 40,
            size: 1 << 32,
        };
        assert_eq!(function.0.decoded()[4], Some(expected));
    }

    #[test]
    fn function_without_room_stays_silent() {
        let mut function = function(1 << 42);
        windows().assign(&mut function, 10);
        assert_eq!(function.0.decoded(), [None; 6]);
    }
}
