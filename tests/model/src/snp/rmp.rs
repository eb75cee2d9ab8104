//! The reverse map table (APM vol. 2, 15.36.3): for each page of host memory, to whom it belongs.
//!
//! Four operations change it: [`Rmp::update`] (RMPUPDATE) and [`Rmp::psmash`] by the host, [`Rmp::pvalidate`] and
//! [`Rmp::adjust`] (RMPADJUST) by a guest. [`Rmp::check_guest`] and [`Rmp::check_host_write`] are the checks hardware
//! makes on each access. A large entry lives at the first page of its 2 MiB; the 511 others below it are ignored.

use super::addr::{Gpa, LARGE_PAGE_SIZE, PAGE_SIZE, PAGES_PER_LARGE, Phys};
use alloc::vec;
use alloc::vec::Vec;
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
struct Flags {
    assigned: bool,
    validated: bool,
    vmsa: bool,
    immutable: bool,
    large: bool,
    /// Bookkeeping of the model: the host could read the page at some time after launch.
    ever_shared: bool,
    #[bits(2)]
    reserved: u8,
}

/// One entry, as seen from one small page: of a large entry, `gpa` is that of the page asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    gpa: u64,
    asid: u16,
    flags: Flags,
    permissions: [Permissions; VMPLS],
}

impl Entry {
    const HYPERVISOR: Self = Self {
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

    fn belongs_to(&self, guest: Owner, gpa: Gpa) -> bool {
        self.is_owned_by(guest) && self.gpa() == gpa.page()
    }

    fn like(&self, other: &Self) -> bool {
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

/// The table for one block of host memory.
pub struct Rmp {
    base: u64,
    entries: Vec<Entry>,
}

impl Rmp {
    /// A table for `[base, base + len)`, all of it the hypervisor's. `base` is aligned to 2 MiB.
    pub fn new(base: Phys, len: u64) -> Self {
        let pages = usize::try_from(len / PAGE_SIZE).unwrap_or(0);
        Self {
            base: base.get(),
            entries: vec![Entry::HYPERVISOR; pages],
        }
    }

    /// The entry that governs the page at `host`; memory the table does not cover is the hypervisor's.
    pub fn entry(&self, host: Phys) -> Entry {
        let Some(index) = self.index(host) else {
            return Entry::HYPERVISOR;
        };
        let mut entry = self.entries[self.governing(index)];
        entry.gpa += PAGE_SIZE * (index - self.governing(index)) as u64;
        entry
    }

    /// Whether the 2 MiB at `host` are alike but for ascending guest addresses: a large nested entry may map them.
    pub fn is_uniform(&self, host: Phys) -> bool {
        let Some(first) = self
            .index(host)
            .filter(|index| index % PAGES_PER_LARGE == 0)
        else {
            return false;
        };
        let head = self.entries[first];
        if head.flags.large() {
            return true;
        }
        let Some(pages) = self.entries.get(first..first + PAGES_PER_LARGE) else {
            return false;
        };
        let ascending = |(page, offset): (&Entry, u64)| {
            !page.is_assigned() || page.gpa == head.gpa + offset * PAGE_SIZE
        };
        head.gpa.is_multiple_of(LARGE_PAGE_SIZE)
            && pages.iter().all(|page| page.like(&head))
            && pages.iter().zip(0u64..).all(ascending)
    }

    /// RMPUPDATE (APM vol. 3): the host gives a page to a guest or takes it back. VMPL0 gets every permission, the others
    /// none; a page given is not validated.
    pub fn update(
        &mut self,
        host: Phys,
        size: PageSize,
        state: NewState,
    ) -> Result<(), HostFailure> {
        let index = self.index(host).ok_or(HostFailure::Input)?;
        if size == PageSize::Large && !index.is_multiple_of(PAGES_PER_LARGE) {
            return Err(HostFailure::Input);
        }
        self.check_no_overlap(index, size)?;
        let old = self.entries[index];
        if old.flags.immutable() {
            return Err(HostFailure::Permission);
        }
        self.entries[index] = match state {
            NewState::Shared => Entry {
                flags: Flags::new().with_ever_shared(true),
                ..Entry::HYPERVISOR
            },
            NewState::Private { owner, gpa } => Entry {
                gpa: gpa.page().get(),
                asid: owner.asid,
                flags: Flags::new()
                    .with_assigned(true)
                    .with_large(size == PageSize::Large)
                    .with_ever_shared(old.flags.ever_shared()),
                permissions: [
                    Permissions::ALL,
                    Permissions::NONE,
                    Permissions::NONE,
                    Permissions::NONE,
                ],
            },
        };
        if size == PageSize::Large && state == NewState::Shared {
            let head = self.entries[index];
            self.entries[index..index + PAGES_PER_LARGE].fill(head);
        }
        Ok(())
    }

    /// PSMASH (APM vol. 3): splits the large entry that governs `host` into 512 small ones with the same attributes.
    pub fn psmash(&mut self, host: Phys) -> Result<(), HostFailure> {
        let index = self.index(host).ok_or(HostFailure::Input)?;
        let first = self.governing(index);
        let head = self.entries[first];
        if !head.flags.large() {
            return Err(HostFailure::Input);
        }
        let mut gpa = head.gpa;
        for page in &mut self.entries[first..first + PAGES_PER_LARGE] {
            let ever_shared = head.flags.ever_shared() || page.flags.ever_shared();
            *page = Entry {
                gpa,
                flags: head.flags.with_large(false).with_ever_shared(ever_shared),
                ..head
            };
            gpa += PAGE_SIZE;
        }
        Ok(())
    }

    /// What the PSP does to a page at launch (SNP firmware ABI, SNP_LAUNCH_UPDATE): validated, or a VMSA.
    pub fn launch(
        &mut self,
        host: Phys,
        owner: Owner,
        gpa: Gpa,
        permissions: [Permissions; VMPLS],
        vmsa: bool,
    ) {
        if let Some(index) = self.index(host) {
            let flags = Flags::new()
                .with_assigned(true)
                .with_validated(true)
                .with_vmsa(vmsa);
            self.entries[index] = Entry {
                gpa: gpa.page().get(),
                asid: owner.asid,
                flags,
                permissions,
            };
        }
    }

    /// The check on a guest's private access (APM vol. 2, 15.36.10): ownership, then validation, then permission.
    pub fn check_guest(
        &self,
        host: Phys,
        owner: Owner,
        gpa: Gpa,
        vmpl: Vmpl,
        kind: AccessKind,
    ) -> Result<(), Violation> {
        let entry = self.entry(host);
        if !entry.belongs_to(owner, gpa) {
            return Err(Violation::NotOwned);
        }
        if !entry.is_validated() {
            return Err(Violation::NotValidated);
        }
        let allowed = entry.permissions(vmpl);
        let granted = match kind {
            AccessKind::Read => allowed.read(),
            AccessKind::Write => allowed.write(),
            AccessKind::Fetch => allowed.user_execute() || allowed.supervisor_execute(),
        };
        if granted {
            Ok(())
        } else {
            Err(Violation::Vmpl)
        }
    }

    /// The check on a write by the hypervisor, or by a guest without the C-bit: the page must not be a guest's.
    pub fn check_host_write(&self, host: Phys) -> Result<(), Violation> {
        if self.entry(host).is_assigned() {
            Err(Violation::NotOwned)
        } else {
            Ok(())
        }
    }

    /// PVALIDATE (APM vol. 3) on the page at `gpa`, which the nested tables put at `host`.
    pub fn pvalidate(
        &mut self,
        host: Phys,
        owner: Owner,
        gpa: Gpa,
        size: PageSize,
        validate: bool,
    ) -> Outcome<Change> {
        if size == PageSize::Large && gpa != gpa.large_page() {
            return Outcome::Fail(FailCode::Input);
        }
        let entry = self.entry(host);
        if !entry.belongs_to(owner, gpa) || entry.is_vmsa() || entry.flags.immutable() {
            return Outcome::NotOwned;
        }
        match (size, entry.size()) {
            (PageSize::Large, PageSize::Small) => return Outcome::Fail(FailCode::SizeMismatch),
            (PageSize::Small, PageSize::Large) => return Outcome::NeedsSmash,
            _ => {}
        }
        if entry.is_validated() == validate {
            return Outcome::Done(Change::Unchanged);
        }
        self.change(host, |entry| entry.flags.set_validated(validate));
        Outcome::Done(Change::Changed)
    }

    /// RMPADJUST (APM vol. 3).
    pub fn adjust(
        &mut self,
        host: Phys,
        owner: Owner,
        gpa: Gpa,
        size: PageSize,
        what: Adjustment,
    ) -> Outcome<()> {
        if size == PageSize::Large && gpa != gpa.large_page() {
            return Outcome::Fail(FailCode::Input);
        }
        if what.target <= what.current {
            return Outcome::Fail(FailCode::Permission);
        }
        let entry = self.entry(host);
        if !entry.belongs_to(owner, gpa) || entry.flags.immutable() {
            return Outcome::NotOwned;
        }
        if !entry.is_validated() {
            return Outcome::NotValidated;
        }
        match (size, entry.size()) {
            (PageSize::Large, PageSize::Small) => return Outcome::Fail(FailCode::SizeMismatch),
            (PageSize::Small, PageSize::Large) => return Outcome::NeedsSmash,
            _ => {}
        }
        if !entry.permissions(what.current).contains(what.permissions) {
            return Outcome::Fail(FailCode::Permission);
        }
        self.change(host, |entry| {
            entry.permissions[what.target.index()] = what.permissions;
            if what.current == Vmpl::ZERO {
                entry.flags.set_vmsa(what.vmsa);
            }
        });
        Outcome::Done(())
    }

    /// RMPQUERY (APM vol. 3): what `target` may do with the page.
    pub fn query(
        &self,
        host: Phys,
        owner: Owner,
        gpa: Gpa,
        current: Vmpl,
        target: Vmpl,
    ) -> Outcome<Entry> {
        if target <= current {
            return Outcome::Fail(FailCode::Permission);
        }
        let entry = self.entry(host);
        if !entry.belongs_to(owner, gpa) {
            return Outcome::NotOwned;
        }
        if !entry.is_validated() {
            return Outcome::NotValidated;
        }
        Outcome::Done(entry)
    }

    fn index(&self, host: Phys) -> Option<usize> {
        let offset = host.get().checked_sub(self.base)?;
        let index = usize::try_from(offset / PAGE_SIZE).ok()?;
        (index < self.entries.len()).then_some(index)
    }

    /// The index of the entry that speaks for `index`: itself, or the large one it lies under.
    fn governing(&self, index: usize) -> usize {
        let first = index - index % PAGES_PER_LARGE;
        if self.entries[first].flags.large() {
            first
        } else {
            index
        }
    }

    fn check_no_overlap(&self, index: usize, size: PageSize) -> Result<(), HostFailure> {
        match size {
            PageSize::Small if self.entries[self.governing(index)].flags.large() => {
                Err(HostFailure::Overlap)
            }
            PageSize::Small => Ok(()),
            PageSize::Large => {
                let pages = self
                    .entries
                    .get(index..index + PAGES_PER_LARGE)
                    .ok_or(HostFailure::Input)?;
                let blocked = !pages[0].flags.large() && pages.iter().any(Entry::is_assigned);
                if blocked {
                    Err(HostFailure::Overlap)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn change(&mut self, host: Phys, edit: impl FnOnce(&mut Entry)) {
        if let Some(index) = self.index(host) {
            let governing = self.governing(index);
            edit(&mut self.entries[governing]);
        }
    }
}

#[cfg(test)]
mod tests;
