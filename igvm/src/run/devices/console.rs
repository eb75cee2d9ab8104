//! What a virtio console is connected to on the host's side.

use std::path::PathBuf;

use serde_json::json;
use stockade_boot::manifest::CONSOLE_HOST_DEVICE;

use super::pci_function;

/// What a virtio console is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsolePeer {
    /// A file: what the guest writes, and no input.
    File(PathBuf),
    /// A Unix socket QEMU listens at; one program at a time talks to the guest. What is written while there is none is lost.
    Socket(PathBuf),
}

impl ConsolePeer {
    /// Returns QEMU's options with their values.
    pub(super) fn arguments(&self) -> [(&'static str, String); 3] {
        // In QEMU's lists a comma is written twice.
        let name = |path: &PathBuf| path.to_string_lossy().replace(',', ",,");
        let backend = match self {
            Self::File(path) => format!("file,id=virtio-console,path={}", name(path)),
            Self::Socket(path) => {
                format!(
                    "socket,id=virtio-console,path={},server=on,wait=off",
                    name(path)
                )
            }
        };
        let mut bus = pci_function("virtio-serial-pci", CONSOLE_HOST_DEVICE);
        bus["id"] = "virtio-serial".into();
        bus["max_ports"] = 1.into();
        let port = json!({
            "driver": "virtconsole", "bus": "virtio-serial.0", "chardev": "virtio-console",
        });
        [
            ("-chardev", backend),
            ("-device", bus.to_string()),
            ("-device", port.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::ConsolePeer;

    #[test]
    fn a_console_is_one_port_behind_the_iommu_and_its_peer() {
        let [(_, backend), (_, bus), (_, port)] = ConsolePeer::File("/a,b".into()).arguments();
        assert_eq!(backend, "file,id=virtio-console,path=/a,,b");
        let bus: serde_json::Value = serde_json::from_str(&bus).unwrap();
        assert_eq!(
            (&bus["addr"], &bus["iommu_platform"]),
            (&"0x19.0".into(), &true.into())
        );
        assert!(port.contains("virtconsole"));
        let [(_, backend), ..] = ConsolePeer::Socket("/s".into()).arguments();
        assert_eq!(
            backend,
            "socket,id=virtio-console,path=/s,server=on,wait=off"
        );
    }
}
