//! How long a disk may take for a request.

use super::Block;
use super::flight::State;
use crate::error::BackendError;
use crate::host::HostBus;
use crate::shared::SharedMemory;
use crate::watch::LOOKS;

impl<M: SharedMemory> Block<M> {
    /// Looks after requests the device has had for long. Returns when it is to be called next, if it has any.
    ///
    /// A device that is not what it was is offline at once, one that only says nothing after [`LOOKS`] looks. What an offline device
    /// had is to be taken back now, for nobody will signal.
    pub fn watch(&mut self, bus: &mut impl HostBus, now_ns: u64) -> Option<u64> {
        if self.failure.is_some() {
            self.watch.rest();
            let had_some = self.flights.iter().any(|f| f.state == State::Posted);
            return had_some.then_some(now_ns);
        }
        if self.queue.in_flight() == 0 {
            self.watch.rest();
            return None;
        }
        if self.watch.is_time(now_ns) {
            let posted = self.flights.iter().filter(|f| f.state == State::Posted);
            match posted.map(|flight| self.watch.since(flight.since)).max() {
                None | Some(0) => {}
                Some(1..=LOOKS) => self.check(bus),
                Some(_) => self.fail(BackendError::Silent),
            }
            if self.failure.is_some() {
                return Some(now_ns);
            }
        }
        self.watch.due_ns()
    }
}
