//! The guest's virtio devices: front-ends in the guest's PCI slots, the host's devices behind them.
//!
//! A [`Card`] is a PCI function and the [`Engine`] behind it: [`Fitted::turn`] carries requests to the host and completions back,
//! a bounded amount a call, and never waits. Who calls it: the vCPU that notified the device, the vCPU whose doorbell says that the
//! host has something, and any vCPU as long as the last turn left something over.

mod attention;
mod bays;
mod card;
mod console;
mod disk;
mod entropy;
#[cfg(test)]
mod fake_guest;
mod gather;
mod host_disk;
mod net;
mod sealed;

use core::iter::Sum;

use stockade_backend::HostBus;
use stockade_bus::GuestMemory;
use stockade_devices::pci::PciFunction;
use stockade_devices::virtio::VirtioDevice;

pub use attention::{Attention, Doubt};
pub use bays::{Bay, Bays, DEVICE_VECTORS};
pub(crate) use bays::{Gathering, Moment, Watched};
pub use card::Card;
pub use console::Characters;
pub use disk::Plain;
pub use entropy::OwnEntropy;
pub use net::Frames;
pub use sealed::{Anchors, DEPTH as SEALED_DEPTH, Sealed, Untold};

/// Guest memory as devices have it.
pub type Memory = &'static (dyn GuestMemory + Sync);

/// Whether a device did all there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It did; the host or the guest will say when there is more.
    Done,
    /// Its budget is used up: another turn is due soon.
    More,
}

/// What is between a front-end and the host.
pub trait Engine {
    /// The front-end.
    type Front: VirtioDevice;

    /// Carries what there is between guest and host.
    fn turn(
        &mut self,
        front: &mut Self::Front,
        memory: &dyn GuestMemory,
        bus: &mut dyn HostBus,
    ) -> Turn;

    /// Sees whether the host's device still is what it was.
    fn check(&mut self, bus: &mut dyn HostBus);

    /// Looks after requests the host has had for long. Returns when it is to be called next, if there are any.
    fn watch(&mut self, bus: &mut dyn HostBus, now_ns: u64) -> Option<u64>;

    /// Returns whether it waits for more than one thing, or for what nobody will tell: it gets a turn soon, and before a vCPU sleeps.
    fn gathers(&self, _front: &Self::Front) -> bool {
        false
    }

    /// Notes that its next turn comes because it has gathered for long enough: nothing else brought it.
    fn late(&mut self) {}

    /// Has the host signal nothing until the next turn, for somebody looks whether there is news. Returns whether there will be.
    fn hush(&mut self) -> bool {
        false
    }

    /// Returns whether the host has done what the next turn waits for.
    fn has_news(&self) -> bool {
        false
    }

    /// Returns whether it wants a turn when records have become durable.
    fn keeps_records(&self) -> bool {
        false
    }

    /// Returns what it did not do.
    fn refusals(&self, _front: &Self::Front) -> Refusals {
        Refusals::default()
    }
}

/// What devices did not do, for what was wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Frames, of the host's or the guest's, that were dropped.
    pub dropped_frames: u64,
    /// Characters the guest wrote while its console took none.
    pub lost_characters: u64,
    /// Requests of the guest that ended with an I/O error.
    pub io_errors: u64,
    /// Devices that are offline, for what the host has done.
    pub offline_devices: u64,
}

impl Sum for Refusals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            dropped_frames: sum.dropped_frames.saturating_add(one.dropped_frames),
            lost_characters: sum.lost_characters.saturating_add(one.lost_characters),
            io_errors: sum.io_errors.saturating_add(one.io_errors),
            offline_devices: sum.offline_devices.saturating_add(one.offline_devices),
        })
    }
}

/// A device in a slot.
pub trait Fitted: PciFunction + Send {
    /// Returns whether it wants a turn when records have become durable.
    fn keeps_records(&self) -> bool {
        false
    }

    /// Returns whether it waits for more than one thing, or for what nobody will tell.
    fn gathers(&mut self) -> bool {
        false
    }

    /// Notes that its next turn comes because it has gathered for long enough.
    fn late(&mut self) {}

    /// Returns what it did not do.
    fn refusals(&mut self) -> Refusals {
        Refusals::default()
    }

    /// Has the host signal nothing until the next turn, for somebody looks whether there is news. Returns whether there will be.
    fn hush(&mut self) -> bool {
        false
    }

    /// Returns whether the host has done what the next turn waits for.
    fn has_news(&self) -> bool {
        false
    }

    /// Carries what there is between guest and host.
    fn turn(&mut self, bus: &mut dyn HostBus) -> Turn;
    /// Sees whether the host's device still is what it was.
    fn check(&mut self, bus: &mut dyn HostBus);
    /// Looks after requests the host has had for long. Returns when it is to be called next, if there are any.
    fn watch(&mut self, bus: &mut dyn HostBus, now_ns: u64) -> Option<u64>;
}
