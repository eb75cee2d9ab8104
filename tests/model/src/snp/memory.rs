//! The memory system: guest addresses, the RMP and the nested tables together.
//!
//! [`Memory::fault`] decides every nested page fault; [`Memory::pvalidate`], [`Memory::adjust`] and
//! [`Memory::change_state`] are the only ways a page changes hands, so that the nested tables never disagree with the
//! RMP. What must be forgotten by other processors is told by [`Unmapped`].

use super::addr::{C_BIT, Gpa, LARGE_PAGE_SIZE, PAGE_SIZE, Phys};
use super::dma::DmaTables;
use super::gpa_map::{GpaMap, RangeKind};
use super::npt::{Layout, NestedTables, Unmapped, View};
use super::rmp::{
    AccessKind, Adjustment, Change, Entry, NewState, Outcome, Owner, PageSize, Rmp, Violation, Vmpl,
};
use alloc::vec::Vec;

/// Whose access it is, and how its addresses are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    /// The VMPL.
    pub vmpl: Vmpl,
    /// Where the C-bit is.
    pub layout: Layout,
    /// In the flat layout, the first shared address.
    pub top: u64,
}

/// Whether an access is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privacy {
    /// Effective C-bit 1.
    Private,
    /// Effective C-bit 0.
    Shared,
}

/// Where in an instruction's life the access happens (EXITINFO1 bits 32 and 33).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// At the final address.
    Final,
    /// While walking the guest's page tables: private whatever the C-bit (APM vol. 2, 15.34.5).
    Walk,
}

/// How a nested page fault ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The page is mapped now: run again.
    Mapped,
    /// The guest's tables are named without the C-bit. Hardware does not care, QEMU does: add it to CR3.
    WalkWithoutCBit,
    /// The host took the page's state from the access, as KVM does: run again, other processors must flush.
    Converted(Gpa),
    /// No memory there: the host has reserved bits in that entry, hence #VC.
    Device,
    /// #VC, page not validated.
    NotValidated,
    /// #VMEXIT(NPF): this VMPL may not.
    Denied,
    /// The page belongs to someone else; no host could go on.
    Foreign,
    /// No memory for tables.
    OutOfMemory,
}

/// Why the model cannot touch guest memory for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessFault {
    /// No memory there.
    Device,
    /// The RMP refuses.
    Rmp(Violation),
}

/// The memory system.
pub struct Memory {
    /// Which guest addresses have memory.
    pub map: GpaMap,
    /// To whom each page belongs.
    pub rmp: Rmp,
    /// The nested page tables.
    pub tables: NestedTables,
    owner: Owner,
    /// What a read without the C-bit sees of a private page: noise, made on first use.
    ciphertext: Option<Phys>,
    /// Scrambles pages that change hands.
    key: u64,
    /// Counts what was taken away: whoever remembers that an access was allowed must ask again.
    generation: u64,
    /// What devices reach, on a machine with an IOMMU.
    dma: Option<DmaTables>,
}

impl Who {
    /// The root of nested tables for these accesses.
    pub const fn view(&self) -> View {
        View {
            vmpl: self.vmpl,
            layout: self.layout,
        }
    }

    /// Splits an address of the guest's tables. `None` where the C-bit is out of place: a flat address with it names
    /// no memory (below a virtual top of memory it would be #PF on hardware, APM vol. 2, 15.36.8).
    pub const fn split(&self, address: u64) -> Option<(Gpa, Privacy)> {
        let has_c_bit = address & C_BIT != 0;
        match self.layout {
            Layout::CBit if has_c_bit => Some((Gpa::new(address), Privacy::Private)),
            Layout::CBit => Some((Gpa::new(address), Privacy::Shared)),
            Layout::Flat if has_c_bit => None,
            Layout::Flat if address < self.top => Some((Gpa::new(address), Privacy::Private)),
            Layout::Flat => Some((Gpa::new(address), Privacy::Shared)),
        }
    }
}

impl Memory {
    /// A guest without memory. `rmp` covers all host memory guests can get.
    pub const fn new(rmp: Rmp, owner: Owner, key: u64) -> Self {
        Self {
            map: GpaMap::new(),
            rmp,
            tables: NestedTables::new(),
            owner,
            ciphertext: None,
            key,
            generation: 0,
            dma: None,
        }
    }

    /// The guest as the RMP knows it.
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    /// Changes whenever a page or a permission is taken away.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Where the model may touch guest memory in the guest's stead. Page-table reads and fetches are private.
    pub fn locate(
        &self,
        who: Who,
        address: u64,
        kind: AccessKind,
        stage: Stage,
    ) -> Result<Phys, AccessFault> {
        let (gpa, mut privacy) = who.split(address).ok_or(AccessFault::Device)?;
        if stage == Stage::Walk || kind == AccessKind::Fetch {
            privacy = Privacy::Private;
        }
        let host = self.map.translate(gpa).ok_or(AccessFault::Device)?;
        let check = match privacy {
            Privacy::Private => self.rmp.check_guest(host, self.owner, gpa, who.vmpl, kind),
            Privacy::Shared => self.rmp.check_host_write(host),
        };
        check.map(|()| host).map_err(AccessFault::Rmp)
    }

    /// The page at `gpa` as the host sees it: only when it is not the guest's.
    pub fn host_page(&self, gpa: Gpa) -> Option<Phys> {
        let host = self.map.translate(gpa)?;
        self.rmp.check_host_write(host).ok().map(|()| host)
    }

    /// PVALIDATE of the page at `gpa`. What the host would do on the exits in between is done here: it splits a large RMP
    /// entry, and gives the guest a page it does not own yet, as KVM does.
    pub fn pvalidate(
        &mut self,
        gpa: Gpa,
        size: PageSize,
        validate: Validate,
    ) -> (Outcome<Change>, Unmapped) {
        let Some(host) = self.map.translate(gpa) else {
            return (Outcome::NotOwned, Unmapped::Nothing);
        };
        if !self.rmp.entry(host).is_assigned() {
            self.change_state(gpa, size, PageState::Private);
        }
        let wanted = validate == Validate::Set;
        let mut outcome = self.rmp.pvalidate(host, self.owner, gpa, size, wanted);
        if outcome == Outcome::NeedsSmash && self.rmp.psmash(host).is_ok() {
            outcome = self.rmp.pvalidate(host, self.owner, gpa, size, wanted);
        }
        let unmapped = match (outcome, validate) {
            (Outcome::Done(Change::Changed), Validate::Rescind) => {
                self.generation += 1;
                self.tables.unmap(gpa, size.bytes())
            }
            _ => Unmapped::Nothing,
        };
        (outcome, unmapped)
    }

    /// RMPADJUST of the page at `gpa`.
    pub fn adjust(
        &mut self,
        gpa: Gpa,
        size: PageSize,
        what: Adjustment,
    ) -> (Outcome<()>, Unmapped) {
        let Some(host) = self.map.translate(gpa) else {
            return (Outcome::NotOwned, Unmapped::Nothing);
        };
        if !self.rmp.entry(host).is_assigned() {
            self.change_state(gpa, size, PageState::Private);
        }
        let mut outcome = self.rmp.adjust(host, self.owner, gpa, size, what);
        if outcome == Outcome::NeedsSmash && self.rmp.psmash(host).is_ok() {
            outcome = self.rmp.adjust(host, self.owner, gpa, size, what);
        }
        let unmapped = match outcome {
            Outcome::Done(()) => {
                self.generation += 1;
                self.tables.unmap_for(what.target, gpa, size.bytes())
            }
            _ => Unmapped::Nothing,
        };
        (outcome, unmapped)
    }

    /// RMPQUERY of the page at `gpa`.
    pub fn query(&self, gpa: Gpa, current: Vmpl, target: Vmpl) -> Outcome<Entry> {
        match self.map.translate(gpa) {
            Some(host) => self.rmp.query(host, self.owner, gpa, current, target),
            None => Outcome::NotOwned,
        }
    }

    /// The host's RMPUPDATE on the guest's behalf. Asking for what is already so changes nothing, validation included.
    /// `None` where there is no memory or the RMP refuses.
    pub fn change_state(&mut self, gpa: Gpa, size: PageSize, state: PageState) -> Option<Unmapped> {
        let host = self.map.translate(gpa)?;
        if size == PageSize::Large && !host.get().is_multiple_of(LARGE_PAGE_SIZE) {
            return None;
        }
        let entry = self.rmp.entry(host);
        let alike = !entry.is_assigned() && self.rmp.is_uniform(host);
        let whole = size == PageSize::Small || entry.size() == size || alike;
        if whole && self.is_in_state(host, gpa, size, state) {
            return Some(Unmapped::Nothing);
        }
        if size == PageSize::Large && !whole {
            return self.change_small_pages(gpa, state);
        }
        if size == PageSize::Small && self.rmp.entry(host).size() == PageSize::Large {
            self.rmp.psmash(host).ok()?;
        }
        let was_private = self.rmp.entry(host).is_assigned();
        let new = match state {
            PageState::Private => NewState::Private {
                owner: self.owner,
                gpa,
            },
            PageState::Shared => NewState::Shared,
        };
        if let Some(dma) = &mut self.dma {
            dma.unmap(gpa.get(), size.bytes());
        }
        self.rmp.update(host, size, new).ok()?;
        if was_private != (state == PageState::Private) {
            self.scramble(host, size);
        }
        if state == PageState::Shared {
            self.lend(gpa, host, size.bytes());
        }
        self.generation += 1;
        Some(self.tables.unmap(gpa, size.bytes()))
    }

    fn change_small_pages(&mut self, gpa: Gpa, state: PageState) -> Option<Unmapped> {
        let mut result = Unmapped::Nothing;
        for page in (0..LARGE_PAGE_SIZE).step_by(0x1000) {
            if self.change_state(gpa.checked_add(page)?, PageSize::Small, state)?
                == Unmapped::Something
            {
                result = Unmapped::Something;
            }
        }
        Some(result)
    }

    fn is_in_state(&self, host: Phys, gpa: Gpa, size: PageSize, state: PageState) -> bool {
        let entry = self.rmp.entry(host);
        match state {
            PageState::Private => entry.is_owned_by(self.owner) && entry.gpa() == gpa.page(),
            PageState::Shared => {
                !entry.is_assigned() && (size == PageSize::Small || self.rmp.is_uniform(host))
            }
        }
    }

    /// Lets devices reach every page that is shared now, and from now on those that become so.
    pub fn lend_to_devices(&mut self, dma: DmaTables) {
        self.dma = Some(dma);
        let blocks = self.map.ranges().iter().flat_map(|range| range.blocks());
        let blocks: Vec<_> = blocks.collect();
        for (gpa, len, host) in blocks {
            for offset in (0..len).step_by(0x1000) {
                // SAFETY: `offset` is below the block's length.
                let page = unsafe { host.add(offset) };
                if !self.rmp.entry(page).is_assigned() {
                    self.lend(Gpa::new(gpa.get() + offset), page, PAGE_SIZE);
                }
            }
        }
    }

    /// What devices reach.
    pub fn dma(&mut self) -> Option<&mut DmaTables> {
        self.dma.as_mut()
    }

    fn lend(&mut self, gpa: Gpa, host: Phys, bytes: u64) {
        let Some(dma) = &mut self.dma else {
            return;
        };
        for offset in (0..bytes).step_by(0x1000) {
            // SAFETY: the block is as large as its RMP entry.
            let page = unsafe { host.add(offset) };
            // A page that has no entry is one that devices do not reach.
            let _ = dma.map(gpa.get() + offset, page);
        }
    }

    /// The host takes a page away behind the guest's back (an attack; also what a broken host does).
    pub fn steal(&mut self, gpa: Gpa) -> Option<Unmapped> {
        self.change_state(gpa.page(), PageSize::Small, PageState::Shared)
    }

    /// The memory was written with one key and is read with another: what one side wrote is noise to the other. The same
    /// operation both ways, as with hardware, where the way back gives the old content again.
    fn scramble(&self, host: Phys, size: PageSize) {
        for page in (0..size.bytes()).step_by(0x1000) {
            // SAFETY: the block is as large as its RMP entry.
            let page = unsafe { host.page().add(page) };
            let mut noise = self.key ^ page.get().wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            for word in (0..PAGE_SIZE).step_by(8) {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                let word = page.in_page(word);
                word.write_u64(word.read_u64() ^ noise);
            }
        }
    }

    /// Gives all of `kind` to the guest, not validated, in the largest pages that fit: the state RAM starts in.
    pub fn assign_all(&mut self, kind: RangeKind) {
        let Self {
            map, rmp, owner, ..
        } = self;
        let blocks = map
            .ranges()
            .iter()
            .filter(|range| range.kind() == kind)
            .flat_map(|range| range.blocks());
        for (gpa, len, host) in blocks {
            let state = |gpa| NewState::Private { owner: *owner, gpa };
            if len == LARGE_PAGE_SIZE && rmp.update(host, PageSize::Large, state(gpa)).is_ok() {
                continue;
            }
            for offset in (0..len).step_by(0x1000) {
                // SAFETY: `offset` is below the block's length.
                let page = unsafe { host.add(offset) };
                // A page that cannot be assigned stays shared; the guest's PVALIDATE will say so.
                let _ = rmp.update(page, PageSize::Small, state(Gpa::new(gpa.get() + offset)));
            }
        }
    }
}

/// What a guest may ask its host to make of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// The guest's.
    Private,
    /// Visible to the host.
    Shared,
}

/// Which way PVALIDATE goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Validate {
    /// The page becomes usable.
    Set,
    /// It is given up.
    Rescind,
}

mod fault;
#[cfg(test)]
mod tests;
