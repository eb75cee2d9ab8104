//! The card's saved state.

use stockade_bus::GuestMemory;

use super::config::{Address, features};
use super::filter::{Filter, FilterState, TABLE_SIZE};
use super::{Net, QUEUE_SIZE, TRANSMIT, Telling};
use crate::RestoreError;
use crate::state::check_version;
use crate::virtio::link::{Link, LinkState};
use crate::virtio::queue::{Queue, QueueState};
use crate::virtio::{Features, VirtioDevice};

/// The card's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetState {
    /// Format version: 1.
    pub version: u32,
    /// What all devices have.
    pub link: LinkState,
    /// The address the driver sees or set.
    pub address: Address,
    /// The wire is plugged in.
    pub is_connected: bool,
    /// Which frames the driver wants.
    pub filter: FilterState,
    /// What it takes undone.
    pub offloads: Features,
    /// Receive, transmit and control queue.
    pub queues: [Option<QueueState>; 3],
}

impl Net {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> NetState {
        let Self {
            options: _,
            link,
            queues,
            address,
            is_connected,
            filter: Filter(filter),
            offloads,
            // Who restores the card tells the driver at once.
            telling: _,
            told: _,
            dropped: _,
            chain: _,
        } = self;
        NetState {
            version: 1,
            link: link.save(),
            address: *address,
            is_connected: *is_connected,
            filter: *filter,
            offloads: *offloads,
            queues: queues.each_ref().map(|q| q.as_ref().map(Queue::save)),
        }
    }

    /// Takes a saved state.
    pub fn restore<M: GuestMemory + ?Sized>(
        &mut self,
        state: &NetState,
        memory: &M,
    ) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        let link = Link::try_restore(&state.link, self.device_features())?;
        let agreed = link.features & features::RECEIVE_OFFLOADS;
        if !agreed.contains(state.offloads) {
            return Err(RestoreError::Impossible("offloads"));
        }
        let tables = [&state.filter.singles, &state.filter.groups];
        if tables.iter().any(|table| table.len > TABLE_SIZE) {
            return Err(RestoreError::Impossible("table of addresses"));
        }
        let mut queues = [None, None, None];
        link.try_restore_queues(&mut queues, &state.queues, QUEUE_SIZE, memory)?;
        link.check_in_flight(&queues, &[0; 3])?;
        (self.link, self.queues) = (link, queues);
        (self.address, self.is_connected) = (state.address, state.is_connected);
        (self.filter, self.offloads) = (Filter(state.filter), state.offloads);
        self.telling = Telling::Now;
        self.told = u64::from(self.link.is_running()) << TRANSMIT;
        Ok(())
    }
}
