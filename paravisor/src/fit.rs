//! The guest's virtio devices, put together from the manifest and what the host has.
//!
//! A device the host does not have, or that cannot be driven, is left out and said in the log: the guest misses it, as it would miss
//! a disk somebody pulled.

use alloc::boxed::Box;

use stockade_abi::terminate::StopReason;
use stockade_backend::console;
use stockade_boot::manifest::{CONSOLE_HOST_DEVICE, GuestFlags, Manifest, NET_BYTES, screen};
use stockade_devices::virtio::rng::{Entropy, NoEntropy};
use stockade_paravisor::boot_order::BootOrder;
use stockade_paravisor::machine::{Functions, SlotNumber};
use stockade_paravisor::virtio::{Bays, Card, Fitted, OwnEntropy};
use stockade_platform::{SharedRegion, random};

use crate::flash;
use crate::store::Keeping;

mod bounce;
mod open;

pub(crate) use open::Fitter;
use open::{Missing, Place};

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

/// A number of bytes, which is small.
fn bytes(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
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
