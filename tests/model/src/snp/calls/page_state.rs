//! Page state changes.

use crate::host::ghcb::page_state::{self, Change, Operation, Refused};
use crate::host::ghcb::{Ghcb, Scratch};
use crate::snp::addr::{Gpa, PAGE_SIZE};
use crate::snp::cpu::Platform;
use crate::snp::memory::PageState;
use crate::snp::npt::Unmapped;
use crate::snp::rmp::PageSize;
use crate::snp::vm::Vm;
use stockade_abi::ghcb::GhcbError;

impl Vm {
    pub(super) fn serve_page_state(&self, scratch: Scratch, ghcb: &mut Ghcb) {
        let Some(mut buffer) = self.scratch_bytes(ghcb, scratch) else {
            return ghcb.answer().malformed(GhcbError::INVALID_SCRATCH_AREA);
        };
        let mut unmapped = Unmapped::Nothing;
        let mut pages = 0;
        let result = page_state::process(&mut buffer, |change| {
            pages += u64::from(change.size.pages());
            let one = self.change_pages(change)?;
            if one == Unmapped::Something {
                unmapped = one;
            }
            Ok(())
        });
        self.counters.count_page_state(pages);
        if unmapped == Unmapped::Something {
            self.flush_others();
        }
        ghcb.answer()
            .scratch(scratch, &buffer)
            .info(0, result)
            .done();
    }

    /// One change of the list. The caller makes the other processors forget.
    pub(in crate::snp) fn change_pages(&self, change: Change) -> Result<Unmapped, Refused> {
        if let Some(attack) = self.attack
            && attack.on_page_state(self, &change)
        {
            return Ok(Unmapped::Nothing);
        }
        let size = match change.size {
            page_state::PageSize::Small => PageSize::Small,
            page_state::PageSize::Large => PageSize::Large,
        };
        let state = match change.operation {
            Operation::Private => PageState::Private,
            Operation::Shared => PageState::Shared,
            // Hints.
            Operation::Psmash | Operation::Unsmash => return Ok(Unmapped::Nothing),
        };
        let gpa = Gpa::new(change.gpa);
        let mut memory = self.memory.lock();
        if size == PageSize::Large && change.first > 0 {
            let mut unmapped = Unmapped::Nothing;
            for page in u64::from(change.first)..512 {
                let gpa = Gpa::new(change.gpa + page * PAGE_SIZE);
                if memory
                    .change_state(gpa, PageSize::Small, state)
                    .ok_or(Refused)?
                    == Unmapped::Something
                {
                    unmapped = Unmapped::Something;
                }
            }
            return Ok(unmapped);
        }
        memory.change_state(gpa, size, state).ok_or(Refused)
    }
}
