//! Nested page faults: what each is, and the entry that ends it.

use super::{Memory, PageState, Privacy, Resolution, Stage, Who};
use crate::snp::addr::{FrameSource, Gpa, LARGE_PAGE_SIZE, PAGE_SIZE, Phys};
use crate::snp::rmp::{AccessKind, PageSize, Permissions, Violation};

impl Memory {
    /// Decides a nested page fault at `address` (C-bit and all).
    pub fn fault(
        &mut self,
        who: Who,
        address: u64,
        kind: AccessKind,
        stage: Stage,
        frames: &mut impl FrameSource,
    ) -> Resolution {
        let Some((gpa, privacy)) = who.split(address) else {
            return Resolution::Device;
        };
        let Some(host) = self.map.translate(gpa) else {
            return Resolution::Device;
        };
        let is_private_page = self.rmp.entry(host).is_assigned();
        match (privacy, is_private_page) {
            (Privacy::Private, true) => self.fault_private(who, address, gpa, kind, frames),
            (Privacy::Private, false) => {
                // KVM asks user space to make it private; the guest then finds it not validated.
                self.change_state(gpa, PageSize::Small, PageState::Private);
                Resolution::Converted(gpa)
            }
            (Privacy::Shared, false) => self.fill(who, address, gpa, Permissions::ALL, frames),
            (Privacy::Shared, true) => {
                self.fault_without_c_bit(who, address, gpa, kind, stage, frames)
            }
        }
    }

    fn fault_private(
        &mut self,
        who: Who,
        address: u64,
        gpa: Gpa,
        kind: AccessKind,
        frames: &mut impl FrameSource,
    ) -> Resolution {
        let Some(host) = self.map.translate(gpa) else {
            return Resolution::Device;
        };
        match self.rmp.check_guest(host, self.owner, gpa, who.vmpl, kind) {
            Ok(()) => {
                let rights = self.rmp.entry(host).permissions(who.vmpl);
                self.fill(who, address, gpa, rights, frames)
            }
            Err(Violation::NotValidated) => Resolution::NotValidated,
            Err(Violation::Vmpl) => Resolution::Denied,
            Err(Violation::NotOwned) => Resolution::Foreign,
        }
    }

    /// An access that says "shared" to a page that is private.
    fn fault_without_c_bit(
        &mut self,
        who: Who,
        address: u64,
        gpa: Gpa,
        kind: AccessKind,
        stage: Stage,
        frames: &mut impl FrameSource,
    ) -> Resolution {
        match (stage, kind) {
            (Stage::Walk, _) => Resolution::WalkWithoutCBit,
            (_, AccessKind::Fetch) => {
                // Private on hardware. Mapped read-only under this alias too; a data read through it sees plain text.
                let Some(host) = self.map.translate(gpa) else {
                    return Resolution::Device;
                };
                match self.rmp.check_guest(host, self.owner, gpa, who.vmpl, kind) {
                    Ok(()) => {
                        let rights = self.rmp.entry(host).permissions(who.vmpl).with_write(false);
                        self.map_page(who, address, host, PageSize::Small, rights, frames)
                    }
                    Err(Violation::NotValidated) => Resolution::NotValidated,
                    Err(Violation::Vmpl) => Resolution::Denied,
                    Err(Violation::NotOwned) => Resolution::Foreign,
                }
            }
            (_, AccessKind::Read) => match self.ciphertext_page(frames) {
                Some(noise) => {
                    let rights = Permissions::new().with_read(true);
                    self.map_page(who, address, noise, PageSize::Small, rights, frames)
                }
                None => Resolution::OutOfMemory,
            },
            (_, AccessKind::Write) => {
                // KVM and QEMU convert implicitly; Linux relies on it when it decrypts a page in place.
                self.change_state(gpa, PageSize::Small, PageState::Shared);
                Resolution::Converted(gpa)
            }
        }
    }

    /// Maps the page, and with it the 2 MiB around when all of that is alike.
    fn fill(
        &mut self,
        who: Who,
        address: u64,
        gpa: Gpa,
        rights: Permissions,
        frames: &mut impl FrameSource,
    ) -> Resolution {
        let Some(host) = self.map.translate(gpa) else {
            return Resolution::Device;
        };
        let last = Gpa::new(gpa.large_page().get() + LARGE_PAGE_SIZE - PAGE_SIZE);
        let large = self.map.translate(gpa.large_page()).filter(|block| {
            block.get().is_multiple_of(LARGE_PAGE_SIZE)
                && self
                    .map
                    .translate(last)
                    .is_some_and(|end| end.get() == block.get() + LARGE_PAGE_SIZE - PAGE_SIZE)
                && self.rmp.is_uniform(*block)
        });
        match large {
            Some(block) => self.map_page(who, address, block, PageSize::Large, rights, frames),
            None => self.map_page(who, address, host, PageSize::Small, rights, frames),
        }
    }

    fn map_page(
        &mut self,
        who: Who,
        address: u64,
        host: Phys,
        size: PageSize,
        rights: Permissions,
        frames: &mut impl FrameSource,
    ) -> Resolution {
        match self
            .tables
            .map(who.view(), address, host, size, rights, frames)
        {
            Some(()) => Resolution::Mapped,
            None => Resolution::OutOfMemory,
        }
    }

    fn ciphertext_page(&mut self, frames: &mut impl FrameSource) -> Option<Phys> {
        if self.ciphertext.is_none() {
            let page = frames.frame()?;
            self.scramble(page, PageSize::Small);
            self.ciphertext = Some(page);
        }
        self.ciphertext
    }
}
