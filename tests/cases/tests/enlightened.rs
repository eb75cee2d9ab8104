//! The model judged by software nobody here wrote: the stock kernel as an SNP guest of its own, at VMPL0, no paravisor.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use stockade::image::{self, EnlightenedOptions, enlightened};
use stockade::run::devices::{Disk, HostDevices};
use stockade_rig::guest::finding;
use stockade_rig::{Stockade, workshop};

const MEMORY: u64 = 256 << 20;

/// Builds an image of the stock kernel with these words on its command line.
fn image(path: &Path, words: &str) {
    let kernel = image::read(&workshop().kernel).expect("the kernel is readable");
    let mut options = EnlightenedOptions::new(kernel, MEMORY);
    options.initrd = Some(image::read(&workshop().initramfs).expect("it is readable"));
    options.command_line = format!("console=ttyS0 quiet acpi=off panic=-1 {words}");
    let bytes = enlightened(&options).expect("the kernel and its files fit");
    image::write(path, &bytes).expect("the folder is writable");
}

#[test]
fn the_stock_kernel_finds_itself_an_snp_guest_and_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("enlightened.igvm");
    image(&path, "stockade.mode=check");

    let mut guest = Stockade::image(&path).start();
    let mut console = guest.expect("Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP");
    console += &guest.expect("guest-check: done");
    for (name, value) in [("cpus", "1"), ("sev", "visible"), ("timer", "ok")] {
        assert_eq!(finding(&console, name), Some(value), "{console}");
    }
    // Without ACPI the kernel cannot switch the machine off.
    guest.signal(Signal::SIGINT);
    guest.finish().assert_code(18);
}

/// Windows, DMA and interrupts of the host's devices, by drivers nobody here wrote: what the kernel writes is in the file.
#[test]
fn the_stock_kernel_reads_and_writes_a_disk_of_the_host() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("enlightened.igvm");
    image(&path, "stockade.mode=shell");
    let file = folder.path().join("disk");
    let mut content = b"written by the host\n".repeat(1000);
    content.resize(1 << 20, 0);
    fs::write(&file, content).expect("the folder is writable");
    let devices = HostDevices {
        disks: vec![Disk::new(&file)],
        ..HostDevices::default()
    };
    let arguments = devices.arguments();
    let arguments = arguments.iter().map(|word| format!("--qemu-arg={word}"));

    let mut guest = Stockade::image(&path).args(arguments).start();
    guest.expect("a shell in the confidential guest");
    guest.send_line("head -c 19 /dev/vda; echo; grep -c host /dev/vda");
    guest.expect("written by the host");
    guest.expect("1000");
    guest.send_line(
        "echo written by the guest | dd of=/dev/vda bs=512 seek=8 conv=notrunc,fsync; echo done-$?",
    );
    guest.expect("done-0");
    guest.signal(Signal::SIGINT);
    guest.finish().assert_code(18);
    let content = fs::read(&file).expect("the file is there");
    assert!(content[4096..].starts_with(b"written by the guest\n"));
}
