//! The sealed store at the start: opened before the disks whose newest state it remembers.

use stockade_backend::block::{Block, SECTOR_BYTES};
use stockade_backend::shared::AnyShared;
use stockade_paravisor::host::Timekeeper;
use stockade_paravisor::records::{Durability, Records};
use stockade_paravisor::virtio::{Attention, Turn};
use stockade_platform::random;
use stockade_storage::release::Starts;
use stockade_storage::store::format::USUAL_AREA_BLOCKS;
use stockade_storage::{
    BLOCK_BYTES, RootSecret, SealedStore, StoreFreshness, StoreState, StoreTrust,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::adapters::PlatformHost;
use crate::sealing::{PATIENCE_NS, SealingError};

/// The record of [`Starts`].
const STARTS: &[u8] = b"starts";

/// Where the newest state of sealed disks is remembered.
#[derive(Debug)]
pub(crate) enum Keeping {
    /// Nowhere: the image has no store.
    Nowhere,
    /// In the store.
    In(Records),
    /// The image has a store, and it cannot be opened.
    Failed,
}

impl Keeping {
    /// Carries what there is between store and host.
    pub(crate) fn work(&self, host: &mut PlatformHost) {
        if let Self::In(records) = self {
            records.work(host);
        }
    }
}

impl Keeping {
    /// Has the store remember this start, and returns what it remembers: who has seen a later one knows an older copy by it. `None` if there is
    /// no store, or it does not take that.
    pub(crate) fn begin_start(
        &self,
        host: &mut PlatformHost,
        clock: &impl Timekeeper,
    ) -> Option<Starts> {
        let Self::In(records) = self else {
            return None;
        };
        let mut starts = Starts::new_zeroed();
        records.read(STARTS, starts.as_mut_bytes()).ok()?;
        if starts.this == starts.confirmed {
            random::fill(&mut starts.this.0).ok()?;
        }
        let ticket = records.write(STARTS, starts.as_bytes()).ok()?;
        let until = clock.now_ns().saturating_add(PATIENCE_NS);
        while records.durability(ticket) == Durability::Waiting && clock.now_ns() <= until {
            records.work(host);
        }
        (records.durability(ticket) == Durability::Durable).then_some(starts)
    }

    /// Notes that a holder has seen this start: the next one is another. A power cut before that lasts does no harm.
    pub(crate) fn confirm_start(&self, Starts { this, .. }: Starts) {
        let confirmed = Starts {
            confirmed: this,
            this,
        };
        if let Self::In(records) = self
            && let Err(error) = records.write(STARTS, confirmed.as_bytes())
        {
            log::error!("sealed store: this start is not confirmed: {error}");
        }
    }
}

/// Opens the store. One that is empty is begun.
pub(crate) fn open(
    block: Block<AnyShared>,
    secret: &RootSecret,
    attention: Attention,
    host: &mut PlatformHost,
    clock: &impl Timekeeper,
) -> Result<Records, SealingError> {
    let mut entropy = [0; 32];
    random::fill(&mut entropy)?;
    let host_blocks = block.capacity() / (BLOCK_BYTES as u64 / SECTOR_BYTES);
    let store = SealedStore::new(
        secret.store_key(),
        entropy,
        // Nothing that outlives the machine is out of its host's reach, and who holds its disks' keys is asked when it is open.
        StoreTrust::Nothing,
        host_blocks,
        USUAL_AREA_BLOCKS,
        block.slot_count(),
    );
    let records = Records::new(store, block, attention);
    let until = clock.now_ns().saturating_add(PATIENCE_NS);
    while records.state() == StoreState::Opening {
        let turn = records.work(host);
        if turn == Turn::Done && clock.now_ns() > until {
            return Err(SealingError::Silent);
        }
    }
    match records.state() {
        StoreState::Failed(fault) => Err(fault.into()),
        StoreState::Opening | StoreState::Offline => Err(SealingError::Silent),
        StoreState::Open(freshness) => {
            let known = match freshness {
                StoreFreshness::Created => "new",
                StoreFreshness::Verified => "the newest",
                StoreFreshness::Unknown => {
                    "of unknown age: store and disks rolled back together go unnoticed"
                }
            };
            log::info!("sealed store: {freshness:?}, {known}");
            Ok(records)
        }
    }
}
