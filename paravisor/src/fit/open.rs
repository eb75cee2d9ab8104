//! Devices of the host, opened one by one, each behind its front-end.

use alloc::boxed::Box;

use stockade_backend::block::{self, Block};
use stockade_backend::console::{self, Console};
use stockade_backend::net::Net;
use stockade_backend::shared::AnyShared;
use stockade_backend::transport::Doorbell;
use stockade_backend::{BackendError, Function};
use stockade_boot::manifest::{
    CONSOLE_BYTES, DiskEntry, DiskMode, KEYS_BYTES, KEYS_HOST_DEVICE, LEAST_DISK_BYTES, Manifest,
    NET_BYTES, NetEntry,
};
use stockade_paravisor::records::Records;
use stockade_paravisor::screen::{Screen, Surface};
use stockade_paravisor::virtio::{Bays, Card, Characters, Fitted, Frames, Plain};
use stockade_platform::ghcb::{DEVICE_VECTOR, LAST_DEVICE_VECTOR};
use stockade_platform::memory::GuestRam;
use stockade_platform::psp::Psp;
use stockade_platform::{Ghcb, SharedRegion};

use super::bounce::Bounce;
use super::bytes;
use crate::adapters::{PlatformHost, Time};
use crate::disk_keys::{Asking, DiskKeys, Secret};
use crate::sealing::{self, Order, SealingError};
use crate::store::{self, Keeping};

/// A network card has room for both queues and 128 frames either way.
const _: () = assert!(NET_BYTES >= (8 << 10) + (512 << 10));
const _: () = assert!(CONSOLE_BYTES == console::MEMORY as u64);
const _: () = assert!(LEAST_DISK_BYTES >= block::MIN_MEMORY as u64);
/// Rings of a disk: behind them is one queue of the host's, so more gain nothing.
const MAX_QUEUES: u16 = 4;

/// Why a device is missing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
    /// The host's device.
    #[error("code {code}: {0}", code = .0.code().0)]
    Backend(#[from] BackendError),
    /// What is sealed on it.
    #[error("{0}")]
    Sealing(#[from] SealingError),
}

impl Missing {
    /// Says what is likely, where more than the reason can be said.
    pub(super) fn explain(&self) {
        if let Self::Sealing(error) = self {
            error.explain();
        }
    }
}

/// What devices are put together with.
pub(crate) struct Fitter<'a> {
    pub(crate) host: &'a mut PlatformHost,
    pub(crate) ram: &'static GuestRam,
    pub(crate) clock: Time,
    pub(crate) psp: &'a mut Psp,
    pub(crate) ghcb: Ghcb,
    pub(crate) vcpus: u32,
}

impl Fitter<'_> {
    /// Returns where the next device is, and which processor it signals: each another one, as far as they go.
    pub(super) fn place(&self, device: u8, bays: &Bays) -> Place {
        Place::new(
            device,
            bays.vector_of_next(),
            bays.processor_of_next(self.vcpus),
        )
    }

    /// Returns how many rings a disk has for the guest's processors.
    fn queues(&self) -> u16 {
        u16::try_from(self.vcpus).map_or(MAX_QUEUES, |vcpus| vcpus.clamp(1, MAX_QUEUES))
    }

    /// Asks for the secret of disks and store.
    pub(super) fn secret(&mut self, manifest: &Manifest) -> Secret {
        Secret::ask(manifest, self.psp, &self.ghcb, &self.clock)
    }

    /// Asks for the keys of sealed disks that are released elsewhere, by the host's console. The store is open by then: who has them is told
    /// what it remembers of starts.
    pub(super) fn keys(
        &mut self,
        manifest: &Manifest,
        bounce: &mut SharedRegion,
        secret: Secret,
        keeping: &Keeping,
    ) -> DiskKeys {
        let ram = self.ram;
        let mut asking = Asking {
            psp: self.psp,
            ghcb: &self.ghcb,
            host: self.host,
            clock: &self.clock,
            keeping,
        };
        let released = asking.released(manifest, |host| {
            let place = Place::of_records(KEYS_HOST_DEVICE);
            let memory = shared(bounce.split_off(bytes(KEYS_BYTES)), ram)?;
            Ok(Console::open(host, place.function, memory, place.doorbell)?)
        });
        DiskKeys::new(secret, released)
    }

    /// Opens the store before the disks it remembers.
    pub(super) fn keeping(
        &mut self,
        manifest: &Manifest,
        bounce: &mut SharedRegion,
        bays: &mut Bays,
        secret: &Secret,
    ) -> Keeping {
        let Some(entry) = manifest.devices().store() else {
            return Keeping::Nowhere;
        };
        let place = Place::of_records(entry.host_device());
        let region = bounce.split_off(bytes(LEAST_DISK_BYTES));
        match self.store(region, place, bays, secret) {
            Ok(records) => Keeping::In(records),
            Err(error) => {
                let function = place.function;
                log::error!("sealed store is missing: host device {function}, {error}");
                error.explain();
                Keeping::Failed
            }
        }
    }

    fn store(
        &mut self,
        region: Option<SharedRegion>,
        place: Place,
        bays: &mut Bays,
        secret: &Secret,
    ) -> Result<Records, Missing> {
        let memory = self.memory(region)?;
        let block = Block::open(self.host, place.function, memory, place.doorbell)?;
        let attention = bays.attention_of_records();
        let records = store::open(block, secret.get()?, attention, self.host, &self.clock)?;
        bays.keep(&records);
        Ok(records)
    }

    fn memory(&self, region: Option<SharedRegion>) -> Result<AnyShared, BackendError> {
        shared(region, self.ram)
    }

    pub(super) fn net(
        &mut self,
        net: &NetEntry,
        region: Option<SharedRegion>,
        place: Place,
    ) -> Result<Box<dyn Fitted>, Missing> {
        let memory = self.memory(region)?;
        let wire = Net::open(self.host, place.function, memory, place.doorbell)?;
        log::info!("network card: host device {}", place.function);
        Ok(Box::new(Card::new(Frames::new(wire, net.mac()), self.ram)))
    }

    pub(super) fn screen(
        &mut self,
        region: Option<SharedRegion>,
        place: Place,
        bays: &Bays,
    ) -> Result<Screen, Missing> {
        let memory = self.memory(region)?;
        let block = Block::open(self.host, place.function, memory, place.doorbell)?;
        log::warn!("screen: the host sees what the guest shows");
        let surface = Surface::new(bays.attention_of_screen());
        Ok(Screen::new(block, self.ram, surface))
    }

    pub(super) fn console(
        &mut self,
        region: Option<SharedRegion>,
        place: Place,
    ) -> Result<Box<dyn Fitted>, Missing> {
        let memory = self.memory(region)?;
        let wire = Console::open(self.host, place.function, memory, place.doorbell)?;
        log::info!("console: host device {}", place.function);
        Ok(Box::new(Card::new(Characters::new(wire), self.ram)))
    }

    pub(super) fn disk(
        &mut self,
        disk: &DiskEntry,
        index: u8,
        region: Option<SharedRegion>,
        place: Place,
        (keys, keeping): (&mut DiskKeys, &Keeping),
    ) -> Result<Box<dyn Fitted>, Missing> {
        let memory = self.memory(region)?;
        let block = Block::open(self.host, place.function, memory, place.doorbell)?;
        let mib = block.capacity() / ((1 << 20) / block::SECTOR_BYTES);
        log::info!("disk {index}: {mib} MiB at host device {}", place.function);
        let (access, id) = (disk.access(), name(index));
        match disk.mode() {
            DiskMode::PLAIN => {
                let plain = Plain::new(block, access, id, self.queues());
                Ok(Box::new(Card::new(plain, self.ram)))
            }
            DiskMode::SEALED => {
                let key = keys.take(disk, index)?;
                let order = Order {
                    index,
                    access,
                    id,
                    queues: self.queues(),
                    keeping,
                };
                let sealed = sealing::open(block, key, &order, self.host, &self.clock)?;
                Ok(Box::new(Card::new(sealed, self.ram)))
            }
            _ => Err(BackendError::Lacks("an engine for its mode").into()),
        }
    }
}

/// Returns a device's part of the shared memory.
fn shared(region: Option<SharedRegion>, ram: &'static GuestRam) -> Result<AnyShared, BackendError> {
    let region = region.ok_or(BackendError::NoMemory)?;
    Ok(Box::new(Bounce { region, ram }))
}

/// Where a device of the host is, and how it signals.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) function: Function,
    doorbell: Doorbell,
}

impl Place {
    /// What is no device of the guest's has no bay, and signals the records.
    fn of_records(device: u8) -> Self {
        Self::new(device, Bays::VECTOR_OF_RECORDS, 0)
    }

    pub(super) fn new(device: u8, vector: u8, apic_id: u8) -> Self {
        Self {
            function: Function {
                device,
                function: 0,
            },
            doorbell: Doorbell {
                apic_id,
                vector: DEVICE_VECTOR + vector,
                change_vector: LAST_DEVICE_VECTOR,
            },
        }
    }
}

/// What the guest knows a disk by.
fn name(index: u8) -> [u8; 20] {
    let mut name = [0; 20];
    name[..14].copy_from_slice(b"stockade-disk-");
    // At most 14 disks.
    name[14] = b'0' + index / 10;
    name[15] = b'0' + index % 10;
    name
}
