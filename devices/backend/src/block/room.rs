//! Slots for the data of requests that bring none of their own.

use super::{Block, Kind, MAX_BYTES, MAX_RUNS, Request};
use crate::shared::SharedMemory;
use crate::slots::{Run, SLOT_BYTES};

impl<M: SharedMemory> Block<M> {
    /// Takes slots for a request's data, side by side as far as there are such. `None`: there are not enough.
    pub(super) fn take_runs(&mut self, request: &Request) -> Option<[Run; MAX_RUNS]> {
        let mut runs = [Run::default(); MAX_RUNS];
        if !request.kind.has_data() {
            return Some(runs);
        }
        if request.len_bytes > MAX_BYTES {
            return None;
        }
        let mut left = usize::try_from(request.len_bytes).ok()?;
        if usize::from(self.slots.free_count()) * SLOT_BYTES < left {
            return None;
        }
        for run in &mut runs {
            if left == 0 {
                break;
            }
            let wanted = u16::try_from(left.div_ceil(SLOT_BYTES)).ok()?;
            let Some(found) = self.slots.take_run(wanted) else {
                break;
            };
            *run = found;
            left = left.saturating_sub(found.len_bytes());
        }
        if left != 0 {
            self.give_back(&runs, 0);
            return None;
        }
        if request.kind == Kind::Read {
            self.clean(&runs, request.len_bytes as usize);
        }
        Some(runs)
    }

    /// What the device does not write must not pass for data.
    fn clean(&mut self, runs: &[Run; MAX_RUNS], mut left: usize) {
        for run in runs {
            let len = run.len_bytes().min(left);
            left -= len;
            self.slots.clean(&self.memory, *run, len);
        }
    }

    /// Gives slots back, of which so many bytes were used.
    pub(super) fn give_back(&mut self, runs: &[Run; MAX_RUNS], mut used: usize) {
        for run in runs.iter().filter(|run| run.len_bytes() != 0) {
            let len = run.len_bytes().min(used);
            used -= len;
            self.slots.give_back(*run, len);
        }
    }
}
