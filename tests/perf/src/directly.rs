//! The stock kernel in plain QEMU, as everything is compared with.

use std::path::Path;
use std::process::Command;

use stockade_rig::{command_line, workshop};

use crate::boots::PROCESSOR;

/// Returns QEMU with the kernel and `initrd`, a serial console and `memory`, but no device yet; `words` go behind the command line.
pub(crate) fn qemu(initrd: &Path, memory: &str, words: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-no-reboot", "-machine", "q35", "-accel", "tcg"])
        .args(["-cpu", PROCESSOR, "-m", memory, "-serial", "stdio"])
        .arg("-kernel")
        .arg(&workshop().kernel)
        .arg("-initrd")
        .arg(initrd)
        // On a busy machine plain QEMU is now and then too slow for the kernel's check.
        .arg("-append")
        .arg(command_line(format!("no_timer_check {words}").trim_end()));
    command
}
