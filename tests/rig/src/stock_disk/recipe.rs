//! Which packages a disk is made of, and what is set in it that an installer would ask for.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::process::Command;

use super::{HOST_NAME, PASSWORD, USER, boot_files, image, run};

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";

/// What Debian's own cloud images start from, less what configures them from a cloud, and the tools that tests ask the firmware with.
const PACKAGES: [&str; 27] = [
    "acpica-tools",
    "dbus",
    "dmidecode",
    "dosfstools",
    "e2fsprogs",
    "efibootmgr",
    "efivar",
    "grub-efi-amd64-bin",
    "grub-efi-amd64-signed",
    "grub2-common",
    "ifupdown",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "kmod",
    "less",
    "login",
    "mokutil",
    "passwd",
    "pciutils",
    "procps",
    "shim-signed",
    "systemd-sysv",
    "udev",
    "util-linux",
    "zstd",
];
/// What decides whether a disk made before is still the distribution's.
const VERSIONED: [&str; 4] = [
    "shim-signed",
    "grub-efi-amd64-signed",
    "systemd",
    "initramfs-tools",
];
/// Nobody reads these on a serial console.
const LEFT_OUT: [&str; 4] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// Which of the distribution's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelFlavour {
    /// `linux-image-cloud-amd64`, as in Debian's cloud images: drivers of virtual machines only, a small initramfs.
    Cloud,
    /// `linux-image-amd64`, as an installer leaves it on any PC.
    Generic,
}

impl KernelFlavour {
    fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Generic => "linux-image-amd64",
        }
    }
}

/// Returns a name for all that goes into a disk.
pub(super) fn key(flavour: KernelFlavour) -> String {
    let mut hasher = DefaultHasher::new();
    (SUITE, PACKAGES, LEFT_OUT, HOST_NAME, USER, PASSWORD).hash(&mut hasher);
    boot_files::SETTINGS.hash(&mut hasher);
    boot_files::GRUB_PROBE.hash(&mut hasher);
    image::LAYOUT.hash(&mut hasher);
    settings().hash(&mut hasher);
    for package in VERSIONED.into_iter().chain([flavour.package()]) {
        candidate(package).hash(&mut hasher);
    }
    let kernel = flavour.package().trim_start_matches("linux-image-");
    format!("{SUITE}-{kernel}-{:016x}", hasher.finish())
}

/// The version apt would install now; nothing where apt knows nothing, so that a disk made before serves without a network.
fn candidate(package: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["policy", package]).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let line = text.lines().find(|line| line.contains("Candidate:"))?;
    Some(line.trim().to_owned())
}

/// Installs everything into a new folder.
pub(super) fn install(flavour: KernelFlavour, root: &Path) {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--variant=minbase", "--format=directory"])
        .arg(format!(
            "--include={},{}",
            PACKAGES.join(","),
            flavour.package()
        ))
        // What fsyncs each file is for disks that keep it.
        .arg("--dpkgopt=force-unsafe-io");
    for pattern in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command.args([SUITE]).arg(root);
    command.arg(format!("deb {MIRROR} {SUITE} main"));
    command.arg(format!("deb {SECURITY} {SUITE}-security main"));
    run(&mut command);
    for (name, content) in settings() {
        let path = root.join(name);
        let folder = path.parent().expect("every name is below the root");
        fs::create_dir_all(folder).expect("target/ is writable");
        fs::write(&path, content).expect("target/ is writable");
    }
    let mut password = Command::new("chroot");
    let line = format!("echo {USER}:{PASSWORD} | chpasswd");
    run(password.arg(root).args(["/bin/sh", "-c", &line]));
}

/// What an installer asks for.
fn settings() -> [(&'static str, String); 5] {
    [
        ("etc/hostname", format!("{HOST_NAME}\n")),
        (
            "etc/hosts",
            format!("127.0.0.1 localhost\n127.0.1.1 {HOST_NAME}\n"),
        ),
        ("etc/fstab", image::mount_table()),
        (
            "etc/network/interfaces.d/card",
            "allow-hotplug enp0s1 enp0s2 enp0s3\niface enp0s1 inet dhcp\niface enp0s2 inet dhcp\niface enp0s3 inet dhcp\n".to_owned(),
        ),
        ("etc/default/grub", boot_files::SETTINGS.to_owned()),
    ]
}
