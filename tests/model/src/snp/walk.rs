//! The guest's own page tables, walked by the model where hardware would have: to read the bytes of an intercepted
//! instruction, to deliver #VC, to translate the operand of PVALIDATE.
//!
//! Pure: entries are read through a closure. Protection keys, SMEP and SMAP are not looked at, and accessed and dirty
//! bits are not written: all callers touch pages the guest is using just now, as supervisor.

/// What decides a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// CR0.PE.
pub const CR0_PE: u64 = 1;
/// CR0.WP.
pub const CR0_WP: u64 = 1 << 16;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PSE.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.LA57.
pub const CR4_LA57: u64 = 1 << 12;
/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER.SVME.
pub const EFER_SVME: u64 = 1 << 12;
/// EFER.NXE.
pub const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// How the address is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// Who uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// CPL 3.
    User,
    /// CPL 0 to 2, or the processor itself.
    Supervisor,
}

/// A page fault: its error code (APM vol. 2, 8.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The error code.
    pub code: u32,
}

/// Why a translation failed: in the guest's tables, or on the way to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError<E> {
    /// The guest's tables refuse.
    Fault(PageFault),
    /// An entry could not be read.
    Entry(E),
}

/// A width of page-table entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryWidth {
    /// 32 bits, at an address aligned to 4.
    Four,
    /// 64 bits.
    Eight,
}

impl Paging {
    /// Whether paging is on.
    pub const fn is_on(&self) -> bool {
        self.cr0 & CR0_PG != 0
    }

    /// Whether entries are wide enough for a C-bit (APM vol. 2, 15.34.4): PAE or long mode.
    pub const fn has_c_bit(&self) -> bool {
        self.is_on() && self.cr4 & CR4_PAE != 0
    }

    /// Whether long mode is active.
    pub const fn is_long(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Translates a linear address to a guest-physical one, C-bit and all.
    pub fn translate<E>(
        &self,
        linear: u64,
        usage: Use,
        privilege: Privilege,
        mut read: impl FnMut(u64, EntryWidth) -> Result<u64, E>,
    ) -> Result<u64, WalkError<E>> {
        if !self.is_on() {
            return Ok(linear & 0xFFFF_FFFF);
        }
        if self.cr4 & CR4_PAE == 0 {
            return self.translate_legacy(linear, usage, privilege, &mut read);
        }
        let levels = match (self.is_long(), self.cr4 & CR4_LA57 != 0) {
            (true, true) => 5,
            (true, false) => 4,
            (false, _) => 3,
        };
        let mut table = match levels {
            3 => self.cr3 & 0xFFFF_FFE0,
            _ => self.cr3 & ADDRESS,
        };
        let mut rights = WRITABLE | USER;
        let mut no_execute = 0;
        for level in (0..levels).rev() {
            let index =
                linear >> (12 + 9 * level) & if levels == 3 && level == 2 { 3 } else { 0x1FF };
            let entry = read(table + index * 8, EntryWidth::Eight).map_err(WalkError::Entry)?;
            if entry & PRESENT == 0 {
                return Err(WalkError::Fault(self.fault(usage, privilege, 0)));
            }
            // The entries of the four-entry table of legacy PAE have no rights.
            if levels != 3 || level != 2 {
                rights &= entry;
                no_execute |= entry & NO_EXECUTE;
            }
            if level == 0 || (entry & LARGE != 0 && level <= 2 && (levels != 3 || level == 1)) {
                self.check(rights, no_execute, usage, privilege)
                    .map_err(WalkError::Fault)?;
                let offset_mask = (1_u64 << (12 + 9 * level)) - 1;
                return Ok((entry & ADDRESS & !offset_mask) | (linear & offset_mask));
            }
            table = entry & ADDRESS;
        }
        Err(WalkError::Fault(self.fault(usage, privilege, 0)))
    }

    fn translate_legacy<E>(
        &self,
        linear: u64,
        usage: Use,
        privilege: Privilege,
        read: &mut impl FnMut(u64, EntryWidth) -> Result<u64, E>,
    ) -> Result<u64, WalkError<E>> {
        let mut absent = |address| {
            let entry = read(address, EntryWidth::Four).map_err(WalkError::Entry)?;
            if entry & PRESENT == 0 {
                return Err(WalkError::Fault(self.fault(usage, privilege, 0)));
            }
            Ok(entry)
        };
        let directory = absent((self.cr3 & 0xFFFF_F000) + (linear >> 22 & 0x3FF) * 4)?;
        if directory & LARGE != 0 && self.cr4 & CR4_PSE != 0 {
            self.check(directory, 0, usage, privilege)
                .map_err(WalkError::Fault)?;
            let high = (directory >> 13 & 0xFF) << 32;
            return Ok(high | (directory & 0xFFC0_0000) | (linear & 0x3F_FFFF));
        }
        let entry = absent((directory & 0xFFFF_F000) + (linear >> 12 & 0x3FF) * 4)?;
        self.check(directory & entry, 0, usage, privilege)
            .map_err(WalkError::Fault)?;
        Ok((entry & 0xFFFF_F000) | (linear & 0xFFF))
    }

    fn check(
        &self,
        rights: u64,
        no_execute: u64,
        usage: Use,
        privilege: Privilege,
    ) -> Result<(), PageFault> {
        let user = privilege == Privilege::User;
        let no_user = user && rights & USER == 0;
        let write_protected = rights & WRITABLE == 0 && (user || self.cr0 & CR0_WP != 0);
        let refused = match usage {
            Use::Read => no_user,
            Use::Write => no_user || write_protected,
            Use::Fetch => no_user || (no_execute != 0 && self.efer & EFER_NXE != 0),
        };
        if refused {
            Err(self.fault(usage, privilege, 1))
        } else {
            Ok(())
        }
    }

    fn fault(&self, usage: Use, privilege: Privilege, protection: u32) -> PageFault {
        let mut code = protection;
        if usage == Use::Write {
            code |= 2;
        }
        if privilege == Privilege::User {
            code |= 4;
        }
        if usage == Use::Fetch && self.efer & EFER_NXE != 0 && self.cr4 & CR4_PAE != 0 {
            code |= 0x10;
        }
        PageFault { code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const LONG: Paging = Paging {
        cr0: CR0_PE | CR0_PG | CR0_WP,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LMA | EFER_NXE,
    };

    fn walk(
        paging: Paging,
        entries: &[(u64, u64)],
        linear: u64,
        usage: Use,
        privilege: Privilege,
    ) -> Result<u64, WalkError<u64>> {
        let entries: HashMap<u64, u64> = entries.iter().copied().collect();
        paging.translate(linear, usage, privilege, |address, _| {
            entries.get(&address).copied().ok_or(address)
        })
    }

    /// The C-bit stands in the tables: each table address and the result carry it as written.
    #[test]
    fn long_mode_walk_keeps_the_c_bit() {
        let c = 1 << 51;
        let paging = Paging {
            cr3: 0x1000 | c,
            ..LONG
        };
        let tables = [
            (0x1000 | c, 0x2003 | c),
            (0x2000 | c, 0x3003 | c),
            (0x3000 | c, 0x4003 | c),
            (0x4028 | c, 0x9003 | c),
        ];
        assert_eq!(
            walk(paging, &tables, 0x5123, Use::Write, Privilege::Supervisor),
            Ok(0x9123 | c)
        );
    }

    #[test]
    fn large_pages_end_the_walk_early() {
        let tables = [(0x1000, 0x2003), (0x2000, 0x3003), (0x3008, 0x4000_0083)];
        assert_eq!(
            walk(LONG, &tables, 0x20_5123, Use::Read, Privilege::Supervisor),
            Ok(0x4000_5123)
        );
        let giant = [(0x1000, 0x2003), (0x2008, 0x8000_0083)];
        assert_eq!(
            walk(LONG, &giant, 0x4020_5123, Use::Read, Privilege::Supervisor),
            Ok(0x8020_5123)
        );
    }

    #[test]
    fn refusals_carry_the_error_code_of_the_access() {
        let tables = [
            (0x1000, 0x2003),
            (0x2000, 0x3003),
            (0x3000, 0x4003),
            (0x4000, 0x9001 | NO_EXECUTE),
        ];
        let fault = |code| Err(WalkError::Fault(PageFault { code }));
        assert_eq!(
            walk(LONG, &tables, 0, Use::Write, Privilege::Supervisor),
            fault(3)
        );
        assert_eq!(
            walk(LONG, &tables, 0, Use::Fetch, Privilege::Supervisor),
            fault(0x11)
        );
        assert_eq!(walk(LONG, &tables, 0, Use::Read, Privilege::User), fault(5));
        assert_eq!(
            walk(LONG, &[(0x1000, 0)], 0, Use::Write, Privilege::User),
            fault(6)
        );
    }

    #[test]
    fn without_write_protect_the_supervisor_writes_anywhere() {
        let paging = Paging {
            cr0: CR0_PE | CR0_PG,
            ..LONG
        };
        let tables = [
            (0x1000, 0x2001),
            (0x2000, 0x3001),
            (0x3000, 0x4001),
            (0x4000, 0x9001),
        ];
        assert_eq!(
            walk(paging, &tables, 0, Use::Write, Privilege::Supervisor),
            Ok(0x9000)
        );
    }

    #[test]
    fn an_unreadable_entry_is_told_apart_from_a_fault() {
        assert_eq!(
            walk(LONG, &[], 0, Use::Read, Privilege::Supervisor),
            Err(WalkError::Entry(0x1000))
        );
    }

    #[test]
    fn legacy_modes_translate_too() {
        let off = Paging {
            cr0: CR0_PE,
            ..LONG
        };
        assert_eq!(
            walk(off, &[], 0x1_2345_6789, Use::Read, Privilege::Supervisor),
            Ok(0x2345_6789)
        );
        let two_level = Paging {
            cr4: CR4_PSE,
            efer: 0,
            ..LONG
        };
        let tables = [(0x1004, 0x2003), (0x2004, 0x7003)];
        assert_eq!(
            walk(
                two_level,
                &tables,
                0x40_1234,
                Use::Write,
                Privilege::Supervisor
            ),
            Ok(0x7234)
        );
        assert_eq!(
            walk(
                two_level,
                &[(0x1000, 0x80_0083)],
                0x1234,
                Use::Read,
                Privilege::Supervisor
            ),
            Ok(0x80_1234)
        );
        let pae = Paging {
            efer: 0,
            cr3: 0x1020,
            ..LONG
        };
        let tables = [(0x1028, 0x2001), (0x2000, 0x60_00E3)];
        assert_eq!(
            walk(pae, &tables, 0x4000_1234, Use::Write, Privilege::Supervisor),
            Ok(0x60_1234)
        );
    }
}
