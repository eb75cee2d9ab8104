//! Boot loaders and their menu, as `grub-install --force-extra-removable` and `update-grub` leave them.
//!
//! Both programs want to see the disk they work on, which is not there yet, so the first one's copies are made here, and the second runs
//! with a `grub-probe` that knows the answers.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::image::{ESP_MOUNT, ROOT_UUID};
use super::run;

/// `/etc/default/grub`: Debian's own, with the console of its cloud images and a second to choose in.
pub(super) const SETTINGS: &str = "GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=\"\"
GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"
GRUB_TERMINAL=console
";
/// Answers what `grub-mkconfig` asks about a root file system on the second partition of a GPT disk.
pub(super) const GRUB_PROBE: &str = "#!/bin/sh
for word in \"$@\"; do
    case $word in
    --target=device) echo /dev/vda2 ;;
    --target=fs_uuid) echo UUID ;;
    --target=fs) echo ext2 ;;
    --target=partmap) echo gpt ;;
    --target=compatibility_hint) echo hd0,gpt2 ;;
    --target=hints_string) echo --hint-efi=hd0,gpt2 ;;
    esac
done
";
const MODULES: &str = "usr/lib/grub/x86_64-efi";
const SHIM: &str = "usr/lib/shim";
const SIGNED_GRUB: &str = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed";

/// Writes `/boot/grub` and everything of the ESP, which lies at its mount point until the image is packed.
pub(super) fn write(root: &Path) {
    let grub = root.join("boot/grub");
    fs::create_dir_all(grub.join("x86_64-efi")).expect("target/ is writable");
    for module in fs::read_dir(root.join(MODULES)).expect("grub-efi-amd64-bin is installed") {
        let module = module.expect("the folder is readable").path();
        let is_module = module.extension().is_some_and(|e| e == "mod" || e == "lst");
        if let (true, Some(name)) = (is_module, module.file_name()) {
            copy(&module, &grub.join("x86_64-efi").join(name));
        }
    }
    chroot(root, "grub-editenv /boot/grub/grubenv create");
    write_menu(root);
    write_esp(root);
}

fn write_menu(root: &Path) {
    let probe = root.join("usr/sbin/grub-probe");
    let own = root.join("usr/sbin/grub-probe.own");
    fs::rename(&probe, &own).expect("grub2-common is installed");
    fs::write(&probe, GRUB_PROBE.replace("UUID", ROOT_UUID)).expect("target/ is writable");
    chroot(
        root,
        "chmod +x /usr/sbin/grub-probe && grub-mkconfig -o /boot/grub/grub.cfg",
    );
    fs::rename(&own, &probe).expect("it was renamed before");
}

fn write_esp(root: &Path) {
    let esp = root.join(ESP_MOUNT).join("EFI");
    let (own, removable) = (esp.join("debian"), esp.join("BOOT"));
    for folder in [&own, &removable] {
        fs::create_dir_all(folder).expect("target/ is writable");
        copy(&root.join(SIGNED_GRUB), &folder.join("grubx64.efi"));
        let signed = |name: &str| root.join(SHIM).join(format!("{name}.signed"));
        copy(&signed("mmx64.efi"), &folder.join("mmx64.efi"));
        copy(&signed("fbx64.efi"), &folder.join("fbx64.efi"));
    }
    let shim = root.join(SHIM).join("shimx64.efi.signed");
    copy(&shim, &own.join("shimx64.efi"));
    copy(&shim, &removable.join("BOOTX64.EFI"));
    copy(
        &root.join(SHIM).join("BOOTX64.CSV"),
        &own.join("BOOTX64.CSV"),
    );
    let menu = format!(
        "search.fs_uuid {ROOT_UUID} root hd0,gpt2\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
    );
    fs::write(own.join("grub.cfg"), menu).expect("target/ is writable");
}

fn chroot(root: &Path, line: &str) {
    let mut command = Command::new("chroot");
    run(command.arg(root).args(["/bin/sh", "-c", line]));
}

fn copy(from: &Path, to: &Path) {
    let copied = fs::copy(from, to);
    copied.unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}
