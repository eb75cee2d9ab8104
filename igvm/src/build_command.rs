//! `stockade build`: an image in a file, for a host to launch.

use std::path::PathBuf;

use clap::Args;
use stockade::image;
use stockade::setup::{Cache, Mode, Program};

use crate::console_arguments::ConsoleArguments;
use crate::device_arguments::DeviceArguments;
use crate::failure::Failure;
use crate::guest_arguments::{Guest, Otherwise};
use crate::run_command;
use crate::values;
use crate::voice::Voice;

/// Arguments of `stockade build`.
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// The image to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The paravisor's ELF file [default: built from this source]
    #[arg(long, value_name = "FILE")]
    paravisor: Option<PathBuf>,
    #[command(flatten)]
    guest: Guest,
    #[command(flatten)]
    devices: DeviceArguments,
    #[command(flatten)]
    console: ConsoleArguments,
    /// The most vCPUs the guest may be started with
    #[arg(long, value_name = "N", default_value_t = values::MAX_CPUS, value_parser = values::parse_cpus)]
    cpus: u32,
}

/// Builds the image and writes it.
pub(crate) fn build(arguments: &Build) -> Result<(), Failure> {
    let mut voice = Voice::new(None)?;
    let cache = Cache::open()?;
    let paravisor = match &arguments.paravisor {
        Some(path) => path.clone(),
        None => run_command::program(&cache, Program::Paravisor, &voice)?,
    };
    voice.working("building the image");
    let guest = &arguments.guest;
    let otherwise = Otherwise {
        start: arguments.devices.start(),
        mode: Mode::Shell,
    };
    let mut options = guest.collect(arguments.cpus, otherwise, &cache, &paravisor, &mut voice)?;
    let firmware = options.firmware.as_ref();
    arguments.devices.check_start(firmware)?;
    // What is behind them is the host's to say, when it runs the image.
    options.devices = arguments
        .devices
        .measured(arguments.console.shared_bytes())?;
    arguments.console.measure(&mut options)?;
    let written = image::write(&arguments.output, &image::build(&options)?);
    voice.fall_silent();
    Ok(written?)
}
