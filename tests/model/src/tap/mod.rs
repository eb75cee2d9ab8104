//! The host between its devices and their drivers: what a lying host sees of virtio, and where it lies.
//!
//! With an attack that is a [`Lie`] the model watches the driver's writes to the common configuration ([`device`]), keeps the
//! device's used rings to itself and tells the driver of completions by its own hand ([`queue`]), so that each lie takes
//! place at a certain point and not by chance. An [`Exchange`] is what the lie sees of a queue. Without an attack none of
//! this exists, and devices write the guest's rings themselves.

mod block;
mod chain;
mod device;
mod exchange;
mod forgery;
mod lie;
mod offloads;
mod queue;
mod received;
mod rounds;
mod sectors;

pub use block::{BlockKind, BlockRequest, SECTOR};
pub use chain::{GuestBytes, Segment};
pub use device::{Device, Told, USED_REGISTER};
pub use exchange::Exchange;
pub use forgery::{Forge, Forgery};
pub use lie::{Count, Lie, Victims, Who};
pub use offloads::Offloads;
pub use queue::{Element, Queue};
pub use received::{NetHeader, Received, TCP4, in_turn};
pub use rounds::{Rounds, Written};
pub use sectors::Sectors;

use crate::host::pci::{Address, Pci, Register};
use alloc::vec::Vec;

/// Where the devices' used rings lie in place of the guest's, for the devices.
const SHADOWS: u64 = 0x7000_0000_0000;
/// Room for one.
pub const SHADOW_BYTES: u64 = 0x4000;

/// Everything known of the guest's virtio.
pub struct Tap {
    lie: &'static dyn Lie,
    devices: Vec<Device>,
    /// Vectors the guest gave its devices' messages.
    vectors: Vec<u8>,
}

impl Tap {
    /// Watches the virtio functions of the bus.
    pub fn new(lie: &'static dyn Lie, pci: &Pci) -> Self {
        let devices = (0..)
            .zip(pci.functions())
            .filter_map(|(index, function)| {
                Some(Device::new(index, function.address, function.virtio?))
            })
            .collect();
        Self {
            lie,
            devices,
            vectors: Vec::new(),
        }
    }

    /// What the guest is told for its read of configuration space.
    pub fn config(
        &self,
        pci: &Pci,
        address: Address,
        register: u8,
        bytes: usize,
        value: u32,
    ) -> u32 {
        let mut devices = self.devices.iter();
        let is_it = |device: &&Device| {
            let function = pci.functions().get(device.function);
            function.is_some_and(|function| function.address == address)
        };
        match devices.find(is_it) {
            Some(device) => self.lie.config_read(device.who(), register, bytes, value),
            None => value,
        }
    }

    /// What the guest is told for its read of a register.
    pub fn read(&self, function: usize, register: Register, len: usize, value: u64) -> u64 {
        match self.device(function) {
            Some(device) => {
                let value = device.honest_read(register, len, value);
                self.lie.register_read(device.who(), register, len, value)
            }
            None => value,
        }
    }

    /// The guest writes a register: what the device is to be told.
    pub fn write(&mut self, function: usize, register: Register, len: usize, value: u64) -> Told {
        if let Register::MessageTable(offset) = register
            && offset % 16 == 8
            && let [vector, ..] = value.to_le_bytes()
            && vector >= 0x20
            && !self.vectors.contains(&vector)
        {
            self.vectors.push(vector);
        }
        let slot = self
            .devices
            .iter_mut()
            .zip((SHADOWS..).step_by(0x1000_0000));
        let mut slot = slot.filter(|(device, _)| device.function == function);
        match slot.next() {
            Some((device, shadows)) => device.write(register, len, value, shadows, self.lie),
            None => Told::Value(value),
        }
    }

    /// A queue of a function.
    pub fn queue(&mut self, function: usize, queue: usize) -> Option<&mut Queue> {
        let mut devices = self.devices.iter_mut();
        let device = devices.find(|device| device.function == function)?;
        device.queues.get_mut(queue)
    }

    /// The queue that was just notified, before its device hears of it.
    pub fn notified(&mut self, function: usize, queue: u64, memory: &dyn GuestBytes) {
        let lie = self.lie;
        let mut devices = self.devices.iter_mut();
        let Some(device) = devices.find(|device| device.function == function) else {
            return;
        };
        let who = device.who();
        let slot = usize::try_from(queue).ok();
        if let Some(queue) = slot.and_then(|queue| device.queues.get_mut(queue))
            && queue.is_live()
        {
            lie.notified(&mut Exchange::new(who, queue, memory));
        }
    }

    /// Tells the drivers what their devices have done since the last look, in the host's own words.
    pub fn look(&mut self, memory: &dyn GuestBytes) {
        let lie = self.lie;
        for device in &mut self.devices {
            let who = device.who();
            for queue in device.queues.iter_mut().filter(|queue| queue.is_live()) {
                let mut exchange = Exchange::new(who, queue, memory);
                exchange.forward(lie);
                lie.looked(&mut exchange);
                exchange.publish();
            }
        }
    }

    /// Whether a device's message reaches the guest.
    pub fn passes(&self, vector: u8) -> bool {
        !self.vectors.contains(&vector) || self.lie.message_passes()
    }

    /// Messages nobody sent.
    pub fn extra_messages(&self) -> &[u8] {
        let is_live = |device: &Device| device.who().is_live;
        if self.devices.iter().any(is_live) && self.lie.has_extra_message() {
            &self.vectors
        } else {
            &[]
        }
    }

    fn device(&self, function: usize) -> Option<&Device> {
        self.devices
            .iter()
            .find(|device| device.function == function)
    }
}
