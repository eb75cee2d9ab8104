//! The reverse map table (APM vol. 2, 15.36.3): for each page of host memory, to whom it belongs.
//!
//! Four operations change it: [`Rmp::update`] (RMPUPDATE) and [`Rmp::psmash`] by the host, [`Rmp::pvalidate`] and
//! [`Rmp::adjust`] (RMPADJUST) by a guest. [`Rmp::check_guest`] and [`Rmp::check_host_write`] are the checks hardware
//! makes on each access. A large entry lives at the first page of its 2 MiB; the 511 others below it are ignored.

use super::addr::{Gpa, LARGE_PAGE_SIZE, PAGE_SIZE, PAGES_PER_LARGE, Phys};
use alloc::vec;
use alloc::vec::Vec;

mod entry;

use entry::Flags;
pub use entry::{
    AccessKind, Adjustment, Change, Entry, FailCode, HostFailure, NewState, Outcome, Owner,
    PageSize, Permissions, VMPLS, Violation, Vmpl,
};

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
