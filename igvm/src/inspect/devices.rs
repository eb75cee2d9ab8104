//! The host's devices an image is made for.

use std::fmt::{self, Write as _};

use stockade_boot::manifest::{Devices, DiskAccess, DiskEntry, DiskMode, NetEntry};
use stockade_storage::KeyId;

/// Writes a line for each device, and one for the memory they share.
pub(super) fn write(text: &mut String, devices: &Devices) -> fmt::Result {
    for (index, disk) in devices.disks().enumerate() {
        writeln!(text, "  disk {index}: {}", disk_words(disk))?;
    }
    for (index, net) in devices.nets().enumerate() {
        writeln!(text, "  network card {index}: {}", net_words(net))?;
    }
    if let Some(store) = devices.store() {
        writeln!(text, "  state: {}", disk_words(store))?;
    }
    match devices.bounce_bytes() {
        0 => Ok(()),
        bytes => writeln!(text, "  shared with devices: {bytes} bytes"),
    }
}

fn disk_words(disk: &DiskEntry) -> String {
    let mode = match disk.mode() {
        DiskMode::PLAIN => "plain",
        DiskMode::SEALED => "sealed",
        DiskMode::STORE => "our sealed records",
        _ => "of an unknown kind",
    };
    let access = match disk.access() {
        DiskAccess::ReadWrite => "",
        DiskAccess::ReadOnly => ", read only",
    };
    let key = disk.key_id().map(|id| format!(", key {}", KeyId(*id)));
    let index = disk
        .boot_index()
        .map(|index| format!(", boot index {index}"));
    let (key, index) = (key.unwrap_or_default(), index.unwrap_or_default());
    let place = disk.host_device();
    format!("{mode}{access}, host device {place:02x}{key}{index}")
}

fn net_words(net: &NetEntry) -> String {
    let [a, b, c, d, e, f] = net.mac();
    let place = net.host_device();
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, host device {place:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_is_a_line_and_none_is_nothing() {
        let disks = [
            DiskEntry::new(DiskMode::PLAIN, DiskAccess::ReadWrite, 2),
            DiskEntry::new(DiskMode::SEALED, DiskAccess::ReadOnly, 3).with_boot_index(0),
        ];
        let nets = [NetEntry::new(16, [0x52, 0x54, 0, 0x57, 0xAD, 1])];
        let devices = Devices::try_new(&disks, &nets, 4 << 20).unwrap();
        let mut text = String::new();
        write(&mut text, &devices).unwrap();
        assert_eq!(
            text,
            "  disk 0: plain, host device 02\n  disk 1: sealed, read only, host device 03, boot index 0\n  \
             network card 0: 52:54:00:57:ad:01, host device 10\n  shared with devices: 4194304 bytes\n"
        );
        text.clear();
        write(&mut text, &devices.try_with_store(24).unwrap()).unwrap();
        assert!(text.contains("\n  state: our sealed records, host device 18\n"));
        text.clear();
        let keyed = [disks[1].with_key([0xC0; 32])];
        let devices = Devices::try_new(&keyed, &[], 2 << 20).unwrap();
        write(&mut text, &devices).unwrap();
        assert!(text.starts_with("  disk 0: sealed, read only, host device 03, key c0c0"));
        text.clear();
        write(&mut text, &Devices::default()).unwrap();
        assert_eq!(text, "");
    }
}
