//! The entropy source: there is nothing behind it but the processor.

use core::marker::PhantomData;

use stockade_backend::HostBus;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::rng::{Entropy, Rng};

use super::{Engine, Turn};

/// No host, and nothing to carry.
#[derive(Debug, Default)]
pub struct OwnEntropy<E>(PhantomData<E>);

impl<E: Entropy> OwnEntropy<E> {
    /// Returns the engine, and the front-end that draws from `source`.
    #[must_use]
    pub fn new(source: E) -> (Rng<E>, Self) {
        (Rng::new(source), Self(PhantomData))
    }
}

impl<E: Entropy> Engine for OwnEntropy<E> {
    type Front = Rng<E>;

    fn turn(&mut self, _: &mut Rng<E>, _: &dyn GuestMemory, _: &mut dyn HostBus) -> Turn {
        Turn::Done
    }

    fn check(&mut self, _: &mut dyn HostBus) {}

    fn watch(&mut self, _: &mut dyn HostBus, _: u64) -> Option<u64> {
        None
    }
}
