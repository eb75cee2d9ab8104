//! Memory type range registers (APM vol. 2, 7.7).
//!
//! Modelled in full, because firmware programs them and kernels compare them between processors. The types have no effect: guest
//! RAM is cached however the host's tables say, devices are never memory.

use stockade_bus::Gpa;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::number::Msr;

/// Variable ranges.
const VARIABLE: u32 = 8;
/// Number of the fixed-range registers, in the order of their addresses.
const FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F,
];

/// In MTRRCAP: fixed ranges and write-combining exist.
const CAP_FIXED: u64 = 1 << 8;
const CAP_WRITE_COMBINING: u64 = 1 << 10;

/// In MTRRdefType: fixed ranges count; all ranges count.
const DEF_FIXED_ENABLE: u64 = 1 << 10;
const DEF_ENABLE: u64 = 1 << 11;
/// In a variable range's mask: the range counts.
const MASK_VALID: u64 = 1 << 11;

const UNCACHEABLE: u8 = 0;
const WRITE_PROTECT: u8 = 5;
const WRITE_BACK: u8 = 6;

/// Address bits of a variable range.
const ADDRESS: u64 = ((1 << crate::cpuid::PHYSICAL_ADDRESS_BITS) - 1) & !0xFFF;

/// The MTRRs of one vCPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Mtrrs {
    def_type: u64,
    fixed: [u64; FIXED.len()],
    variable: [[u64; 2]; VARIABLE as usize],
}

impl Mtrrs {
    /// MTRRCAP.
    pub(super) const CAP: u64 = VARIABLE as u64 | CAP_FIXED | CAP_WRITE_COMBINING;

    /// All off, as after power-on.
    pub(super) const fn new() -> Self {
        Self {
            def_type: 0,
            fixed: [0; FIXED.len()],
            variable: [[0; 2]; VARIABLE as usize],
        }
    }

    /// What firmware leaves behind: memory cached, the hole below 4 GiB from `hole` on not, video memory not, ROM protected.
    ///
    /// `hole` is rounded so that two ranges say it: up to 3 GiB, and from 3 to 4 GiB.
    pub(super) fn firmware(hole: Gpa) -> Self {
        let mut mtrrs = Self {
            def_type: DEF_ENABLE | DEF_FIXED_ENABLE | u64::from(WRITE_BACK),
            ..Self::new()
        };
        mtrrs.fixed = [WRITE_BACK; FIXED.len()].map(|kind| u64::from_le_bytes([kind; 8]));
        mtrrs.fixed[2] = u64::from_le_bytes([UNCACHEABLE; 8]);
        for rom in &mut mtrrs.fixed[3..] {
            *rom = u64::from_le_bytes([WRITE_PROTECT; 8]);
        }
        let three_gib = 3 << 30;
        mtrrs.variable[0] = Self::range(three_gib, 1 << 30);
        if let Some(size) = three_gib
            .checked_sub(hole.0)
            .filter(|size| size.is_power_of_two())
            && hole.0.is_multiple_of(size)
        {
            mtrrs.variable[1] = Self::range(hole.0, size);
        }
        mtrrs
    }

    const fn range(base: u64, size: u64) -> [u64; 2] {
        [
            base & ADDRESS | UNCACHEABLE as u64,
            !(size - 1) & ADDRESS | MASK_VALID,
        ]
    }

    /// Reads a register; `None` if `msr` is none of these.
    pub(super) fn read(&self, msr: Msr) -> Option<u64> {
        match Register::from_msr(msr)? {
            Register::Cap => Some(Self::CAP),
            Register::DefType => Some(self.def_type),
            Register::Fixed(index) => self.fixed.get(index).copied(),
            Register::Variable(index, half) => self
                .variable
                .get(index)
                .and_then(|pair| pair.get(half))
                .copied(),
        }
    }

    /// Writes a register; `None` if `msr` is none of these, `Some(false)` if the value is illegal.
    pub(super) fn write(&mut self, msr: Msr, value: u64) -> Option<bool> {
        let register = Register::from_msr(msr)?;
        let place = match register {
            Register::Cap => None,
            Register::DefType => Some(&mut self.def_type),
            Register::Fixed(index) => self.fixed.get_mut(index),
            Register::Variable(index, half) => self
                .variable
                .get_mut(index)
                .and_then(|pair| pair.get_mut(half)),
        };
        Some(match place {
            Some(place) if register.is_legal(value) => {
                *place = value;
                true
            }
            _ => false,
        })
    }

    /// Returns whether every register holds what could have been written.
    pub(super) fn is_legal(&self) -> bool {
        let Self {
            def_type,
            fixed,
            variable,
        } = self;
        Register::DefType.is_legal(*def_type)
            && fixed
                .iter()
                .all(|value| Register::Fixed(0).is_legal(*value))
            && variable.iter().all(|[base, mask]| {
                Register::Variable(0, 0).is_legal(*base) && Register::Variable(0, 1).is_legal(*mask)
            })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Cap,
    DefType,
    Fixed(usize),
    Variable(usize, usize),
}

impl Register {
    fn from_msr(msr: Msr) -> Option<Self> {
        let first = Msr::MTRR_VARIABLE_0.0;
        match msr {
            Msr::MTRR_CAP => Some(Self::Cap),
            Msr::MTRR_DEF_TYPE => Some(Self::DefType),
            Msr(number) if (first..first + 2 * VARIABLE).contains(&number) => {
                let offset = usize::try_from(number - first).ok()?;
                Some(Self::Variable(offset / 2, offset % 2))
            }
            Msr(number) => FIXED
                .iter()
                .position(|fixed| *fixed == number)
                .map(Self::Fixed),
        }
    }

    fn is_legal(self, value: u64) -> bool {
        match self {
            Self::Cap => false,
            Self::DefType => {
                value & !(DEF_ENABLE | DEF_FIXED_ENABLE | 0xFF) == 0
                    && is_type(value.to_le_bytes()[0])
            }
            Self::Fixed(_) => value.to_le_bytes().into_iter().all(is_type),
            Self::Variable(_, 0) => {
                value & !(ADDRESS | 0xFF) == 0 && is_type(value.to_le_bytes()[0])
            }
            Self::Variable(..) => value & !(ADDRESS | MASK_VALID) == 0,
        }
    }
}

/// Uncacheable, write-combining, write-through, write-protect, write-back.
const fn is_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_reads_back_what_was_legal_to_write() {
        let mut mtrrs = Mtrrs::new();
        let numbers = FIXED.into_iter().chain(0x200..=0x20F).chain([0x2FF]);
        for number in numbers {
            let value = match number {
                0x2FF => 0xC06,
                0x200..=0x20F if number % 2 == 0 => 0x01FF_FFFF_F006,
                0x200..=0x20F => 0x01FF_FFFF_F800,
                _ => 0x0601_0405_0600_0504,
            };
            assert_eq!(mtrrs.write(Msr(number), value), Some(true), "{number:#x}");
            assert_eq!(mtrrs.read(Msr(number)), Some(value), "{number:#x}");
        }
        assert!(mtrrs.is_legal());
    }

    #[test]
    fn reserved_types_and_addresses_are_refused_and_change_nothing() {
        let mut mtrrs = Mtrrs::new();
        for (number, value) in [
            (0x2FF, 2),
            (0x2FF, 0x1006),
            (0x250, 0x0600_0000_0003_0000),
            (0x200, 0x0200_0000_0006),
            (0x200, 0x106),
            (0x200, 0x7),
            (0x201, 0x400),
            (0x201, 1 << 41),
            (0xFE, 0),
        ] {
            assert_eq!(
                mtrrs.write(Msr(number), value),
                Some(false),
                "{number:#x} {value:#x}"
            );
        }
        assert_eq!(mtrrs, Mtrrs::new());
        assert_eq!(mtrrs.read(Msr(0xFE)), Some(0x508));
    }

    #[test]
    fn neighbours_are_not_ours() {
        for number in [
            0x1FF, 0x210, 0x251, 0x25A, 0x267, 0x270, 0x277, 0x2FE, 0x300,
        ] {
            assert_eq!(Mtrrs::new().read(Msr(number)), None, "{number:#x}");
            assert_eq!(Mtrrs::new().write(Msr(number), 0), None, "{number:#x}");
        }
    }

    #[test]
    fn firmware_leaves_memory_cached_and_the_hole_not() {
        let mtrrs = Mtrrs::firmware(Gpa(0xB000_0000));
        assert!(mtrrs.is_legal());
        assert_eq!(mtrrs.read(Msr(0x2FF)), Some(0xC06));
        assert_eq!(mtrrs.read(Msr(0x200)), Some(0xC000_0000));
        assert_eq!(mtrrs.read(Msr(0x201)), Some(0x01FF_C000_0800));
        assert_eq!(mtrrs.read(Msr(0x202)), Some(0xB000_0000));
        assert_eq!(mtrrs.read(Msr(0x203)), Some(0x01FF_F000_0800));
        assert_eq!(mtrrs.read(Msr(0x250)), Some(0x0606_0606_0606_0606));
        assert_eq!(mtrrs.read(Msr(0x259)), Some(0));
        assert_eq!(mtrrs.read(Msr(0x26F)), Some(0x0505_0505_0505_0505));
    }

    #[test]
    fn odd_hole_gets_only_the_upper_range() {
        for hole in [0x9000_0000, 0xFFFF_FFFF_FFFF, 0xC000_0000, 0x7000_0001] {
            assert!(Mtrrs::firmware(Gpa(hole)).is_legal());
            assert_eq!(
                Mtrrs::firmware(Gpa(hole)).read(Msr(0x203)),
                Some(0),
                "{hole:#x}"
            );
        }
    }
}
