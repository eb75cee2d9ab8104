//! The model judged by software nobody here wrote: the stock kernel as an SNP guest of its own, at VMPL0, no paravisor.

use nix::sys::signal::Signal;
use stockade::image::{self, EnlightenedOptions, enlightened};
use stockade_rig::guest::finding;
use stockade_rig::{Stockade, workshop};

const MEMORY: u64 = 256 << 20;

#[test]
fn the_stock_kernel_finds_itself_an_snp_guest_and_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("enlightened.igvm");
    let kernel = image::read(&workshop().kernel).expect("the kernel is readable");
    let mut options = EnlightenedOptions::new(kernel, MEMORY);
    options.initrd = Some(image::read(&workshop().initramfs).expect("it is readable"));
    options.command_line = "console=ttyS0 quiet acpi=off panic=-1 stockade.mode=check".to_owned();
    let bytes = enlightened(&options).expect("the kernel and its files fit");
    image::write(&path, &bytes).expect("the folder is writable");

    let mut guest = Stockade::image(&path).start();
    let mut console = guest.expect("Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP");
    console += &guest.expect("guest-check: done");
    for (name, value) in [("cpus", "1"), ("sev", "visible"), ("timer", "ok")] {
        assert_eq!(finding(&console, name), Some(value), "{console}");
    }
    // Without ACPI the kernel cannot switch the machine off.
    guest.signal(Signal::SIGTERM);
    guest.finish().assert_code(18);
}
