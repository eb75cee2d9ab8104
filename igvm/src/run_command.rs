//! `stockade run`: from arguments to a finished machine.

mod values;
mod voice;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use stockade::image::{self, BuildOptions, Image, ImageError};
use stockade::measure;
use stockade::run::devices::HostDevices;
use stockade::run::{self, Outcome, Report, RunError, RunOptions};
use stockade::setup::{self, Cache, Mode, Program, Qemu, SetupError};
use stockade_boot::format::{self, Format, FormatError};
use stockade_boot::kernel::Module;
use stockade_boot::load;
use stockade_boot::manifest::GuestFlags;
use stockade_boot::ram::RamMap;
use voice::Voice;

/// What every guest of ours is told first; `--append` goes behind it.
const COMMAND_LINE: &str = "console=ttyS0 quiet";

/// Arguments of `stockade run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The guest's kernel: bzImage, multiboot or PVH [default: the distribution's linux-image-cloud-amd64]
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    kernel: Option<PathBuf>,
    /// The guest's initial RAM disk [default for a bzImage: busybox with a self-check or a shell]
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    initrd: Option<PathBuf>,
    /// A module of a multiboot or PVH kernel: a file, a blank, its command line; repeatable
    #[arg(long, value_name = "FILE WORDS", conflicts_with = "image")]
    module: Vec<String>,
    /// More words for the kernel's command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        conflicts_with = "image"
    )]
    append: String,
    /// vCPUs of the guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = values::parse_cpus)]
    cpus: u32,
    /// Offer the guest x2APIC mode
    #[arg(long, conflicts_with = "image")]
    x2apic: bool,
    /// Give the guest an HPET
    #[arg(long, conflicts_with = "image")]
    hpet: bool,
    /// Give the guest the small devices that test kernels expect of QEMU; its exit status becomes ours
    #[arg(long, conflicts_with = "image")]
    test_devices: bool,
    /// Memory of the guest: bytes, or a number with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = values::parse_size)]
    memory: u64,
    /// Run this image instead of building one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Write our own words to this file instead of stderr
    #[arg(long, value_name = "FILE")]
    host_log: Option<PathBuf>,
    /// Write figures of the run to this file, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// Write what the host can read of guest memory to this file, at the end
    #[arg(long, value_name = "FILE")]
    host_view: Option<PathBuf>,
    /// Count instructions instead of time, so that runs repeat exactly
    #[arg(long)]
    icount: bool,
    /// The QEMU program [default: qemu-system-x86_64, installed if need be]
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
    /// One more argument for QEMU; repeatable
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    qemu_arg: Vec<String>,
    /// One more word for the model, such as attack=NAME; repeatable
    #[arg(long, value_name = "WORD")]
    model_arg: Vec<String>,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            kernel: None,
            initrd: None,
            module: Vec::new(),
            append: String::new(),
            cpus: 1,
            x2apic: false,
            hpet: false,
            test_devices: false,
            memory: 512 << 20,
            image: None,
            timeout: None,
            host_log: None,
            stats: None,
            host_view: None,
            icount: false,
            qemu: None,
            qemu_arg: Vec::new(),
            model_arg: Vec::new(),
        }
    }
}

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunFailure {
    /// Something needed is not there.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The run itself.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The file is no kernel.
    #[error("{}: {error}; take a bzImage, as distributions install it in /boot, or a multiboot or PVH kernel", path.display())]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: FormatError,
    },
    /// Modules for a kernel that takes none.
    #[error("a bzImage takes no modules; leave --module out, or take --initrd")]
    Modules,
    /// Memory, kernel and initrd do not fit together.
    #[error("{0}; give the guest more with --memory")]
    Memory(String),
    /// A file could not be opened.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The machine launched something else than was measured.
    #[error(
        "the launch digest is {launched}, but the image measures {measured}: the image was tampered with"
    )]
    Digest {
        /// What the model's PSP says.
        launched: String,
        /// What we measured.
        measured: String,
    },
}

impl RunFailure {
    /// Returns the process exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Setup(
                SetupError::QemuMissing { .. }
                | SetupError::QemuTooOld { .. }
                | SetupError::QemuUnfit { .. },
            ) => 14,
            Self::Setup(SetupError::Missing { .. }) => 15,
            Self::Digest { .. } => 17,
            _ => 1,
        }
    }
}

/// Runs, reports, returns the exit code.
pub(crate) fn run(arguments: &Run) -> Result<u8, RunFailure> {
    let mut voice = Voice::new(arguments.host_log.as_deref())?;
    let cache = Cache::open()?;
    let qemu = Qemu::find(arguments.qemu.as_deref(), &mut |text| voice.say(text))?;
    let paravisor = program(&cache, Program::Paravisor, &voice)?;
    let model = program(&cache, Program::Model, &voice)?;
    let folder = cache.folder("images")?;
    let made = tempfile::Builder::new()
        .suffix(".igvm")
        .tempfile_in(&folder)
        .map_err(|error| RunFailure::File {
            path: folder,
            source: error,
        })?;
    let path = match &arguments.image {
        Some(path) => path.clone(),
        None => {
            build_image(arguments, &cache, &paravisor, made.path(), &mut voice)?;
            made.path().to_path_buf()
        }
    };
    let measurement = measure::measure(&Image::open(&path)?);
    voice.say(&format!(
        "launch digest {} ({} measured pages)",
        measurement.launch_digest, measurement.measured_pages
    ));
    let options = options(arguments, path, model, paravisor);
    voice.say(&format!("starting the SNP model on QEMU {}", qemu.version));
    voice.working("launching");
    let report = run::run(&qemu, &options, &mut || voice.fall_silent())?;
    voice.fall_silent();
    conclude(&report, &measurement.launch_digest, &mut voice)
}

fn conclude(report: &Report, measured: &str, voice: &mut Voice) -> Result<u8, RunFailure> {
    voice.say("summary");
    for line in report.summary().lines() {
        voice.say(line);
    }
    let launched = report
        .model
        .get("launch_digest")
        .and_then(|value| value.as_str());
    match launched {
        Some(launched)
            if launched != measured && !matches!(report.outcome, Outcome::Refused(_)) =>
        {
            Err(RunFailure::Digest {
                launched: launched.to_owned(),
                measured: measured.to_owned(),
            })
        }
        _ => {
            let code = report.outcome.exit_code();
            if code != 0 && voice.log.is_some() {
                eprintln!("stockade: {}", report.outcome.words());
            }
            Ok(code)
        }
    }
}

fn program(cache: &Cache, program: Program, voice: &Voice) -> Result<PathBuf, RunFailure> {
    voice.working(match program {
        Program::Paravisor => "building the paravisor",
        Program::Model => "building the SNP model",
    });
    Ok(setup::build_program(cache, program)?)
}

fn build_image(
    arguments: &Run,
    cache: &Cache,
    paravisor: &Path,
    output: &Path,
    voice: &mut Voice,
) -> Result<(), RunFailure> {
    voice.working("building the image");
    let kernel = match &arguments.kernel {
        Some(path) => path.clone(),
        None => {
            let kernel = setup::kernel(cache, &mut |text| voice.say(text))?;
            voice.say(&format!("kernel {} of the distribution", kernel.release));
            kernel.path
        }
    };
    let mut options = BuildOptions::new(image::read(paravisor)?, image::read_kernel(&kernel)?);
    let format = format::check(&options.kernel).map_err(|error| RunFailure::Kernel {
        path: kernel.clone(),
        error,
    })?;
    // Only of Linux is known what it wants to be told, and what runs on it.
    let is_linux = matches!(format, Format::Linux(_));
    let initrd = match &arguments.initrd {
        Some(path) => Some(path.clone()),
        None if is_linux => Some(setup::default_initramfs(cache, &mut |text| {
            voice.say(text)
        })?),
        None => None,
    };
    options.initrd = initrd.as_deref().map(image::read).transpose()?;
    let modules = arguments
        .module
        .iter()
        .map(|text| image::Module::open(text));
    options.modules = modules.collect::<Result<_, _>>()?;
    options.command_line = if is_linux {
        command_line(&arguments.append)
    } else {
        arguments.append.clone()
    };
    options.max_vcpus = arguments.cpus;
    for (flag, is_wanted) in [
        (GuestFlags::X2APIC, arguments.x2apic),
        (GuestFlags::HPET, arguments.hpet),
        (GuestFlags::TEST_DEVICES, arguments.test_devices),
    ] {
        options.flags.set(flag, is_wanted);
    }
    check_memory(&options, arguments.memory)?;
    Ok(image::write(output, &image::build(&options)?)?)
}

/// A terminal gets a shell, anything else the self-check.
fn command_line(appended: &str) -> String {
    let is_interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mode = if is_interactive {
        Mode::Shell
    } else {
        Mode::Check
    };
    let mut text = format!("{COMMAND_LINE} {}", mode.command_line_word());
    if !appended.is_empty() {
        text.push(' ');
        text.push_str(appended);
    }
    text
}

/// Finds out before the launch what the paravisor would find out during it.
fn check_memory(options: &BuildOptions, memory: u64) -> Result<(), RunFailure> {
    let said = |error: &dyn std::error::Error| RunFailure::Memory(error.to_string());
    let ram = RamMap::of_size(memory).map_err(|error| said(&error))?;
    let initrd = options.initrd.as_ref().map(|content| Module {
        len_bytes: content.len() as u64,
        command_line: Vec::new(),
    });
    let modules: Vec<Module> = options
        .modules
        .iter()
        .map(|module| Module {
            len_bytes: module.content.len() as u64,
            command_line: module.command_line.clone().into_bytes(),
        })
        .chain(initrd)
        .collect();
    let words = options.command_line.as_bytes();
    load::check(&options.kernel, words, &modules, &ram).map_err(|error| match error {
        load::LoadError::LinuxModules => RunFailure::Modules,
        error => said(&error),
    })
}

fn options(arguments: &Run, image: PathBuf, model: PathBuf, paravisor: PathBuf) -> RunOptions {
    RunOptions {
        image,
        model,
        paravisor: Some(paravisor),
        cpus: arguments.cpus,
        memory_bytes: arguments.memory,
        timeout: arguments.timeout.map(Duration::from_secs),
        host_log: arguments.host_log.clone(),
        stats: arguments.stats.clone(),
        host_view: arguments.host_view.clone(),
        icount: arguments.icount,
        devices: HostDevices::default(),
        qemu_arguments: arguments.qemu_arg.clone(),
        model_words: arguments.model_arg.clone(),
    }
}
