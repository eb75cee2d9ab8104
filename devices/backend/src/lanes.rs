//! The two directions of a device that carries bytes: what network cards and consoles have in common.
//!
//! Queue 0 brings buffers of one size the device fills ([`Inbox`]), queue 1 takes stretches of any length ([`Outbox`]); each has half of the
//! memory behind the queues.

mod inbox;
mod line;
mod outbox;

use crate::error::BackendError;
use crate::host::HostBus;
use crate::queue::QUEUE_BYTES;
use crate::shared::SharedMemory;
use crate::transport::Transport;
use crate::watch::{LOOKS, Moment, Watch};
use inbox::Inbox;
pub(crate) use inbox::{Came, Filled};
use outbox::Outbox;

/// What the queues of both directions take of a device's shared memory.
pub(crate) const RESERVED: usize = 2 * QUEUE_BYTES;

/// How the two directions of a device are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// What the device is called in the log.
    pub(crate) kind: &'static str,
    pub(crate) has_event_index: bool,
    /// Bytes of a buffer the device fills.
    pub(crate) buffer_bytes: usize,
}

/// Both directions, the device behind them, and whether it still may be believed.
#[derive(Debug)]
pub(crate) struct Lanes<M> {
    transport: Transport,
    memory: M,
    inbox: Inbox,
    outbox: Outbox,
    kind: &'static str,
    failure: Option<BackendError>,
    watch: Watch,
    /// How many stretches had been sent when a look last found more than before, and when that was.
    progress: (u64, Moment),
}

impl<M: SharedMemory> Lanes<M> {
    /// Sets both queues up and starts the device. The memory is zero.
    pub(crate) fn open(
        bus: &mut impl HostBus,
        transport: Transport,
        memory: M,
        plan: Plan,
    ) -> Result<Self, BackendError> {
        let half = memory.len_bytes().saturating_sub(RESERVED) / 2;
        let inbox = RESERVED..RESERVED + half;
        let inbox = Inbox::open(bus, &transport, &memory, inbox, plan)?;
        let outbox = RESERVED + half..RESERVED + 2 * half;
        let outbox = Outbox::open(bus, &transport, &memory, outbox, plan.has_event_index)?;
        transport.start(bus)?;
        let mut lanes = Self {
            transport,
            memory,
            inbox,
            outbox,
            kind: plan.kind,
            failure: None,
            watch: Watch::default(),
            progress: (0, Moment::START),
        };
        lanes.publish(bus);
        lanes.listen();
        Ok(lanes)
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Returns why the device is offline, if it is.
    pub(crate) fn failure(&self) -> Option<BackendError> {
        self.failure
    }

    /// Returns how many buffers the device may fill.
    pub(crate) fn inbox_size(&self) -> u16 {
        self.inbox.size()
    }

    /// Returns whether so many bytes could be sent now.
    pub(crate) fn can_send(&mut self, len: usize) -> bool {
        if self.failure.is_none() && !self.outbox.has_room(len) {
            self.reclaim();
        }
        self.failure.is_none() && self.outbox.has_room(len)
    }

    /// Queues these parts as one; the device sees them with the next [`Self::publish`]. Returns whether there was room.
    pub(crate) fn send<const N: usize>(&mut self, parts: [&[u8]; N]) -> bool {
        self.can_send(parts.iter().map(|part| part.len()).sum())
            && self.outbox.send(&self.memory, parts)
    }

    /// Takes back what the device has sent.
    pub(crate) fn reclaim(&mut self) {
        if let Err(error) = self.outbox.reclaim(&self.memory) {
            self.fail(error);
        }
    }

    /// Returns whether the device has sent nothing for [`LOOKS`] looks, though it has something.
    pub(crate) fn is_stuck(&self) -> bool {
        let (sent, since) = self.progress;
        sent == self.outbox.sent() && self.watch.since(since) > LOOKS
    }

    /// Looks after what the device has not sent. Returns when it is to be called next, if there is any.
    ///
    /// A device that is not what it was is offline; whether to wait for one that only sends nothing is its user's to say.
    pub(crate) fn watch(&mut self, bus: &mut impl HostBus, now_ns: u64) -> Option<u64> {
        if self.failure.is_some() || !self.outbox.is_sending() {
            self.watch.rest();
            return None;
        }
        if self.watch.is_time(now_ns) {
            self.reclaim();
            if self.outbox.is_sending() {
                self.check(bus);
            }
        }
        if self.progress.0 != self.outbox.sent() {
            self.progress = (self.outbox.sent(), self.watch.moment());
        }
        if self.failure.is_some() {
            return Some(now_ns);
        }
        self.watch.due_ns()
    }

    /// Returns the next buffer the device filled; the queue has seen to it that it says no more than fits.
    pub(crate) fn next_in(&mut self) -> Option<Filled> {
        if self.failure.is_some() {
            return None;
        }
        let outcome = self.inbox.take(&self.memory);
        outcome.unwrap_or_else(|error| {
            self.fail(error);
            None
        })
    }

    /// Copies from byte `from` of what came in.
    pub(crate) fn read_in(&self, filled: Filled, from: usize, bytes: &mut [u8]) {
        self.inbox.read(&self.memory, filled, from, bytes);
    }

    /// Has the device fill the buffer again. What it does not overwrite then must not pass for something that came in.
    pub(crate) fn recycle(&mut self, filled: Filled) {
        self.inbox.recycle(&self.memory, filled);
    }

    /// Shows the device what was queued, and the buffers it may fill.
    pub(crate) fn publish(&mut self, bus: &mut impl HostBus) {
        if self.failure.is_some() {
            return;
        }
        let outcome = self.inbox.publish(&self.memory, bus);
        if let Err(error) = outcome.and_then(|()| self.outbox.publish(&self.memory, bus)) {
            self.fail(error);
        }
    }

    /// Asks for an interrupt with the next buffer that comes in.
    pub(crate) fn listen(&mut self) -> Came {
        match self.failure {
            None => self.inbox.listen(&self.memory),
            Some(_) => Came::Nothing,
        }
    }

    /// Asks for an interrupt when there is room again, for a sender that waits. Returns whether there already is for so many bytes.
    ///
    /// What was sent while it asked is taken back, and asked after again: each round takes at least one.
    pub(crate) fn listen_for_room(&mut self, len: usize) -> bool {
        while self.failure.is_none() && self.outbox.listen(&self.memory) {
            if self.can_send(len) {
                return true;
            }
        }
        false
    }

    /// Sees whether the device still says of itself what it said at first.
    pub(crate) fn check(&mut self, bus: &mut impl HostBus) {
        let sizes = [self.inbox.index_and_size(), self.outbox.index_and_size()];
        if self.failure.is_none()
            && let Err(error) = self.transport.check(bus, &sizes)
        {
            self.fail(error);
        }
    }

    /// Believes the device nothing more.
    pub(crate) fn fail(&mut self, error: BackendError) {
        let (kind, code) = (self.kind, error.code().0);
        let function = self.transport.function();
        log::error!("host {kind} {function} is offline, code {code}: {error}");
        self.inbox.kill();
        self.outbox.kill();
        self.failure = Some(error);
    }
}

#[cfg(test)]
mod tests;
