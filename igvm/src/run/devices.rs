//! Disks and network cards of the host, as arguments for QEMU.
//!
//! [`HostDevices::arguments`] puts them on PCI bus 0 at fixed places: disk *n* is function 00:[`FIRST_DISK_SLOT`]+*n*.0, card *n*
//! is 00:[`FIRST_NET_SLOT`]+*n*.0, the sealed store 00:[`STORE_SLOT`].0. Each is a modern virtio device behind the IOMMU: what it reaches of guest memory is what
//! the model's IOMMU tables say, that is, shared pages.

mod console;
mod net;

use std::path::PathBuf;

use serde_json::{Value, json};

pub use console::ConsolePeer;
pub use net::{Forward, Net, NetPeer, Protocol};
pub use stockade_boot::manifest::{MAX_DISKS, MAX_NETS};

/// Device number of the first disk on the host's PCI bus 0.
pub const FIRST_DISK_SLOT: u8 = 2;
/// Device number of the first network card on the host's PCI bus 0.
pub const FIRST_NET_SLOT: u8 = 16;
/// Device number of the sealed store on the host's PCI bus 0.
pub const STORE_SLOT: u8 = 24;
/// Device number of the disk that takes what the guest shows.
pub const SCREEN_SLOT: u8 = stockade_boot::manifest::screen::HOST_DEVICE;

/// Translates every access of a device, and nothing else: interrupts go as the device sends them.
const IOMMU: &str = "intel-iommu,aw-bits=48,intremap=off";

/// What a run has of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDevices {
    /// Disks, in the paravisor's order.
    pub disks: Vec<Disk>,
    /// Network cards, in the paravisor's order.
    pub nets: Vec<Net>,
    /// The file of the sealed store.
    pub store: Option<PathBuf>,
    /// What a virtio console is connected to, if there is one.
    pub console: Option<ConsolePeer>,
    /// The file that holds what the guest shows.
    pub screen: Option<PathBuf>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file or the block device.
    pub path: PathBuf,
    /// Which of them.
    pub medium: DiskMedium,
    /// What is in it.
    pub format: DiskFormat,
    /// Whether QEMU may write to it.
    pub access: DiskAccess,
}

impl Disk {
    /// A writable raw disk with one queue and QEMU's usual cache.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            medium: DiskMedium::File,
            format: DiskFormat::Raw,
            access: DiskAccess::ReadWrite,
        }
    }
}

/// What a disk's bytes lie in. QEMU takes neither for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskMedium {
    /// A file.
    File,
    /// A disk of the host, a partition or a volume.
    BlockDevice,
}

impl DiskMedium {
    const fn driver(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::BlockDevice => "host_device",
        }
    }
}

/// The format of a disk's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl DiskFormat {
    const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What may be done with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskAccess {
    /// Everything.
    ReadWrite,
    /// Reads; the file itself is opened so.
    ReadOnly,
}

impl HostDevices {
    /// Whether there are none, so that QEMU's machine stays as it is without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
            && self.nets.is_empty()
            && self.store.is_none()
            && self.console.is_none()
            && self.screen.is_none()
    }

    /// Returns QEMU's arguments. What is beyond [`MAX_DISKS`] and [`MAX_NETS`] has no place and is left out.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.is_empty() {
            return arguments;
        }
        let mut push = |option: &str, value: String| {
            arguments.push(option.to_owned());
            arguments.push(value);
        };
        push("-device", IOMMU.to_owned());
        for (slot, disk) in (FIRST_DISK_SLOT..).zip(self.disks.iter().take(MAX_DISKS)) {
            push("-blockdev", disk.backend(slot).to_string());
            push("-device", disk.frontend(slot).to_string());
        }
        let own = [(STORE_SLOT, &self.store), (SCREEN_SLOT, &self.screen)];
        for (slot, file) in own {
            if let Some(disk) = file.as_ref().map(Disk::new) {
                push("-blockdev", disk.backend(slot).to_string());
                push("-device", disk.frontend(slot).to_string());
            }
        }
        for (slot, net) in (FIRST_NET_SLOT..).zip(self.nets.iter().take(MAX_NETS)) {
            push("-netdev", net.backend(slot));
            push("-device", net.frontend(slot).to_string());
        }
        if let Some(console) = &self.console {
            for (option, value) in console.arguments() {
                push(option, value);
            }
        }
        arguments
    }
}

impl Disk {
    /// The file; as JSON, for its name may hold anything.
    fn backend(&self, slot: u8) -> Value {
        let is_read_only = self.access == DiskAccess::ReadOnly;
        let cache = json!({ "direct": false, "no-flush": false });
        let options = |driver: &str| {
            json!({
                "driver": driver, "read-only": is_read_only, "auto-read-only": false,
                "cache": cache, "discard": "unmap",
            })
        };
        let mut file = options(self.medium.driver());
        file["filename"] = self.path.to_string_lossy().into();
        let mut disk = options(self.format.name());
        disk["node-name"] = node(slot).into();
        disk["file"] = file;
        disk
    }

    fn frontend(&self, slot: u8) -> Value {
        let mut device = pci_function("virtio-blk-pci", slot);
        device["drive"] = node(slot).into();
        device["num-queues"] = 1.into();
        // The file's own cache decides; the device always offers a flush.
        device["write-cache"] = "on".into();
        device
    }
}

fn node(slot: u8) -> String {
    format!("host{slot}")
}

/// A virtio 1 function behind the IOMMU, without option ROM: nothing boots from it.
pub(super) fn pci_function(driver: &str, slot: u8) -> Value {
    json!({
        "driver": driver, "bus": "pcie.0", "addr": format!("{slot:#x}.0"), "disable-legacy": "on",
        "iommu_platform": true, "romfile": "",
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn value<'a>(arguments: &'a [String], option: &str, nth: usize) -> &'a str {
        let mut at = (0..arguments.len()).filter(|at| arguments[*at] == option);
        &arguments[at.nth(nth).unwrap() + 1]
    }

    fn parsed(arguments: &[String], option: &str, nth: usize) -> Value {
        serde_json::from_str(value(arguments, option, nth)).unwrap()
    }

    #[test]
    fn a_machine_without_devices_has_no_iommu_either() {
        assert!(HostDevices::default().arguments().is_empty());
    }

    #[test]
    fn every_device_is_modern_and_behind_the_iommu_at_its_place() {
        let devices = HostDevices {
            disks: vec![Disk::new("/a"), Disk::new("/b")],
            nets: vec![Net {
                peer: NetPeer::User {
                    forwards: vec![Forward {
                        protocol: Protocol::Tcp,
                        host: (Some(Ipv4Addr::LOCALHOST), 2222),
                        guest: (None, 22),
                    }],
                },
                mac: Some([0x52, 0x54, 0, 0x12, 0x34, 0x5F]),
            }],
            store: Some("/s".into()),
            ..HostDevices::default()
        };
        let arguments = devices.arguments();
        assert_eq!(value(&arguments, "-device", 0), IOMMU);
        for (nth, place) in [(1, "0x2.0"), (2, "0x3.0"), (3, "0x18.0"), (4, "0x10.0")] {
            let device = parsed(&arguments, "-device", nth);
            assert_eq!(device["addr"], place);
            assert_eq!(device["iommu_platform"], true);
            assert_eq!(device["disable-legacy"], "on");
        }
        assert_eq!(parsed(&arguments, "-device", 4)["mac"], "52:54:00:12:34:5f");
        assert_eq!(
            value(&arguments, "-netdev", 0),
            "user,id=host16,hostfwd=tcp:127.0.0.1:2222-:22"
        );
    }

    #[test]
    fn a_disk_says_format_access_and_cache_to_every_layer() {
        let disk = Disk {
            format: DiskFormat::Qcow2,
            access: DiskAccess::ReadOnly,
            ..Disk::new("/tmp/a,b\"c")
        };
        let arguments = HostDevices {
            disks: vec![disk],
            ..HostDevices::default()
        }
        .arguments();
        let backend = parsed(&arguments, "-blockdev", 0);
        assert_eq!(backend["driver"], "qcow2");
        assert_eq!(backend["file"]["filename"], "/tmp/a,b\"c");
        for layer in [&backend, &backend["file"]] {
            assert_eq!(layer["read-only"], true);
            assert_eq!(layer["cache"]["no-flush"], false, "a flush is one");
            assert_eq!(layer["discard"], "unmap");
        }
        let device = parsed(&arguments, "-device", 1);
        assert_eq!(device["write-cache"], "on", "a flush is offered");
        assert_eq!(device["drive"], backend["node-name"]);
    }

    #[test]
    fn a_block_device_has_a_driver_of_its_own() {
        let driver = |medium| {
            let disk = Disk {
                medium,
                ..Disk::new("/dev/sdz")
            };
            disk.backend(2)["file"]["driver"].clone()
        };
        assert_eq!(driver(DiskMedium::File), "file");
        assert_eq!(driver(DiskMedium::BlockDevice), "host_device");
    }

    #[test]
    fn what_has_no_place_on_the_bus_is_left_out() {
        let disks = vec![Disk::new("/a"); MAX_DISKS + 3];
        let devices = HostDevices {
            disks,
            ..HostDevices::default()
        };
        let drives = devices.arguments();
        let count = drives.iter().filter(|word| *word == "-blockdev").count();
        assert_eq!(count, MAX_DISKS);
        assert!(usize::from(FIRST_DISK_SLOT) + MAX_DISKS <= usize::from(FIRST_NET_SLOT));
    }
}
