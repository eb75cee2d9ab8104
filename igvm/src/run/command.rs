//! The QEMU command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{RunOptions, keys};
use crate::setup::Qemu;

/// The processor the model runs on: SVM, five-level paging for a nested table with the C-bit at 51.
const PROCESSOR: &str = "EPYC-Milan,+la57,phys-bits=52";
/// What the model takes for itself and the paravisor's modules, beside guest memory and image.
const MODEL_BYTES: u64 = 224 << 20;
const MIB: u64 = 1 << 20;

/// The files of one run.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) paravisor_log: PathBuf,
    pub(super) model_log: PathBuf,
    pub(super) ram: PathBuf,
    /// What QEMU itself says.
    pub(super) qemu_log: PathBuf,
    /// Where QEMU listens to us.
    pub(super) monitor: PathBuf,
    /// Where the machine reaches who has its disks' keys.
    pub(super) keys: PathBuf,
}

impl Paths {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self {
            paravisor_log: folder.join("paravisor.log"),
            model_log: folder.join("model.log"),
            ram: folder.join("ram"),
            qemu_log: folder.join("qemu.log"),
            monitor: folder.join("monitor"),
            keys: folder.join("keys"),
        }
    }
}

/// Returns the command that runs the model with the image.
pub(super) fn qemu(qemu: &Qemu, options: &RunOptions, paths: &Paths) -> Command {
    let mut command = Command::new(&qemu.program);
    let image_bytes = std::fs::metadata(&options.image).map_or(0, |data| data.len());
    let memory_mib = (options.memory_bytes + 2 * image_bytes + MODEL_BYTES).div_ceil(MIB);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    // The firmware would set up the disks' queues above the image, and part of them where the image goes: a device that looks at its queue
    // late would write into it.
    command.args(["-boot", "strict=on"]);
    command.args(["-machine", "q35", "-cpu", PROCESSOR]);
    command.args(["-m", &format!("{memory_mib}M")]);
    command.args(["-smp", &processors(options.cpus).to_string()]);
    if options.host_view.is_some() {
        let ram = format!(
            "memory-backend-file,id=ram,size={memory_mib}M,mem-path={},share=on",
            paths.ram.display()
        );
        command.args(["-object", &ram, "-machine", "memory-backend=ram"]);
    }
    timing(&mut command, options);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.args(["-chardev", "stdio,id=console,mux=on,signal=off"]);
    command.args(["-serial", "chardev:console"]);
    let monitor = paths.monitor.display();
    command.args(["-qmp", &format!("unix:{monitor},server=on,wait=off")]);
    let file = |id: &str, path: &Path| format!("file,id={id},path={}", path.display());
    command.args(["-chardev", &file("log", &paths.paravisor_log)]);
    command.args(["-serial", "chardev:log"]);
    command.args(["-chardev", &file("model", &paths.model_log)]);
    command.args(["-device", "isa-debugcon,iobase=0xe9,chardev=model"]);
    command.arg("-kernel").arg(&options.model);
    command.arg("-initrd").arg(&options.image);
    command.args(["-append", &model_words(options)]);
    command.args(options.devices.arguments());
    if options.keys.is_some() {
        for (option, value) in keys::arguments(&paths.keys) {
            command.args([option, &value]);
        }
    }
    command.args(&options.qemu_arguments);
    command
}

/// How many processors the model needs: with several vCPUs the one it boots on runs none (`machine::smp` there says why).
fn processors(vcpus: u32) -> u32 {
    if vcpus > 1 { vcpus + 1 } else { vcpus }
}

fn timing(command: &mut Command, options: &RunOptions) {
    if options.icount {
        command.args(["-accel", "tcg", "-icount", "shift=1,sleep=off"]);
        command.args(["-seed", "1", "-rtc", "base=2024-01-01,clock=vm"]);
    } else if options.cpus > 1 {
        command.args(["-accel", "tcg,thread=multi"]);
    } else {
        command.args(["-accel", "tcg"]);
    }
}

fn model_words(options: &RunOptions) -> String {
    let mut words = vec![
        format!("memory={}", options.memory_bytes),
        format!("cpus={}", options.cpus),
    ];
    if options.icount {
        // Under -icount the time-stamp counter counts virtual nanoseconds.
        words.push("tsc-khz=1000000".to_owned());
    }
    if options.host_view.is_some() {
        words.push("view".to_owned());
    }
    if options.certificates.is_some() || options.keys.is_some() {
        words.push("certificates".to_owned());
    }
    words.extend(options.model_words.iter().cloned());
    words.join(" ")
}
