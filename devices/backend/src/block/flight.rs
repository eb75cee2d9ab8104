//! What is kept of a request while it has slots.

use super::{Kind, MAX_RUNS, Request};
use crate::slots::Run;
use crate::watch::Moment;

/// What is known of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Reserved,
    Posted,
    Over,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) state: State,
    pub(super) request: Request,
    /// The slots are the caller's own.
    pub(super) is_lent: bool,
    /// When it was reserved.
    pub(super) since: Moment,
    pub(super) runs: [Run; MAX_RUNS],
}

impl Flight {
    /// No request.
    pub(super) const NONE: Self = Self {
        state: State::Free,
        request: Request {
            kind: Kind::Flush,
            sector: 0,
            len_bytes: 0,
        },
        is_lent: false,
        since: Moment::START,
        runs: [Run::EMPTY; MAX_RUNS],
    };

    /// Returns the pieces of the request's bytes: offset in shared memory and length.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let mut left = if self.request.kind.has_data() {
            self.request.len_bytes as usize
        } else {
            0
        };
        self.runs.into_iter().map_while(move |run| {
            let len = run.len_bytes().min(left);
            left -= len;
            (len != 0).then_some((run.offset(), len))
        })
    }
}
