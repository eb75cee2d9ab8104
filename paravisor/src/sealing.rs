//! Sealed disks at the start: the wait until they are open, and why one is not.

use stockade_backend::BackendError;
use stockade_backend::block::{Block, SECTOR_BYTES};
use stockade_backend::shared::AnyShared;
use stockade_boot::manifest::DiskAccess;
use stockade_devices::virtio::blk::Blk;
use stockade_paravisor::host::Timekeeper;
use stockade_paravisor::virtio::{Anchors, SEALED_DEPTH, Sealed, Turn, Untold};
use stockade_platform::psp::PspError;
use stockade_platform::random::{self, NoEntropy};
use stockade_storage::release::ReleaseError;
use stockade_storage::{
    Access, Anchoring, BLOCK_BYTES, Config, ConfigError, DiskKey, Fault, Freshness, SealedDisk,
    State, StoreFault, Trust,
};

use crate::adapters::PlatformHost;
use crate::store::Keeping;

/// How long a host may take to let a disk be opened, or formatted.
pub(crate) const PATIENCE_NS: u64 = 30_000_000_000;

/// Why a sealed disk is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealingError {
    /// No key.
    #[error("no key: {0}")]
    Key(#[from] PspError),
    /// No disk was known to need one.
    #[error("no key was asked for")]
    Unasked,
    /// No key of those who hold it.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The host has no way to them.
    #[error("K01: the host has no way to a key server, code {code}: {0}", code = .0.code().0)]
    NoLine(#[from] BackendError),
    /// No random numbers for nonces.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// Too little memory for it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot be opened.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The store does not tell how old it is.
    #[error(transparent)]
    Untold(#[from] Untold),
    /// The store is not there.
    #[error("D15: the store that remembers how new the disk is is missing")]
    NoStore,
    /// The host did not answer in time.
    #[error("the host does not answer")]
    Silent,
}

impl SealingError {
    /// Says what is likely when nothing fits the key, and what to do: the image is the likeliest thing to have changed.
    pub(crate) fn explain(&self) {
        if matches!(
            self,
            Self::Fault(Fault::Superblock) | Self::Store(StoreFault::NothingAuthentic)
        ) {
            log::error!(
                "it was probably sealed by another image (other arguments, kernel or version), on another chip or with another key: run it as it was then; what is to outlive an image is sealed with --seal family"
            );
        }
    }
}

/// Which disk, and what the guest gets of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order<'a> {
    /// Its number.
    pub(crate) index: u8,
    /// What the guest may do.
    pub(crate) access: DiskAccess,
    /// Its name.
    pub(crate) id: [u8; 20],
    /// Its rings for the guest's processors.
    pub(crate) queues: u16,
    /// Where its newest state is remembered.
    pub(crate) keeping: &'a Keeping,
}

/// Opens a sealed disk. One that is empty is formatted.
pub(crate) fn open(
    block: Block<AnyShared>,
    key: DiskKey,
    order: &Order<'_>,
    host: &mut PlatformHost,
    clock: &impl Timekeeper,
) -> Result<(Blk, Sealed), SealingError> {
    let mut entropy = [0; 32];
    random::fill(&mut entropy)?;
    let config = Config {
        requests: usize::from(SEALED_DEPTH),
        slots: block.slot_count(),
        access: match order.access {
            DiskAccess::ReadWrite => Access::ReadWrite,
            DiskAccess::ReadOnly => Access::ReadOnly,
        },
        anchoring: match order.keeping {
            Keeping::Nowhere => Anchoring::Lazy,
            Keeping::In(_) | Keeping::Failed => Anchoring::Strict,
        },
        ..Config::default()
    };
    let anchors = match order.keeping {
        Keeping::Nowhere => None,
        Keeping::In(records) => Some(Anchors::new(records.clone(), order.index)),
        Keeping::Failed => return Err(SealingError::NoStore),
    };
    let trust = anchors
        .as_ref()
        .map_or(Ok(Trust::FirstUse), Anchors::trust)?;
    let host_blocks = block.capacity() / (BLOCK_BYTES as u64 / SECTOR_BYTES);
    let disk = SealedDisk::new(key, entropy, trust, host_blocks, config)?;
    let mut sealed = Sealed::new(disk, block, anchors);
    let until = clock.now_ns().saturating_add(PATIENCE_NS);
    while sealed.state() == State::Opening || !sealed.is_anchored() {
        let turn = sealed.open(host);
        order.keeping.work(host);
        if turn == Turn::Done && clock.now_ns() > until {
            return Err(SealingError::Silent);
        }
    }
    let freshness = match sealed.state() {
        State::Open(freshness) => freshness,
        State::Failed(fault) => return Err(SealingError::Fault(fault)),
        State::Opening | State::Offline => return Err(SealingError::Silent),
    };
    say_how_new(order, freshness);
    let front = sealed
        .front(order.access, order.id, order.queues)
        .ok_or(SealingError::Silent)?;
    Ok((front, sealed))
}

fn say_how_new(order: &Order<'_>, freshness: Freshness) {
    let index = order.index;
    let known = match (order.keeping, freshness) {
        (Keeping::Nowhere, _) => {
            "no store remembers it, so a rollback of the whole disk goes unnoticed"
        }
        (_, Freshness::Newest) => "as the store remembers it",
        (_, Freshness::Ahead) => "one commit newer than the store, as a power cut leaves it",
        (_, Freshness::Formatted) => "remembered by the store from now on",
        (_, Freshness::Unknown) => {
            "the store did not know it: how old it is is not known, from now on it is remembered"
        }
    };
    log::info!("disk {index}: sealed, {freshness:?}; {known}");
}
