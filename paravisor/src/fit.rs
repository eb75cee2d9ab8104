//! The guest's virtio devices, put together from the manifest and what the host has.
//!
//! A device the host does not have, or that cannot be driven, is left out and said in the log: the guest misses it, as it would miss
//! a disk somebody pulled.

use alloc::boxed::Box;

use stockade_abi::terminate::StopReason;
use stockade_backend::block::{self, Block};
use stockade_backend::console::{self, Console};
use stockade_backend::net::Net;
use stockade_backend::shared::AnyShared;
use stockade_backend::transport::Doorbell;
use stockade_backend::{BackendError, Function};
use stockade_boot::manifest::{
    CONSOLE_BYTES, CONSOLE_HOST_DEVICE, DiskEntry, DiskMode, GuestFlags, KEYS_BYTES,
    KEYS_HOST_DEVICE, LEAST_DISK_BYTES, Manifest, NET_BYTES, NetEntry, screen,
};
use stockade_devices::virtio::rng::{Entropy, NoEntropy};
use stockade_paravisor::boot_order::BootOrder;
use stockade_paravisor::machine::{Functions, SlotNumber};
use stockade_paravisor::records::Records;
use stockade_paravisor::screen::{Screen, Surface};
use stockade_paravisor::virtio::{Bays, Card, Characters, Fitted, Frames, OwnEntropy, Plain};
use stockade_platform::ghcb::{DEVICE_VECTOR, LAST_DEVICE_VECTOR};
use stockade_platform::memory::GuestRam;
use stockade_platform::psp::Psp;
use stockade_platform::{Ghcb, SharedRegion, random};

mod bounce;

use bounce::Bounce;

use crate::adapters::{PlatformHost, Time};
use crate::disk_keys::{Asking, DiskKeys, Secret};
use crate::flash;
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
enum Missing {
    /// The host's device.
    #[error("code {code}: {0}", code = .0.code().0)]
    Backend(#[from] BackendError),
    /// What is sealed on it.
    #[error("{0}")]
    Sealing(#[from] SealingError),
}

impl Missing {
    fn explain(&self) {
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

/// The devices of the manifest.
#[derive(Default)]
pub(crate) struct Fit {
    pub(crate) functions: Functions,
    pub(crate) bays: Bays,
    pub(crate) boot_order: BootOrder,
}

/// Returns the devices of the manifest.
///
/// # Errors
/// Why the guest must not start without one of them.
pub(crate) fn devices(
    manifest: &Manifest,
    bounce: Option<SharedRegion>,
    fitter: &mut Fitter<'_>,
) -> Result<Fit, StopReason> {
    let mut all = Fit::default();
    // Who has a disk or a card has an entropy source too.
    let has_entropy = bounce.is_some() || manifest.flags().contains(GuestFlags::ENTROPY);
    let keeping = match bounce {
        Some(bounce) => fit_host_devices(manifest, bounce, fitter, &mut all)?,
        None => Keeping::Nowhere,
    };
    flash::fit(manifest, fitter.ram, &keeping, &mut all.bays)?;
    if has_entropy {
        let entropy = Card::new(OwnEntropy::new(Processor), fitter.ram);
        all.take(Box::new(entropy));
    }
    // A signal to a processor that has yet to start may be lost.
    all.bays.look_at_all();
    Ok(all)
}

fn fit_host_devices(
    manifest: &Manifest,
    mut bounce: SharedRegion,
    fitter: &mut Fitter<'_>,
    all: &mut Fit,
) -> Result<Keeping, StopReason> {
    let devices = manifest.devices();
    for (index, net) in (0..).zip(devices.nets()) {
        let place = fitter.place(net.host_device(), &all.bays);
        match fitter.net(net, bounce.split_off(bytes(NET_BYTES)), place) {
            Ok(card) => _ = all.take(card),
            Err(error) => report("network card", index, place, &error),
        }
    }
    if manifest.flags().contains(GuestFlags::CONSOLE) {
        let place = fitter.place(CONSOLE_HOST_DEVICE, &all.bays);
        match fitter.console(bounce.split_off(console::MEMORY), place) {
            Ok(card) => _ = all.take(card),
            Err(error) => report("console", 0, place, &error),
        }
    }
    if manifest.flags().contains(GuestFlags::SCREEN) {
        let place = Place::new(screen::HOST_DEVICE, Bays::VECTOR_OF_RECORDS, 0);
        match fitter.screen(
            bounce.split_off(bytes(screen::SHARED_BYTES)),
            place,
            &all.bays,
        ) {
            Ok(screen) => all.bays.show(screen),
            Err(error) => report("screen", 0, place, &error),
        }
    }
    let secret = fitter.secret(manifest);
    let keeping = fitter.keeping(manifest, &mut bounce, &mut all.bays, &secret);
    let mut keys = fitter.keys(manifest, &mut bounce, secret, &keeping);
    keys.check_store()?;
    let share = bounce.len_bytes() / devices.disks().count().max(1);
    for (index, disk) in (0..).zip(devices.disks()) {
        let place = fitter.place(disk.host_device(), &all.bays);
        let sealed = (&mut keys, &keeping);
        match fitter.disk(disk, index, bounce.split_off(share), place, sealed) {
            Ok(card) => {
                let slot = all.take(card);
                all.boot_order.add(disk.boot_index(), slot);
            }
            Err(error) => report("disk", index, place, &error),
        }
    }
    Ok(keeping)
}

impl Fit {
    /// Puts a device into the next slot, and returns which that is.
    fn take(&mut self, card: Box<dyn Fitted>) -> Option<SlotNumber> {
        let slot = self.bays.fit(card, &mut self.functions);
        if slot.is_none() {
            log::error!("no slot is left for a device");
        }
        slot
    }
}

impl Fitter<'_> {
    /// Returns where the next device is, and which processor it signals: each another one, as far as they go.
    fn place(&self, device: u8, bays: &Bays) -> Place {
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
    fn secret(&mut self, manifest: &Manifest) -> Secret {
        Secret::ask(manifest, self.psp, &self.ghcb)
    }

    /// Asks for the keys of sealed disks that are released elsewhere, by the host's console. The store is open by then: who has them is told
    /// what it remembers of starts.
    fn keys(
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
    fn keeping(
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

    fn net(
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

    fn screen(
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

    fn console(
        &mut self,
        region: Option<SharedRegion>,
        place: Place,
    ) -> Result<Box<dyn Fitted>, Missing> {
        let memory = self.memory(region)?;
        let wire = Console::open(self.host, place.function, memory, place.doorbell)?;
        log::info!("console: host device {}", place.function);
        Ok(Box::new(Card::new(Characters::new(wire), self.ram)))
    }

    fn disk(
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
struct Place {
    function: Function,
    doorbell: Doorbell,
}

impl Place {
    /// What is no device of the guest's has no bay, and signals the records.
    fn of_records(device: u8) -> Self {
        Self::new(device, Bays::VECTOR_OF_RECORDS, 0)
    }

    fn new(device: u8, vector: u8, apic_id: u8) -> Self {
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

/// A number of bytes, which is small.
fn bytes(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
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

fn report(kind: &str, index: u8, place: Place, error: &Missing) {
    let function = place.function;
    log::error!("{kind} {index} is missing: host device {function}, {error}");
    error.explain();
}

/// The processor's random numbers.
struct Processor;

impl Entropy for Processor {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        random::fill(buffer).map_err(|_| NoEntropy)
    }
}
