//! The modern virtio transport over PCI (Virtio 1.2, 4.1): any [`VirtioDevice`] as a PCI function.
//!
//! BAR 1 has the MSI-X table, BAR 4 the four register blocks that `layout` places; `common` is the block that starts and stops the
//! device. The device reaches guest memory only while the guest lets the function master the bus ([`Dma`]). Legacy drivers find nothing here.

use stockade_bus::{AccessError, GuestMemory, Level, PciConfig};

use super::bars::{BARS, Bar, BarKind, BarRange};
use super::endpoint::{Endpoint, Identity, Written};
use super::function::PciFunction;
use super::msix::{MsiMessage, Vector};
use crate::virtio::{Features, Interrupts, VirtioDevice, Work};

mod common;
mod dma;
mod layout;
mod saved;
mod window;

use common::{Asked, Common, Facts};
pub use common::{DeviceStatus, NO_VECTOR};
pub use dma::Dma;
use layout::{Block, MSIX_BAR, REGISTER_BAR};
pub use saved::{QueueState, VirtioPciState};

/// The vendor of all virtio devices (4.1.2).
const VENDOR: u16 = 0x1AF4;
/// Device id of the virtio device number 0 (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
/// Not transitional (4.1.2.1).
const REVISION: u8 = 1;

/// ISR status (4.1.4.5).
const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIG: u8 = 1 << 1;

/// A virtio device as a PCI function.
#[derive(Debug)]
pub struct VirtioPci<D, M> {
    memory: M,
    device: D,
    /// Offset of the PCI configuration access capability.
    window: u8,

    endpoint: Endpoint,
    common: Common,
    isr: u8,

    /// The device has not done all it was asked for.
    work: Work,
}

impl<D: VirtioDevice, M: GuestMemory> VirtioPci<D, M> {
    /// Returns the device as a function, its rings and buffers in `memory`.
    #[must_use]
    pub fn new(device: D, memory: M) -> Self {
        let queues = device.queue_count();
        let endpoint = Endpoint::new(identity(&device))
            .with_msix(MSIX_BAR, queues.saturating_add(1))
            .with_bar(REGISTER_BAR, BarKind::Memory64, layout::SIZE)
            .with_function_reset();
        let (endpoint, window) = layout::with_capabilities(endpoint);
        let maximum = |queue| device.queue_max_size(queue).unwrap_or(0);
        Self {
            common: Common::new((0..queues).map(maximum).collect()),
            memory,
            device,
            window,
            endpoint,
            isr: 0,
            work: Work::Done,
        }
    }

    /// Returns the device.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Works on the device from its other side: takes requests, completes them, changes its configuration. What the driver is to be told
    /// of it leaves with [`PciFunction::take_messages`] and [`PciFunction::interrupt`].
    pub fn with_device<R>(&mut self, work: impl FnOnce(&mut D, &Dma<'_, M>) -> R) -> R {
        let dma = Dma::new(&self.memory, self.endpoint.is_bus_master());
        let result = work(&mut self.device, &dma);
        self.tell();
        result
    }

    /// Returns whether the driver runs the device: it has said DRIVER_OK and lets it reach memory.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.is_driven() && self.endpoint.is_bus_master()
    }

    /// Returns whether the driver runs the device and keeps it from memory: it is to stand still until it may go on.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.is_driven() && !self.endpoint.is_bus_master()
    }

    fn is_driven(&self) -> bool {
        self.common.status().contains(DeviceStatus::DRIVER_OK)
    }

    /// Returns whether the device has more to do of what it was notified of: call [`VirtioPci::work`] soon, after other work.
    pub fn pending_work(&self) -> Work {
        self.work
    }

    /// Goes on with what a notification left over.
    pub fn work(&mut self) -> Work {
        if self.work == Work::More && self.is_running() {
            self.work = self.device.work(&Dma::new(&self.memory, true));
            self.tell();
        }
        self.work
    }

    fn notify(&mut self, queue: u16) {
        if self.is_running() {
            let work = self.device.notify(queue, &Dma::new(&self.memory, true));
            self.note(work);
            self.tell();
        }
    }

    fn note(&mut self, work: Work) {
        if work == Work::More {
            self.work = work;
        }
    }

    /// Signals what the device has for its driver.
    fn tell(&mut self) {
        // The rings say which interrupts are wanted. Without bus mastering they cannot be asked, and later is early enough.
        if !self.endpoint.is_bus_master() {
            return;
        }
        let dma = Dma::new(&self.memory, true);
        let Interrupts { queues, config } = self.device.take_interrupts(&dma);
        let mut rest = queues;
        while rest != 0 {
            // At most 63.
            let queue = u16::try_from(rest.trailing_zeros()).unwrap_or(0);
            rest &= rest - 1;
            self.signal(self.common.queue_vector(queue), ISR_QUEUE);
        }
        if config {
            self.signal(self.common.config_vector(), ISR_CONFIG);
        }
    }

    fn signal(&mut self, vector: Vector, isr: u8) {
        if self.endpoint.is_msix_enabled() {
            // NO_VECTOR has no entry in any table.
            self.endpoint.signal(vector);
        } else {
            self.isr |= isr;
            self.endpoint.set_interrupt(Level::High);
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            features: self.device.device_features(),
            generation: self.device.config_generation(),
            needs_reset: self.device.needs_reset(),
            last_vector: self.device.queue_count(),
        }
    }

    fn carry_out(&mut self, asked: Asked) {
        match asked {
            Asked::Nothing => {}
            Asked::Reset => self.reset_device(),
            Asked::Negotiate(features) => {
                if self.accepts(features) {
                    self.common.accept_features();
                }
            }
            Asked::Activate => {
                let dma = Dma::new(&self.memory, self.endpoint.is_bus_master());
                self.device.activate(&self.common.queues(), &dma);
                self.tell();
            }
        }
    }

    /// Bits that were not offered are refused here, combinations by the device (2.2).
    fn accepts(&mut self, features: Features) -> bool {
        self.device.device_features().contains(features)
            && features.contains(Features::VERSION_1)
            && self.device.negotiate(features).is_ok()
    }

    fn reset_device(&mut self) {
        self.device.reset();
        self.common.reset();
        self.isr = 0;
        self.work = Work::Done;
        self.endpoint.set_interrupt(Level::Low);
    }

    fn read_isr(&mut self) -> u8 {
        self.endpoint.set_interrupt(Level::Low);
        core::mem::take(&mut self.isr)
    }

    fn read_block(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let (block, within) = layout::find(offset).ok_or(AccessError::NoRegister)?;
        match block {
            Block::Common => self.common.read(within, data, &self.facts()),
            Block::Isr => {
                data.fill(0);
                if let (0, Some(first)) = (within, data.first_mut()) {
                    *first = self.read_isr();
                }
            }
            Block::Device => self.device.read_config(within, data),
            Block::Notify => data.fill(0),
        }
        Ok(())
    }

    fn write_block(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let (block, within) = layout::find(offset).ok_or(AccessError::NoRegister)?;
        match block {
            Block::Common => {
                let asked = self.common.write(within, data, &self.facts());
                self.carry_out(asked);
            }
            Block::Isr => {}
            Block::Device => {
                self.device.write_config(within, data);
                self.tell();
            }
            Block::Notify => self.notify(layout::notified_queue(within)),
        }
        Ok(())
    }

    /// Writes a configuration register, then does what that made possible.
    fn write_register(&mut self, offset: u16, value: u32, mask: u32) {
        let was_master = self.endpoint.is_bus_master();
        if self.endpoint.write(offset, value, mask) == Written::Reset {
            self.reset();
        }
        if !was_master && self.is_running() {
            // Notifications while it could not reach memory went unheard.
            for queue in 0..self.device.queue_count() {
                self.notify(queue);
            }
        }
    }
}

fn identity<D: VirtioDevice>(device: &D) -> Identity {
    let id = FIRST_DEVICE.saturating_add(device.device_id().0);
    let [interface, subclass, class, _] = device.class_code().to_le_bytes();
    Identity {
        vendor: VENDOR,
        device: id,
        class: [interface, subclass, class],
        revision: REVISION,
        subsystem_vendor: VENDOR,
        subsystem: id,
    }
}

impl<D: VirtioDevice, M: GuestMemory> PciConfig for VirtioPci<D, M> {
    fn config_read(&mut self, offset: u16) -> u32 {
        if window::is_data(self.window, offset) {
            return self.read_through_window();
        }
        self.endpoint.read(offset)
    }

    fn config_write(&mut self, offset: u16, value: u32, mask: u32) {
        if window::is_data(self.window, offset) {
            self.write_through_window(value, mask);
        } else {
            self.write_register(offset, value, mask);
        }
    }
}

impl<D: VirtioDevice, M: GuestMemory> PciFunction for VirtioPci<D, M> {
    fn bar_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        if self.endpoint.msix_read(bar, offset, data) {
            return Ok(());
        }
        match bar {
            REGISTER_BAR => self.read_block(offset, data),
            _ => Err(AccessError::NoRegister),
        }
    }

    fn bar_write(&mut self, bar: Bar, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        if self.endpoint.msix_write(bar, offset, data) {
            return Ok(());
        }
        match bar {
            REGISTER_BAR => self.write_block(offset, data),
            _ => Err(AccessError::NoRegister),
        }
    }

    fn decoded(&self) -> [Option<BarRange>; BARS] {
        self.endpoint.decoded()
    }

    fn interrupt(&self) -> Level {
        self.endpoint.interrupt()
    }

    fn take_messages(&mut self, send: &mut dyn FnMut(MsiMessage)) {
        self.endpoint.take_messages(send);
    }

    fn reset(&mut self) {
        self.reset_device();
        self.endpoint.reset();
    }
}

#[cfg(test)]
mod tests;
