//! The first process of a Linux on emulated SVM: runs the bench guest on KVM and gives its lines to the console.
//!
//! The smallest machine the guest can be timed on: memory, in-kernel interrupt controllers, a serial port that is always ready and
//! the PM timer, both here in user space, where QEMU has them too. [`machine`] makes it, [`devices`] is those two.

#![expect(
    unsafe_code,
    reason = "KVM is given memory by its address; the program is a test's and nothing else's"
)]

mod devices;
mod machine;

use std::fs::{self, File};
use std::thread;

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

/// Where the kernel's modules are, and those wanted in the order they need each other.
const MODULES_FOLDER: &str = "/lib/modules";
const MODULES: [&str; 3] = ["irqbypass.ko", "kvm.ko", "kvm_amd.ko"];
/// The guest's ELF file.
const GUEST: &str = "/guest";
/// The file that holds the guest's command line; `cpus=N` in it is obeyed here too.
const COMMAND_LINE: &str = "/guest.words";

/// What went wrong, for the console.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() {
    if let Err(failure) = run() {
        println!("kvm: {failure}");
    }
    // The machine goes with its first process.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

/// Loads what is there; what is not, the kernel has built in.
fn load_modules() -> Result<(), Failure> {
    for release in fs::read_dir(MODULES_FOLDER)? {
        let folder = release?.path();
        for path in MODULES.map(|name| folder.join(name)) {
            if path.exists() {
                finit_module(&File::open(path)?, c"", ModuleInitFlags::empty())?;
            }
        }
    }
    Ok(())
}

fn run() -> Result<(), Failure> {
    let flags = MsFlags::empty();
    // Kernels that mount it by themselves have done so.
    let _ = mount(Some("dev"), "/dev", Some("devtmpfs"), flags, None::<&str>);
    load_modules()?;
    let words = fs::read_to_string(COMMAND_LINE)?;
    let cpus = words
        .split_whitespace()
        .find_map(|word| word.strip_prefix("cpus=")?.parse().ok())
        .unwrap_or(1);
    let machine = machine::Machine::try_new(&fs::read(GUEST)?, words.trim(), cpus)?;
    let processors = machine.processors()?;
    let mut threads: Vec<_> = processors
        .into_iter()
        .map(|processor| thread::spawn(move || machine::run(processor)))
        .collect();
    // The first one ends the guest; the others go with the machine.
    let first = threads.swap_remove(0);
    match first.join() {
        Ok(outcome) => outcome,
        Err(_) => Err("the first processor's thread ended".into()),
    }
}
