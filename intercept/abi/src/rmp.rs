//! The reverse map as a guest sees it: PVALIDATE and RMPADJUST (APM vol. 3, and volume 2, 15.36.3 to 15.36.7).

use bitflags::bitflags;
use core::fmt;

/// Page size operand of PVALIDATE and RMPADJUST: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(pub u32);

impl PageSize {
    /// 4 KiB.
    pub const SIZE_4K: Self = Self(0);
    /// 2 MiB.
    pub const SIZE_2M: Self = Self(1);

    /// Returns the size in bytes; anything but 2 MiB counts as 4 KiB, as in the instruction's bit 0.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        if self.0 & 1 == 1 { 2 << 20 } else { 4096 }
    }
}

/// What PVALIDATE and RMPADJUST leave in EAX: any number (APM vol. 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmpError(pub u32);

impl RmpError {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// FAIL_INPUT: an operand makes no sense.
    pub const FAIL_INPUT: Self = Self(1);
    /// FAIL_PERMISSION: the VMPL may not do that.
    pub const FAIL_PERMISSION: Self = Self(2);
    /// FAIL_INUSE: another processor holds the entry.
    pub const FAIL_INUSE: Self = Self(3);
    /// FAIL_SIZEMISMATCH: the RMP has the page in another size.
    pub const FAIL_SIZE_MISMATCH: Self = Self(6);
}

impl fmt::Display for RmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::SUCCESS => "success",
            Self::FAIL_INPUT => "invalid operand",
            Self::FAIL_PERMISSION => "no permission",
            Self::FAIL_INUSE => "entry in use",
            Self::FAIL_SIZE_MISMATCH => "page size mismatch",
            Self(other) => return write!(f, "RMP error {other}"),
        })
    }
}

bitflags! {
    /// What a VMPL may do with a page (APM table 15-38). Unknown bits are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RmpPermissions: u8 {
        /// Read.
        const READ = 1 << 0;
        /// Write.
        const WRITE = 1 << 1;
        /// Execute at CPL 3.
        const EXECUTE_USER = 1 << 2;
        /// Execute at CPL 0 to 2.
        const EXECUTE_SUPERVISOR = 1 << 3;
        /// Supervisor shadow stack.
        const SUPERVISOR_SHADOW_STACK = 1 << 4;
        const _ = !0;
    }
}

impl RmpPermissions {
    /// Read, write and execute.
    pub const READ_WRITE_EXECUTE: Self = Self::from_bits_retain(0xF);
    /// Read and execute, as of read-only memory.
    pub const READ_EXECUTE: Self = Self::from_bits_retain(0xD);
}

/// Whether RMPADJUST makes a page a VMSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmsaPage {
    /// The page is a VMSA; VMPL0 only.
    Yes,
    /// The page is ordinary.
    No,
}

/// Packs RDX of RMPADJUST: target VMPL 7:0, permissions 15:8, VMSA 16.
#[must_use]
pub const fn rmpadjust_attributes(vmpl: u8, permissions: RmpPermissions, vmsa: VmsaPage) -> u64 {
    vmpl as u64 | (permissions.bits() as u64) << 8 | (matches!(vmsa, VmsaPage::Yes) as u64) << 16
}

/// Returns target VMPL, permissions and the VMSA bit of RMPADJUST's RDX.
#[must_use]
pub const fn rmpadjust_parts(attributes: u64) -> (u8, RmpPermissions, VmsaPage) {
    let bytes = attributes.to_le_bytes();
    let vmsa = if bytes[2] & 1 == 1 {
        VmsaPage::Yes
    } else {
        VmsaPage::No
    };
    (bytes[0], RmpPermissions::from_bits_retain(bytes[1]), vmsa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_pack_as_the_instruction_takes_them() {
        let all = RmpPermissions::READ_WRITE_EXECUTE;
        assert_eq!(rmpadjust_attributes(2, all, VmsaPage::No), 0xF02);
        assert_eq!(
            rmpadjust_attributes(1, RmpPermissions::empty(), VmsaPage::Yes),
            0x1_0001
        );
        assert_eq!(rmpadjust_parts(0x1_0F03), (3, all, VmsaPage::Yes));
    }

    #[test]
    fn named_and_unnamed_errors_are_values() {
        assert_ne!(RmpError(5), RmpError::SUCCESS);
        assert_eq!(PageSize::SIZE_2M.bytes(), 0x20_0000);
    }
}
