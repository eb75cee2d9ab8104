//! The words of the reverse map: privilege levels, permissions, entries, and how operations on them end.

use crate::snp::addr::{Gpa, LARGE_PAGE_SIZE, PAGE_SIZE};
use bitfield_struct::bitfield;

/// How many privilege levels there are.
pub const VMPLS: usize = 4;

/// A virtual machine privilege level, 0 to 3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Vmpl(u8);

impl Vmpl {
    /// The most privileged level.
    pub const ZERO: Self = Self(0);

    /// The level `value`; `None` from 4 on.
    pub const fn try_new(value: u8) -> Option<Self> {
        if value < 4 { Some(Self(value)) } else { None }
    }

    /// The level as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The level as the number specifications use.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// What a VMPL may do with a page (APM vol. 2, table 15-38; bits 8-11 of RMPADJUST's RDX).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Permissions {
    /// Read.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Execute at CPL 3.
    pub user_execute: bool,
    /// Execute at CPL 0 to 2.
    pub supervisor_execute: bool,
    #[bits(4)]
    reserved: u8,
}

impl Permissions {
    /// Everything: what RMPUPDATE gives VMPL0.
    pub const ALL: Self = Self::from_bits(0x0F);
    /// Nothing: what RMPUPDATE gives VMPL1 to 3.
    pub const NONE: Self = Self::from_bits(0);

    /// Whether every permission of `other` is among these.
    pub const fn contains(self, other: Self) -> bool {
        other.into_bits() & !self.into_bits() == 0
    }
}

/// The size an RMP entry or an instruction speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl PageSize {
    /// Bytes of a page of this size.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => PAGE_SIZE,
            Self::Large => LARGE_PAGE_SIZE,
        }
    }
}

#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) assigned: bool,
    pub(super) validated: bool,
    pub(super) vmsa: bool,
    pub(super) immutable: bool,
    pub(super) large: bool,
    /// Bookkeeping of the model: the host could read the page at some time after launch.
    pub(super) ever_shared: bool,
    #[bits(2)]
    reserved: u8,
}

/// One entry, as seen from one small page: of a large entry, `gpa` is that of the page asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub(super) gpa: u64,
    pub(super) asid: u16,
    pub(super) flags: Flags,
    pub(super) permissions: [Permissions; VMPLS],
}

impl Entry {
    pub(super) const HYPERVISOR: Self = Self {
        gpa: 0,
        asid: 0,
        flags: Flags::new(),
        permissions: [Permissions::NONE; VMPLS],
    };

    /// Whether the page is assigned to a guest.
    pub const fn is_assigned(&self) -> bool {
        self.flags.assigned()
    }

    /// Whether the guest validated the page.
    pub const fn is_validated(&self) -> bool {
        self.flags.validated()
    }

    /// Whether the page may be a VMSA.
    pub const fn is_vmsa(&self) -> bool {
        self.flags.vmsa()
    }

    /// Whether the host could read the page at some time after launch.
    pub const fn was_ever_shared(&self) -> bool {
        self.flags.ever_shared()
    }

    /// The size of the entry.
    pub const fn size(&self) -> PageSize {
        if self.flags.large() {
            PageSize::Large
        } else {
            PageSize::Small
        }
    }

    /// Where the guest has the page.
    pub const fn gpa(&self) -> Gpa {
        Gpa::new(self.gpa)
    }

    /// What `vmpl` may do with the page.
    pub const fn permissions(&self, vmpl: Vmpl) -> Permissions {
        self.permissions[vmpl.index()]
    }

    /// Whether the page is this guest's, wherever the guest has it.
    pub const fn is_owned_by(&self, guest: Owner) -> bool {
        self.is_assigned() && self.asid == guest.asid && !self.flags.immutable()
    }

    pub(super) fn belongs_to(&self, guest: Owner, gpa: Gpa) -> bool {
        self.is_owned_by(guest) && self.gpa() == gpa.page()
    }

    pub(super) fn like(&self, other: &Self) -> bool {
        let known = |entry: &Self| entry.flags.with_ever_shared(false);
        known(self) == known(other)
            && self.asid == other.asid
            && self.permissions == other.permissions
    }
}

/// A guest as the RMP knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The guest's address-space id, never 0.
    pub asid: u16,
}

/// What RMPUPDATE is to write (APM vol. 3, RMPUPDATE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewState {
    /// The hypervisor's: any guest sees it as shared.
    Shared,
    /// A guest's, not validated.
    Private {
        /// Whose.
        owner: Owner,
        /// Where that guest has it.
        gpa: Gpa,
    },
}

/// Why the host's RMPUPDATE or PSMASH failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostFailure {
    /// FAIL_INPUT (1): misaligned, outside the RMP, or (PSMASH) not a large entry.
    Input,
    /// FAIL_PERMISSION (2): the entry is immutable.
    Permission,
    /// FAIL_OVERLAP (4): small entries are in the way of a large one, or the other way round.
    Overlap,
}

/// What an access is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// Why hardware refuses a guest's access (APM vol. 2, 15.36.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// The page is not this guest's at this address: #VMEXIT(NPF), error code bit 31.
    NotOwned,
    /// The page is this guest's but not validated: #VC, code 0x404, at the running VMPL.
    NotValidated,
    /// The VMPL lacks the permission: #VMEXIT(NPF), error code bits 31 and 36.
    Vmpl,
}

/// How a guest's RMP instruction ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// It retires with success.
    Done(T),
    /// It retires with a code in EAX.
    Fail(FailCode),
    /// #VMEXIT(NPF): the page is not this guest's.
    NotOwned,
    /// #VMEXIT(NPF) with the size-mismatch bit: the host must PSMASH and let it run again.
    NeedsSmash,
    /// #VC, page not validated.
    NotValidated,
}

/// The codes RMP instructions leave in EAX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum FailCode {
    /// FAIL_INPUT.
    Input = 1,
    /// FAIL_PERMISSION.
    Permission = 2,
    /// FAIL_SIZEMISMATCH.
    SizeMismatch = 6,
}

/// Whether PVALIDATE changed anything; the carry flag is its opposite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The validated bit was the other way before.
    Changed,
    /// It was so already.
    Unchanged,
}

/// What RMPADJUST is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adjustment {
    /// The VMPL that asks.
    pub current: Vmpl,
    /// The VMPL whose permissions change.
    pub target: Vmpl,
    /// Its new permissions.
    pub permissions: Permissions,
    /// Whether the page may be a VMSA from now on; only VMPL0's word counts.
    pub vmsa: bool,
}
