//! The shapes of page tables: 32-bit, PAE, four and five levels.

use stockade_bus::Gpa;

use super::{Translation, WalkContext, control};

pub(super) const PRESENT: u64 = 1 << 0;
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// The paging modes with tables. APM vol. 2, 5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Two levels of four-byte entries; 4 MiB pages with CR4.PSE.
    Legacy { has_large: bool },
    /// Three levels of eight-byte entries.
    Pae,
    /// Four or five levels.
    Long { levels: u8 },
}

/// How entries of the current mode are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    mode: Mode,
    phys_bits: u32,
    has_no_execute: bool,
}

impl Format {
    /// Returns the format in force, or `None` without paging.
    pub(super) fn of(context: &WalkContext) -> Option<Self> {
        if context.cr0 & control::CR0_PG == 0 {
            return None;
        }
        let mode = if context.cr4 & control::CR4_PAE == 0 {
            Mode::Legacy {
                has_large: context.cr4 & control::CR4_PSE != 0,
            }
        } else if !context.is_long() {
            Mode::Pae
        } else if context.cr4 & control::CR4_LA57 != 0 {
            Mode::Long { levels: 5 }
        } else {
            Mode::Long { levels: 4 }
        };
        Some(Self {
            mode,
            phys_bits: u32::from(context.phys_bits).clamp(32, 52),
            has_no_execute: context.has_no_execute(),
        })
    }

    /// Returns the address as the tables take it, or `None` if it is not canonical.
    pub(super) fn linear(&self, address: u64) -> Option<u64> {
        match self.mode {
            Mode::Legacy { .. } | Mode::Pae => Some(address & 0xFFFF_FFFF),
            Mode::Long { levels } => {
                let high = address.cast_signed() >> (11 + 9 * u32::from(levels));
                (high == 0 || high == -1).then_some(address)
            }
        }
    }

    /// Returns the address of the first table.
    pub(super) fn root(&self, cr3: u64) -> Gpa {
        Gpa(match self.mode {
            Mode::Legacy { .. } => cr3 & 0xFFFF_F000,
            Mode::Pae => cr3 & 0xFFFF_FFE0,
            Mode::Long { .. } => cr3 & ADDRESS,
        })
    }

    pub(super) fn levels(&self) -> u8 {
        match self.mode {
            Mode::Legacy { .. } => 2,
            Mode::Pae => 3,
            Mode::Long { levels } => levels,
        }
    }

    pub(super) fn entry_width(&self) -> u8 {
        match self.mode {
            Mode::Legacy { .. } => 4,
            Mode::Pae | Mode::Long { .. } => 8,
        }
    }

    /// Returns the number of the entry for `address` in a table of `level`.
    pub(super) fn index(&self, address: u64, level: u8) -> u64 {
        let mask = match self.mode {
            Mode::Legacy { .. } => 0x3FF,
            Mode::Pae if level == 3 => 3,
            Mode::Pae | Mode::Long { .. } => 0x1FF,
        };
        (address >> self.shift(level)) & mask
    }

    /// Returns whether entries of `level` carry rights and an accessed bit: all but PAE's four pointers.
    pub(super) fn has_rights(&self, level: u8) -> bool {
        self.mode != Mode::Pae || level < 3
    }

    /// Returns whether an entry maps a page instead of pointing to a table.
    pub(super) fn is_leaf(&self, level: u8, value: u64) -> bool {
        let is_large = value & LARGE != 0;
        match (self.mode, level) {
            (_, 1) => true,
            (Mode::Legacy { has_large }, _) => has_large && is_large,
            (Mode::Pae, 2) | (Mode::Long { .. }, 2 | 3) => is_large,
            _ => false,
        }
    }

    /// Returns the bits that must be zero in an entry. APM vol. 2, 5.2 to 5.4.
    pub(super) fn reserved(&self, level: u8, value: u64) -> u64 {
        let is_leaf = self.is_leaf(level, value);
        let no_execute = if self.has_no_execute { 0 } else { NO_EXECUTE };
        match self.mode {
            Mode::Legacy { .. } if is_leaf && level == 2 => {
                let upper = bits(self.phys_bits.min(40), 40) >> 19;
                (1 << 21) | upper
            }
            Mode::Legacy { .. } => 0,
            // Processors that walk the four pointers like any entry mark them accessed, so bit 5 is not held against the guest.
            Mode::Pae if level == 3 => bits(self.phys_bits, 64) | 0x1C6,
            Mode::Pae => bits(self.phys_bits, 63) | no_execute | self.low_reserved(level, is_leaf),
            Mode::Long { .. } => {
                bits(self.phys_bits, 52) | no_execute | self.low_reserved(level, is_leaf)
            }
        }
    }

    /// Returns the reserved bits below the address: those under a large page's alignment, and the top tables' bits 7 and 8.
    fn low_reserved(&self, level: u8, is_leaf: bool) -> u64 {
        match level {
            4 | 5 => 0x180,
            2 | 3 if is_leaf => bits(13, self.shift(level)),
            _ => 0,
        }
    }

    /// Returns the next table an entry points to.
    pub(super) fn table(&self, value: u64) -> Gpa {
        Gpa(value & ADDRESS)
    }

    /// Returns where `address` lies in the page an entry of `level` maps.
    pub(super) fn leaf(&self, level: u8, value: u64, address: u64) -> Translation {
        let page_bytes = 1 << self.shift(level);
        let offset = address & (page_bytes - 1);
        let base = match self.mode {
            Mode::Legacy { .. } if level == 2 => {
                (value & 0xFFC0_0000) | ((value & 0x001F_E000) << 19)
            }
            _ => value & ADDRESS & !(page_bytes - 1),
        };
        Translation {
            gpa: Gpa(base | offset),
            page_bytes,
        }
    }

    fn shift(&self, level: u8) -> u32 {
        let bits = match self.mode {
            Mode::Legacy { .. } => 10,
            Mode::Pae | Mode::Long { .. } => 9,
        };
        12 + bits * u32::from(level - 1)
    }
}

/// Returns a word with the bits from `low` up to but not including `high` set.
fn bits(low: u32, high: u32) -> u64 {
    let below = |count: u32| 1_u64.checked_shl(count).map_or(u64::MAX, |bit| bit - 1);
    below(high) & !below(low)
}
