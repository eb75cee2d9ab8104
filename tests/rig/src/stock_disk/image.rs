//! A folder becomes a disk: partitions, file systems, files.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use super::run;

const MIB: u64 = 1 << 20;
/// Where the ESP is mounted, and where its files lie before it is made.
pub(super) const ESP_MOUNT: &str = "boot/efi";
/// The root file system's name for everything that looks for it.
pub(super) const ROOT_UUID: &str = "5f0c7e52-8a0b-4d57-9d0a-1c0de57ad001";
const ESP_SERIAL: &str = "57AD0E5F";

/// Where the parts of a disk lie.
#[derive(Debug, Hash)]
pub(super) struct Layout {
    esp_mib: u64,
    root_mib: u64,
}

/// The layout of all disks: an ESP of the size Debian's installer takes at least, and room to work in.
pub(super) const LAYOUT: Layout = Layout {
    esp_mib: 64,
    root_mib: 1400,
};

impl Layout {
    const fn esp_start(&self) -> u64 {
        MIB
    }

    const fn root_start(&self) -> u64 {
        self.esp_start() + self.esp_mib * MIB
    }

    /// A MiB behind everything is for the second copy of the partition table.
    const fn bytes(&self) -> u64 {
        self.root_start() + self.root_mib * MIB + MIB
    }
}

/// Returns `/etc/fstab`.
pub(super) fn mount_table() -> String {
    let (high, low) = ESP_SERIAL.split_at(4);
    format!(
        "UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\nUUID={high}-{low} /{ESP_MOUNT} vfat umask=0077 0 1\n"
    )
}

/// Packs `root` into a new raw image. The ESP's files move out of it.
pub(super) fn pack(root: &Path, image: &Path) {
    let file = File::create(image).expect("target/ is writable");
    file.set_len(LAYOUT.bytes()).expect("holes take no room");
    drop(file);
    run(Command::new("sgdisk")
        .arg("--clear")
        .arg(format!("--new=1:0:+{}M", LAYOUT.esp_mib))
        .args(["--typecode=1:EF00", "--change-name=1:EFI System"])
        .arg(format!("--new=2:0:+{}M", LAYOUT.root_mib))
        .args(["--typecode=2:8304", "--change-name=2:root"])
        .arg(image));
    let esp = root.join(ESP_MOUNT);
    write_fat(
        &esp.join("EFI"),
        image,
        LAYOUT.esp_start(),
        LAYOUT.esp_mib * MIB,
    );
    fs::remove_dir_all(esp.join("EFI")).expect("it was just written");
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-L", "root", "-U", ROOT_UUID])
        .args(["-E", &format!("offset={}", LAYOUT.root_start())])
        .arg("-d")
        .arg(root)
        .arg(image)
        .arg(format!("{}M", LAYOUT.root_mib)));
}

/// Makes a FAT file system within an image and copies a folder to its top.
pub(super) fn write_fat(folder: &Path, image: &Path, offset: u64, bytes: u64) {
    run(Command::new("mkfs.vfat")
        // With larger clusters so small a file system would have too few of them to be FAT32.
        .args(["-F", "32", "-s", "1", "-n", "ESP", "-i", ESP_SERIAL])
        .arg(format!("--offset={}", offset / 512))
        .arg(image)
        .arg((bytes / 1024).to_string()));
    let within = format!("{}@@{offset}", image.display());
    run(Command::new("mcopy")
        .args(["-s", "-i", &within])
        .arg(folder)
        .arg("::"));
}

#[cfg(test)]
mod tests {
    use super::{LAYOUT, MIB, mount_table};

    #[test]
    fn partitions_follow_each_other() {
        assert_eq!(LAYOUT.esp_start(), MIB);
        assert_eq!(LAYOUT.root_start(), 65 * MIB);
        assert_eq!(LAYOUT.bytes(), 1466 * MIB);
    }

    #[test]
    fn the_esp_is_mounted_by_the_number_it_is_made_with() {
        assert!(mount_table().contains("UUID=57AD-0E5F /boot/efi vfat"));
    }
}
