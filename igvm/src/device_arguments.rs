//! Disks and network cards, as arguments: what QEMU is given, and what of it is measured.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use stockade::image::{Firmware, Image};
use stockade::keys::Address;
use stockade::run::KeySource;
use stockade::run::devices::{
    FIRST_DISK_SLOT, FIRST_NET_SLOT, HostDevices, MAX_DISKS, MAX_NETS, Net, STORE_SLOT,
};
use stockade_boot::layout::{BOUNCE_MAX_SIZE, LARGE_PAGE_SIZE};
use stockade_boot::manifest::{
    Devices, DiskAccess, DiskEntry, DiskMode, KEYS_BYTES, LEAST_DISK_BYTES, ManifestError,
    NET_BYTES, NetEntry, Start,
};
use stockade_storage::KeyId;

use crate::disk_argument::DiskArgument;
use crate::failure::Failure;
use crate::key_arguments::{self, KeyArgument};
use crate::net_argument::NetArgument;
use crate::state_directory::StateDirectory;

/// Shared memory for the devices, unless `--bounce` says otherwise.
const DEFAULT_BOUNCE: u32 = 4 << 20;
/// Locally administered addresses, as QEMU's own.
const MAC_PREFIX: [u8; 5] = [0x52, 0x54, 0x00, 0x57, 0xAD];

/// What the guest has of the host.
#[derive(Debug, Default, Args)]
pub(crate) struct DeviceArguments {
    /// A disk: a file (a comma in its name is written twice), then after commas mode=plain or mode=sealed, readonly, format=raw (the
    /// default) or format=qcow2 (QEMU then opens the backing file it names, too), key=FILE or key-id=HEX, bootindex=N for firmware,
    /// which tries the lowest first; repeatable
    #[arg(long, value_name = "FILE[,WORDS]")]
    disk: Vec<DiskArgument>,
    /// Key file of the only sealed disk, the same as key=FILE behind it: the key is released to the guest once it is attested
    #[arg(long, value_name = "FILE")]
    disk_key: Option<KeyArgument>,
    /// A network card: user, then after commas hostfwd=tcp:ADDRESS:PORT-ADDRESS:PORT for ports of the host that lead to the guest's, or
    /// tap=INTERFACE; repeatable
    #[arg(long, value_name = "PEER")]
    net: Vec<NetArgument>,
    /// A directory for what outlives the machine: the state of sealed disks; made if need be, the guest's alone while it runs
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Memory shared with the host that disks and cards go through [default: 4M if there are any, more if they are many]
    #[arg(long, value_name = "SIZE", value_parser = parse_bounce)]
    bounce: Option<u32>,
}

fn parse_bounce(text: &str) -> Result<u32, String> {
    let words = format!(
        "give a multiple of 2M up to {}M, such as 4M",
        BOUNCE_MAX_SIZE >> 20
    );
    let digits = text.strip_suffix(['M', 'm']).ok_or(words.clone())?;
    let number: u32 = digits.parse().map_err(|_| words.clone())?;
    let bytes = number.checked_mul(1 << 20).ok_or(words.clone())?;
    let is_whole = u64::from(bytes).is_multiple_of(LARGE_PAGE_SIZE);
    if bytes == 0 || !is_whole || u64::from(bytes) > BOUNCE_MAX_SIZE {
        return Err(words);
    }
    Ok(bytes)
}

impl DeviceArguments {
    fn is_empty(&self) -> bool {
        self.disk.is_empty() && self.net.is_empty() && self.state.is_none()
    }

    /// Returns what starts a guest with these devices, if nothing else is said.
    pub(crate) fn start(&self) -> Start {
        if self.disk.is_empty() {
            Start::Kernel
        } else {
            Start::Firmware
        }
    }

    /// Returns what the manifest says of the devices, which share their memory with others that take `others` bytes of it.
    pub(crate) fn measured(&self, others: u64) -> Result<Devices, Failure> {
        if self.bounce.is_some() && self.is_empty() && others == 0 {
            return Err(Failure::StrayBounce);
        }
        self.entries(others)
    }

    fn entries(&self, others: u64) -> Result<Devices, Failure> {
        if self.disk_key.is_some() && self.keys().next().is_none() {
            return Err(Failure::StrayKey);
        }
        if self.is_empty() && self.bounce.is_none() {
            return Ok(Devices::default());
        }
        let disks = (FIRST_DISK_SLOT..).zip(&self.disk);
        let disks = disks
            .map(|(place, disk)| self.entry(disk, place))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(index) = boot_index_twice(&disks) {
            return Err(Failure::BootIndex(index));
        }
        let nets: Vec<NetEntry> = (FIRST_NET_SLOT..)
            .zip(0..)
            .zip(&self.net)
            .map(|((place, index), _)| NetEntry::new(place, mac(index)))
            .collect();
        if disks.len() > MAX_DISKS || nets.len() > MAX_NETS {
            let (disks, nets) = (disks.len(), nets.len());
            return Err(Failure::TooManyDevices { disks, nets });
        }
        let disks_and_store = disks.len() + self.state.iter().count();
        let keys = self.keys().next().map_or(0, |_| KEYS_BYTES);
        let least = least_bounce(disks_and_store, nets.len(), others + keys);
        let bounce = match self.bounce {
            Some(given) if given < least => return Err(Failure::Bounce { given, least }),
            Some(bytes) => bytes,
            None => DEFAULT_BOUNCE.max(least),
        };
        let devices = Devices::try_new(&disks, &nets, bounce);
        let devices = devices.and_then(|devices| match self.state {
            Some(_) => devices.try_with_store(STORE_SLOT),
            None => Ok(devices),
        });
        devices.map_err(|error| match error {
            ManifestError::Key => Failure::SharedKey,
            error => Failure::Devices(error),
        })
    }

    /// Sees that what is for firmware is of use to what starts the guest.
    pub(crate) fn check_start(&self, firmware: Option<&Firmware>) -> Result<(), Failure> {
        match firmware {
            Some(firmware) if firmware.variables.is_none() && self.state.is_some() => {
                Err(Failure::StateWithoutVariables)
            }
            None if self.disk.iter().any(DiskArgument::has_boot_index) => {
                Err(Failure::BootIndexWithoutFirmware)
            }
            _ => Ok(()),
        }
    }

    fn entry(&self, disk: &DiskArgument, place: u8) -> Result<DiskEntry, Failure> {
        let entry = disk.entry(place);
        Ok(match self.key(disk) {
            Some(key) => entry.with_key(key.id()?.0),
            None => entry,
        })
    }

    fn key<'a>(&'a self, disk: &'a DiskArgument) -> Option<&'a KeyArgument> {
        let of_all = self.disk_key.as_ref();
        let of_all = of_all.filter(|_| disk.mode == DiskMode::SEALED);
        disk.key.as_ref().or(of_all)
    }

    fn keys(&self) -> impl Iterator<Item = &KeyArgument> {
        self.disk.iter().filter_map(|disk| self.key(disk))
    }

    /// Returns who gives the disks' keys to a machine with this launch digest, if they are released.
    pub(crate) fn key_source(
        &self,
        server: Option<&Address>,
        measurement: &str,
    ) -> Result<Option<KeySource>, Failure> {
        key_arguments::source(self.keys(), server, measurement)
    }

    /// Returns the folder for what outlives the machine, looked at and locked, but not made.
    pub(crate) fn state(&self) -> Result<Option<StateDirectory>, Failure> {
        self.state.as_deref().map(StateDirectory::open).transpose()
    }

    /// Sees whether these are the devices an image that is there already was made for. An image that is not ours says nothing of devices.
    pub(crate) fn check(&self, image: &Image) -> Result<(), Failure> {
        let Some(manifest) = image.manifest() else {
            return Ok(());
        };
        let (wanted, given) = (manifest.devices(), self.entries(0)?);
        let is_same = wanted.disks().eq(given.disks())
            && wanted.nets().eq(given.nets())
            && wanted.store() == given.store();
        if !is_same {
            return Err(Failure::OtherDevices(format!(
                "the image was built with {}, but is run with {}",
                words(wanted),
                words(&given)
            )));
        }
        match self.bounce {
            Some(bounce) if u64::from(bounce) != wanted.bounce_bytes() => {
                let mib = wanted.bounce_bytes() >> 20;
                Err(Failure::OtherDevices(format!(
                    "the image was built with --bounce {mib}M; leave the option out"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Returns what QEMU is given, after a look at the files, and the files: they are locked as long as they are kept.
    pub(crate) fn host(&self) -> Result<(HostDevices, Vec<File>), Failure> {
        self.net.iter().try_for_each(NetArgument::check)?;
        let disks = self.disk.iter().map(DiskArgument::open);
        let disks = disks.collect::<Result<Vec<_>, _>>()?;
        let (disks, locks) = disks.into_iter().unzip();
        let nets = (0..).zip(&self.net).map(|(index, net)| Net {
            peer: net.0.clone(),
            mac: Some(mac(index)),
        });
        let nets = nets.collect();
        let devices = HostDevices {
            disks,
            nets,
            ..HostDevices::default()
        };
        Ok((devices, locks))
    }
}

/// Returns a boot index two disks have.
fn boot_index_twice(disks: &[DiskEntry]) -> Option<u8> {
    let mut seen = BTreeSet::new();
    let mut indexes = disks.iter().filter_map(DiskEntry::boot_index);
    indexes.find(|index| !seen.insert(*index))
}

/// Returns the arguments that would have made such devices.
fn words(devices: &Devices) -> String {
    let disk = |disk: &DiskEntry| {
        let mode = match disk.mode() {
            DiskMode::SEALED => ",mode=sealed",
            _ => "",
        };
        let access = match disk.access() {
            DiskAccess::ReadWrite => "",
            DiskAccess::ReadOnly => ",readonly",
        };
        let key = disk.key_id().map(|id| format!(",key-id={}", KeyId(*id)));
        let index = disk.boot_index().map(|index| format!(",bootindex={index}"));
        let (key, index) = (key.unwrap_or_default(), index.unwrap_or_default());
        format!("--disk FILE{mode}{access}{key}{index}")
    };
    let nets = devices.nets().map(|_| "--net PEER".to_owned());
    let state = devices.store().map(|_| "--state DIR".to_owned());
    let all = devices.disks().map(disk).chain(nets).chain(state);
    let all: Vec<String> = all.collect();
    if all.is_empty() {
        return "no disk, no network card and no state".to_owned();
    }
    all.join(" ")
}

/// Returns the least shared memory for so many disks, the store among them, and cards, and for others that take some of it.
fn least_bounce(disks: usize, nets: usize, others: u64) -> u32 {
    let bytes = disks as u64 * LEAST_DISK_BYTES + nets as u64 * NET_BYTES + others;
    u32::try_from(bytes.next_multiple_of(LARGE_PAGE_SIZE)).unwrap_or(u32::MAX)
}

fn mac(index: u8) -> [u8; 6] {
    let [a, b, c, d, e] = MAC_PREFIX;
    [a, b, c, d, e, index]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use stockade::run::devices::DiskFormat;
    use stockade_boot::manifest::CONSOLE_BYTES;

    use super::*;

    #[test]
    fn a_key_makes_a_disk_sealed_and_is_measured_by_its_id() {
        let id = KeyId([0xAB; 32]);
        let named: DiskArgument = format!("a,key-id={id}").parse().unwrap();
        assert_eq!(named.mode, DiskMode::SEALED);
        let arguments = |disks: &[&DiskArgument]| DeviceArguments {
            disk: disks.iter().copied().cloned().collect(),
            ..DeviceArguments::default()
        };
        let devices = arguments(&[&named]).measured(0).unwrap();
        assert!(devices.key_ids().eq([&[0xAB; 32]]));
        assert!(words(&devices).contains(",key-id=abab"));
        let twice = arguments(&[&named, &named]).measured(0);
        assert!(matches!(twice, Err(Failure::SharedKey)));
    }

    #[test]
    fn a_key_for_the_sealed_disk_is_no_other_disks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, [7; 32]).unwrap();
        let arguments = |disks: &[&str]| DeviceArguments {
            disk: disks.iter().map(|disk| disk.parse().unwrap()).collect(),
            disk_key: Some(path.to_str().unwrap().parse().unwrap()),
            ..DeviceArguments::default()
        };
        let one = arguments(&["a", "b,mode=sealed"]).measured(0).unwrap();
        assert!(
            one.disks()
                .map(|disk| disk.key_id().is_some())
                .eq([false, true])
        );
        let none = arguments(&["a"]).measured(0);
        assert!(matches!(none, Err(Failure::StrayKey)));
        let two = arguments(&["a,mode=sealed", "b,mode=sealed"]).measured(0);
        assert!(matches!(two, Err(Failure::SharedKey)));
    }

    #[test]
    fn disks_have_places_of_their_own_in_the_boot_order() {
        let measured = |words: &[&str]| {
            let disks = words.iter().map(|words| words.parse().unwrap());
            let arguments = DeviceArguments {
                disk: disks.collect(),
                ..DeviceArguments::default()
            };
            arguments.measured(0)
        };
        let devices = measured(&["a", "b,bootindex=7", "c,bootindex=0"]).unwrap();
        let places = devices.disks().map(|disk| disk.boot_index());
        assert!(places.eq([None, Some(7), Some(0)]));
        let refused = measured(&["a,bootindex=1", "b", "c,bootindex=1"]);
        assert!(matches!(refused, Err(Failure::BootIndex(1))));
    }

    #[test]
    fn a_boot_order_and_kept_variables_are_for_firmware_that_has_use_for_them() {
        let disk = |words: &str| DeviceArguments {
            disk: vec![words.parse().unwrap()],
            ..DeviceArguments::default()
        };
        let state = DeviceArguments {
            state: Some("dir".into()),
            ..DeviceArguments::default()
        };
        let firmware = |variables| Firmware {
            variables,
            ..Firmware::default()
        };
        let (without, with) = (firmware(None), firmware(Some(vec![])));
        let order = disk("a,bootindex=1");
        assert!(order.check_start(Some(&without)).is_ok());
        let refused = order.check_start(None);
        assert!(matches!(refused, Err(Failure::BootIndexWithoutFirmware)));
        assert!(disk("a").check_start(None).is_ok());
        assert!(state.check_start(None).is_ok() && state.check_start(Some(&with)).is_ok());
        let refused = state.check_start(Some(&without));
        assert!(matches!(refused, Err(Failure::StateWithoutVariables)));
    }

    #[test]
    fn shared_memory_is_in_large_pages() {
        assert_eq!(parse_bounce("4M"), Ok(4 << 20));
        for nonsense in ["", "M", "0M", "3M", "4", "66M", "4096M", "4G"] {
            assert!(parse_bounce(nonsense).is_err(), "{nonsense}");
        }
    }

    /// Twelve disks fill 4 MiB but for 16 KiB, and a console takes 24.
    #[test]
    fn shared_memory_is_enough_for_all_who_share_it() {
        let many = |bounce| DeviceArguments {
            disk: vec!["a".parse().unwrap(); 12],
            bounce,
            ..DeviceArguments::default()
        };
        let bytes = |others| many(None).measured(others).unwrap().bounce_bytes();
        assert_eq!((bytes(0), bytes(CONSOLE_BYTES)), (4 << 20, 6 << 20));
        assert!(many(Some(4 << 20)).measured(0).is_ok());
        let refused = many(Some(4 << 20)).measured(CONSOLE_BYTES);
        assert!(matches!(refused, Err(Failure::Bounce { least, .. }) if least == 6 << 20));
    }

    #[test]
    fn shared_memory_is_for_somebody() {
        let alone = DeviceArguments {
            bounce: Some(4 << 20),
            ..DeviceArguments::default()
        };
        assert!(matches!(alone.measured(0), Err(Failure::StrayBounce)));
        let console = alone.measured(CONSOLE_BYTES).unwrap();
        assert_eq!(console.bounce_bytes(), 4 << 20);
    }

    #[test]
    fn the_manifest_and_qemu_agree_on_places_and_addresses() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(512).unwrap();
        let path = file.path().to_str().unwrap();
        let arguments = DeviceArguments {
            disk: vec![path.parse().unwrap(); 1],
            net: vec!["user".parse().unwrap(); 2],
            ..DeviceArguments::default()
        };
        let measured = arguments.measured(0).unwrap();
        let (host, locks) = arguments.host().unwrap();
        assert!(measured.disks().map(|disk| disk.host_device()).eq([2]));
        assert!(measured.nets().map(|net| net.host_device()).eq([16, 17]));
        let macs = host.nets.iter().filter_map(|net| net.mac);
        assert!(measured.nets().map(|net| net.mac()).eq(macs));
        assert_eq!(host.disks[0].format, DiskFormat::Raw);
        assert_eq!(measured.bounce_bytes(), 4 << 20);
        assert!(arguments.host().is_err(), "the file is in use");
        drop(locks);
        assert!(arguments.host().is_ok());
        let kept = DeviceArguments {
            state: Some("dir".into()),
            ..DeviceArguments::default()
        };
        let store = kept.measured(0).unwrap();
        assert_eq!(store.store().map(DiskEntry::host_device), Some(24));
        let none = DeviceArguments::default().measured(0).unwrap();
        assert_eq!(none, Devices::default());
    }
}
