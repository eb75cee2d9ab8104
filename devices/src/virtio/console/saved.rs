//! The console's saved state.

use stockade_bus::GuestMemory;

use super::{Console, ConsoleSize, QUEUE_SIZE};
use crate::RestoreError;
use crate::state::check_version;
use crate::virtio::VirtioDevice;
use crate::virtio::link::{Link, LinkState};
use crate::virtio::queue::{Chain, ChainState, Queue, QueueState, total};

/// The console's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleState {
    /// Format version: 1.
    pub version: u32,
    /// What all devices have.
    pub link: LinkState,
    /// Its size.
    pub size: ConsoleSize,
    /// The receive and the transmit queue.
    pub queues: [Option<QueueState>; 2],
    /// The chain that is being taken, and how much of it was.
    pub open: Option<(ChainState, u64)>,
}

impl Console {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> ConsoleState {
        let Self {
            size,
            link,
            queues,
            open,
            taken,
            chain: _,
        } = self;
        ConsoleState {
            version: 1,
            link: link.save(),
            size: *size,
            queues: queues.each_ref().map(|q| q.as_ref().map(Queue::save)),
            open: taken.map(|taken| (open.save(), taken)),
        }
    }

    /// Takes a saved state.
    pub fn restore<M: GuestMemory + ?Sized>(
        &mut self,
        state: &ConsoleState,
        memory: &M,
    ) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        let link = Link::try_restore(&state.link, self.device_features())?;
        let mut queues = [None, None];
        link.try_restore_queues(&mut queues, &state.queues, QUEUE_SIZE, memory)?;
        let mut open = Chain::new(QUEUE_SIZE.into());
        let mut taken = None;
        if let Some((chain, offset)) = &state.open {
            open.restore(chain)?;
            if *offset >= total(open.readable()) {
                return Err(RestoreError::Impossible("characters taken"));
            }
            taken = Some(*offset);
        }
        let held = taken.map_or(0, |_| open.head().descriptors);
        link.check_in_flight(&queues, &[0, held])?;
        (self.link, self.queues, self.size) = (link, queues, state.size);
        (self.open, self.taken) = (open, taken);
        Ok(())
    }
}
