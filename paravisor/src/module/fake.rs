//! An address space, a staging range and a world for tests. The space keeps what the platform's keeps: access by page, zeros at first.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use stockade_boot::layout::STAGING_BASE;
use stockade_boot::payload::{PayloadSource, Unreadable};

use super::outside::{NoEntropy, NoReport, Outside};
use super::space::{Access, BadAddress, Exit, OutOfMemory, PAGE, Registers, Space};

type Page = Box<[u8; 4096]>;
/// What a module does when it has the processor.
pub(crate) type Act = Box<dyn FnMut(&mut Registers) -> Exit + Send>;

/// An address space in ordinary memory; what its module does is a list of acts.
#[derive(Default)]
pub(crate) struct FakeSpace {
    pub(crate) pages: BTreeMap<u64, (Access, Page)>,
    pub(crate) acts: VecDeque<Act>,
    /// Nothing moves to this page, as if there were no memory for a table.
    pub(crate) wall: Option<u64>,
}

impl FakeSpace {
    pub(crate) fn access(&self, page: u64) -> Option<Access> {
        self.pages.get(&page).map(|(access, _)| *access)
    }

    fn visit(
        &mut self,
        address: u64,
        len: usize,
        allows: impl Fn(Access) -> bool,
        mut visit: impl FnMut(&mut u8, usize),
    ) -> Result<(), BadAddress> {
        for index in 0..len {
            let at = address
                .checked_add(index as u64)
                .ok_or(BadAddress(address))?;
            let (access, page) = self
                .pages
                .get_mut(&(at / PAGE * PAGE))
                .ok_or(BadAddress(at))?;
            if !allows(*access) {
                return Err(BadAddress(at));
            }
            visit(&mut page[usize::try_from(at % PAGE).unwrap()], index);
        }
        Ok(())
    }
}

impl Space for FakeSpace {
    fn map(&mut self, page: u64, access: Access, limit: usize) -> Result<(), OutOfMemory> {
        assert!(page.is_multiple_of(PAGE));
        if let Some((old, _)) = self.pages.get_mut(&page) {
            *old = access;
        } else if access != Access::None {
            if self.pages.len() >= limit {
                return Err(OutOfMemory);
            }
            let fresh = Box::new([0; 4096]);
            self.pages.insert(page, (access, fresh));
        }
        Ok(())
    }

    fn unmap(&mut self, pages: Range<u64>) {
        self.pages.retain(|page, _| !pages.contains(page));
    }

    fn shift(&mut self, from: u64, to: u64, _: usize) -> Result<(), OutOfMemory> {
        if self.wall == Some(to) {
            return Err(OutOfMemory);
        }
        if let Some(page) = self.pages.remove(&from) {
            assert!(self.pages.insert(to, page).is_none());
        }
        Ok(())
    }

    fn pages(&self) -> usize {
        self.pages.len()
    }

    fn clear(&mut self) {
        self.pages.clear();
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        for (byte, at) in buffer.iter_mut().zip(address..) {
            match self.pages.get(&(at / PAGE * PAGE)) {
                Some((access, page)) if *access != Access::None => {
                    *byte = page[usize::try_from(at % PAGE).unwrap()];
                }
                _ => return Err(BadAddress(at)),
            }
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let allows = |access| access == Access::Write;
        self.visit(address, bytes.len(), allows, |_, _| ())?;
        self.load(address, bytes)
    }

    fn load(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.visit(
            address,
            bytes.len(),
            |_| true,
            |to, index| *to = bytes[index],
        )
    }

    fn run(&mut self, registers: &mut Registers) -> Exit {
        match self.acts.pop_front() {
            Some(mut act) => act(registers),
            None => Exit::Interrupted,
        }
    }
}

/// A host's staging range.
pub(crate) struct FakeStaging(pub(crate) Vec<u8>);

impl PayloadSource for FakeStaging {
    fn read(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let start = gpa.checked_sub(STAGING_BASE).ok_or(Unreadable(gpa))?;
        let start = usize::try_from(start).map_err(|_| Unreadable(gpa))?;
        let bytes = self
            .0
            .get(start..)
            .and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(Unreadable(gpa))?);
        Ok(())
    }
}

/// A world whose clock ticks a microsecond at each look.
#[derive(Default)]
pub(crate) struct FakeOutside {
    pub(crate) lines: Vec<String>,
    pub(crate) now_ns: core::cell::Cell<u64>,
    pub(crate) no_report: Option<NoReport>,
}

impl Outside for FakeOutside {
    fn monotonic_ns(&self) -> u64 {
        self.now_ns.set(self.now_ns.get() + 1000);
        self.now_ns.get()
    }

    fn realtime_ns(&self) -> u64 {
        1_700_000_000_000_000_000 + self.monotonic_ns()
    }

    fn random(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        buffer.fill(4);
        Ok(())
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        [leaf, subleaf, 0x22, 0x33]
    }

    fn report(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, NoReport> {
        self.no_report.map_or(Ok(report_data.to_vec()), Err)
    }

    fn log(&mut self, _: &str, line: &str) {
        self.lines.push(line.to_string());
    }
}
