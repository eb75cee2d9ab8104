//! What engines in front of a disk of the host have in common: the disk, what they gather for it, and their turns.

use stockade_backend::HostBus;
use stockade_backend::block::Block;
use stockade_backend::shared::AnyShared;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::blk::Blk;

use super::gather::{Gathering, Rest};
use super::{Engine, Refusals, Turn};

/// Rounds of a turn: after the first there may be what came meanwhile, without a signal.
const ROUNDS: usize = 2;

/// A disk of the host and what waits for it.
pub struct HostDisk {
    pub(super) block: Block<AnyShared>,
    pub(super) gathering: Gathering,
}

impl HostDisk {
    pub(super) fn new(block: Block<AnyShared>) -> Self {
        Self {
            block,
            gathering: Gathering::default(),
        }
    }
}

/// An engine in front of one.
pub trait DiskEngine {
    /// Returns the disk.
    fn host(&self) -> &HostDisk;

    /// Returns the disk, to be worked with.
    fn host_mut(&mut self) -> &mut HostDisk;

    /// Begins a turn.
    fn begin_turn(&mut self) {}

    /// Carries everything one step further.
    fn round(&mut self, blk: &mut Blk, memory: &dyn GuestMemory, bus: &mut dyn HostBus) -> Turn;

    /// Returns whether it wants a turn when records have become durable.
    fn has_records(&self) -> bool {
        false
    }
}

impl<E: DiskEngine> Engine for E {
    type Front = Blk;

    fn refusals(&self, blk: &Blk) -> Refusals {
        Refusals {
            io_errors: blk.io_errors(),
            offline_devices: u64::from(self.host().block.failure().is_some()),
            ..Refusals::default()
        }
    }

    fn turn(&mut self, blk: &mut Blk, memory: &dyn GuestMemory, bus: &mut dyn HostBus) -> Turn {
        self.begin_turn();
        for _ in 0..ROUNDS {
            let HostDisk { block, gathering } = self.host_mut();
            gathering.begin_round(blk, block);
            if self.round(blk, memory, bus) == Turn::More {
                return Turn::More;
            }
            let HostDisk { block, gathering } = self.host_mut();
            if gathering.end_round(blk, memory, block) == Rest::Quiet {
                return Turn::Done;
            }
        }
        Turn::More
    }

    fn late(&mut self) {
        self.host_mut().gathering.late();
    }

    fn gathers(&self, blk: &Blk) -> bool {
        self.host().gathering.is_due_soon(blk)
    }

    fn hush(&mut self) -> bool {
        self.host_mut().block.hush()
    }

    fn has_news(&self) -> bool {
        let HostDisk { block, gathering } = self.host();
        block.has_finished(gathering.awaited())
    }

    fn check(&mut self, mut bus: &mut dyn HostBus) {
        self.host_mut().block.check(&mut bus);
    }

    fn watch(&mut self, mut bus: &mut dyn HostBus, now_ns: u64) -> Option<u64> {
        self.host_mut().block.watch(&mut bus, now_ns)
    }

    fn keeps_records(&self) -> bool {
        self.has_records()
    }
}
