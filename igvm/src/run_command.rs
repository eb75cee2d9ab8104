//! `stockade run`: from arguments to a finished machine.

use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use stockade::image::{self, Image};
use stockade::keys::Address;
use stockade::measure;
use stockade::run::devices::HostDevices;
use stockade::run::framebuffer::Framebuffer;
use stockade::run::{self, Outcome, Report, RunOptions};
use stockade::setup::{self, Cache, Mode, Program, Qemu};
use tempfile::{NamedTempFile, TempDir};

use crate::console_arguments::ConsoleArguments;
use crate::device_arguments::DeviceArguments;
use crate::failure::Failure;
use crate::firmware_arguments;
use crate::guest_arguments::{self, Guest, Otherwise};
use crate::state_directory::StateDirectory;
use crate::values;
use crate::voice::Voice;

/// Arguments of `stockade run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    guest: Guest,
    #[command(flatten)]
    devices: DeviceArguments,
    #[command(flatten)]
    console: ConsoleArguments,
    /// Who gives the guest its disks' keys: HOST:PORT or unix:PATH of `stockade keys serve` [default: this process, with the files of key=]
    #[arg(long, value_name = "ADDRESS")]
    key_server: Option<Address>,
    /// vCPUs of the guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = values::parse_cpus)]
    cpus: u32,
    /// Memory of the guest: bytes, or a number with K, M or G; firmware wants 64M at least
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = values::parse_size)]
    memory: u64,
    /// Run this image instead of building one
    #[arg(long, value_name = "FILE", conflicts_with_all = Guest::ARGUMENTS)]
    image: Option<PathBuf>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Seconds the guest has to shut down when SIGTERM presses its power button, as Ctrl-A B at a terminal does; 0 presses none
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    grace: u64,
    /// Write our own words to this file instead of stderr
    #[arg(long, value_name = "FILE")]
    host_log: Option<PathBuf>,
    /// Write figures of the run to this file, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// Write what the host can read of guest memory to this file, at the end
    #[arg(long, value_name = "FILE")]
    host_view: Option<PathBuf>,
    /// Write the certificates of the host's chip to this directory, at the end: on the model a test chain
    #[arg(long, value_name = "DIR")]
    certificates: Option<PathBuf>,
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
            guest: Guest::default(),
            devices: DeviceArguments::default(),
            console: ConsoleArguments::default(),
            key_server: None,
            cpus: 1,
            memory: 512 << 20,
            image: None,
            timeout: None,
            grace: 60,
            host_log: None,
            stats: None,
            host_view: None,
            certificates: None,
            icount: false,
            qemu: None,
            qemu_arg: Vec::new(),
            model_arg: Vec::new(),
        }
    }
}

/// Runs, reports, returns the exit code.
pub(crate) fn run(arguments: &Run) -> Result<u8, Failure> {
    let mut voice = Voice::new(arguments.host_log.as_deref())?;
    let mut host = Host::open(arguments, &mut voice)?;
    let cache = Cache::open()?;
    let qemu = Qemu::find(arguments.qemu.as_deref(), &mut |text| voice.say(text))?;
    let paravisor = program(&cache, Program::Paravisor, &voice)?;
    let model = program(&cache, Program::Model, &voice)?;
    let made = temporary_image(&cache)?;
    let path = match &arguments.image {
        Some(path) => path.clone(),
        None => {
            build_image(arguments, &cache, &paravisor, made.path(), &mut voice)?;
            made.path().to_path_buf()
        }
    };
    let image = Image::open(&path)?;
    check(arguments, &image)?;
    let measurement = measure::measure(&image);
    voice.say(&format!(
        "launch digest {} ({} measured pages)",
        measurement.launch_digest, measurement.measured_pages
    ));
    let server = arguments.key_server.as_ref();
    let keys = arguments
        .devices
        .key_source(server, &measurement.launch_digest)?;
    // Nothing is made before everything else is in order.
    host.make(arguments)?;
    let options = RunOptions {
        devices: host.devices.clone(),
        keys,
        framebuffer: host.framebuffer.clone(),
        ..options(arguments, path, model, paravisor)
    };
    voice.say(&format!("starting the SNP model on QEMU {}", qemu.version));
    voice.working("launching");
    let report = run::run(&qemu, &options, &mut || voice.fall_silent())?;
    voice.fall_silent();
    if let Outcome::NoDevice(words) = report.outcome {
        return Err(Failure::NoDevice(words));
    }
    conclude(&report, &measurement.launch_digest, &mut voice)
}

/// What the machine has of the host, as long as it runs.
struct Host {
    devices: HostDevices,
    framebuffer: Option<Framebuffer>,
    state: Option<StateDirectory>,
    /// Of the disks' files.
    _locks: Vec<File>,
    _scratch: TempDir,
}

impl Host {
    /// Looks at what the arguments name.
    fn open(arguments: &Run, voice: &mut Voice) -> Result<Self, Failure> {
        let (mut devices, locks) = arguments.devices.host()?;
        devices.console = arguments.console.host()?;
        let scratch = tempfile::tempdir().map_err(|source| Failure::File {
            path: std::env::temp_dir(),
            source,
        })?;
        let screen = scratch.path().join("screen");
        let framebuffer = arguments.console.framebuffer(&screen)?;
        devices.screen = framebuffer.as_ref().map(|it| it.disk.clone());
        if let Some(framebuffer) = &framebuffer {
            voice.say(&format!(
                "the host sees the guest's screen: {}",
                framebuffer.output.display()
            ));
        }
        Ok(Self {
            devices,
            framebuffer,
            state: arguments.devices.state()?,
            _locks: locks,
            _scratch: scratch,
        })
    }

    /// Makes the directories that are missing.
    fn make(&mut self, arguments: &Run) -> Result<(), Failure> {
        if let Some(folder) = &arguments.certificates {
            make_writable(folder)?;
        }
        let store = self.state.as_mut().map(StateDirectory::make);
        self.devices.store = store.transpose()?;
        Ok(())
    }
}

/// Returns a file for an image that goes with the run.
fn temporary_image(cache: &Cache) -> Result<NamedTempFile, Failure> {
    let folder = cache.folder("images")?;
    let file = tempfile::Builder::new()
        .suffix(".igvm")
        .tempfile_in(&folder);
    file.map_err(|source| Failure::File {
        path: folder,
        source,
    })
}

/// Sees that the image is for a machine such as the arguments ask for.
fn check(arguments: &Run, image: &Image) -> Result<(), Failure> {
    firmware_arguments::check_memory(image, arguments.memory)?;
    if arguments.image.is_none() {
        return Ok(());
    }
    arguments.devices.check(image)?;
    arguments.console.check(image)?;
    guest_arguments::check_cpus(image, arguments.cpus)
}

/// Makes a directory, and sees that files can be written to it.
fn make_writable(folder: &Path) -> Result<(), Failure> {
    let made = fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
    made.map(drop).map_err(|source| Failure::File {
        path: folder.to_owned(),
        source,
    })
}

fn conclude(report: &Report, measured: &str, voice: &mut Voice) -> Result<u8, Failure> {
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
            Err(Failure::Digest {
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

pub(crate) fn program(cache: &Cache, program: Program, voice: &Voice) -> Result<PathBuf, Failure> {
    voice.working(match program {
        Program::Paravisor => "building the paravisor",
        Program::Model => "building the SNP model",
        Program::Guests => "building the test guests",
    });
    Ok(setup::build_program(cache, program)?)
}

fn build_image(
    arguments: &Run,
    cache: &Cache,
    paravisor: &Path,
    output: &Path,
    voice: &mut Voice,
) -> Result<(), Failure> {
    voice.working("building the image");
    let guest = &arguments.guest;
    let otherwise = Otherwise {
        start: arguments.devices.start(),
        mode: mode(),
    };
    let mut options = guest.collect(arguments.cpus, otherwise, cache, paravisor, voice)?;
    let firmware = options.firmware.as_ref();
    arguments.devices.check_start(firmware)?;
    options.devices = arguments
        .devices
        .measured(arguments.console.shared_bytes())?;
    arguments.console.measure(&mut options)?;
    guest_arguments::check_memory(&options, arguments.memory)?;
    Ok(image::write(output, &image::build(&options)?)?)
}

/// A terminal gets a shell, anything else the self-check.
fn mode() -> Mode {
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        Mode::Shell
    } else {
        Mode::Check
    }
}

fn options(arguments: &Run, image: PathBuf, model: PathBuf, paravisor: PathBuf) -> RunOptions {
    RunOptions {
        image,
        model,
        paravisor: Some(paravisor),
        cpus: arguments.cpus,
        memory_bytes: arguments.memory,
        timeout: arguments.timeout.map(Duration::from_secs),
        grace: Duration::from_secs(arguments.grace),
        host_log: arguments.host_log.clone(),
        stats: arguments.stats.clone(),
        host_view: arguments.host_view.clone(),
        certificates: arguments.certificates.clone(),
        framebuffer: None,
        icount: arguments.icount,
        devices: HostDevices::default(),
        keys: None,
        qemu_arguments: arguments.qemu_arg.clone(),
        model_words: arguments.model_arg.clone(),
    }
}
