//! The command `stockade`.

#![forbid(unsafe_code)]

mod run_command;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use stockade::image::{self, BuildOptions, Image, ImageError};
use stockade::{inspect, measure};

use run_command::Run;

/// Runs stock operating systems as confidential VMs.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Without a command: run, with all its defaults
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a guest on the SNP model: console on stdin and stdout, exit code 0 only when it powered itself off.
    Run(Box<Run>),
    /// Builds an image (IGVM) of paravisor, kernel, initrd and command line.
    Build(Build),
    /// Prints the launch digest of an image, as the PSP will report it.
    Measure(Measure),
    /// Prints what is in an image.
    Inspect(Inspect),
}

#[derive(Debug, Args)]
struct Build {
    /// The image to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The paravisor's ELF file.
    #[arg(long, value_name = "FILE")]
    paravisor: PathBuf,
    /// The guest's kernel: bzImage, multiboot or PVH.
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The guest's initial RAM disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// A module of a multiboot or PVH kernel: a file, a blank, its command line; repeatable.
    #[arg(long, value_name = "FILE WORDS")]
    module: Vec<String>,
    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", default_value = "")]
    append: String,
    /// The most vCPUs the guest may be started with.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
}

#[derive(Debug, Args)]
struct Measure {
    /// The image.
    image: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Inspect {
    /// The image.
    image: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        None => return run(&Run::default()),
        Some(Command::Run(arguments)) => return run(&arguments),
        Some(Command::Build(arguments)) => build(arguments),
        Some(Command::Measure(arguments)) => print_measurement(&arguments),
        Some(Command::Inspect(arguments)) => {
            Image::open(&arguments.image).map(|image| show(&inspect::describe(&image)))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn run(arguments: &Run) -> ExitCode {
    match run_command::run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("stockade: {error}");
    ExitCode::from(code)
}

fn build(arguments: Build) -> Result<(), ImageError> {
    let paravisor = image::read(&arguments.paravisor)?;
    let mut options = BuildOptions::new(paravisor, image::read_kernel(&arguments.kernel)?);
    options.initrd = arguments.initrd.as_deref().map(image::read).transpose()?;
    let modules = arguments
        .module
        .iter()
        .map(|text| image::Module::open(text));
    options.modules = modules.collect::<Result<_, _>>()?;
    options.command_line = arguments.append;
    options.max_vcpus = arguments.cpus;
    image::write(&arguments.output, &image::build(&options)?)
}

fn print_measurement(arguments: &Measure) -> Result<(), ImageError> {
    let measurement = measure::measure(&Image::open(&arguments.image)?);
    if arguments.json {
        // A plain structure of strings and numbers always has a JSON form.
        show(&format!("{}\n", serde_json::json!(measurement)));
    } else {
        show(&format!("{}\n", measurement.launch_digest));
    }
    Ok(())
}

/// Writes to stdout. A reader that has seen enough and closed it is no error.
fn show(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
