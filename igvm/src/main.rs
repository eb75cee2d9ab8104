//! The command `stockade`.

#![forbid(unsafe_code)]

mod attest_command;
mod build_command;
mod console_arguments;
mod device_arguments;
mod disk_argument;
mod disk_command;
mod failure;
mod firmware_arguments;
mod guest_arguments;
mod key_arguments;
mod keys_command;
mod net_argument;
mod run_command;
mod state_directory;
mod values;
mod voice;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use stockade::image::Image;
use stockade::{inspect, measure};

use attest_command::Attest;
use build_command::Build;
use disk_command::Disk;
use failure::Failure;
use keys_command::Keys;
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
    Build(Box<Build>),
    /// Prints the launch digest of an image, as the PSP will report it.
    Measure(Measure),
    /// Prints what is in an image.
    Inspect(Inspect),
    /// Verifies what a guest's TPM presents as proof that it runs in a confidential VM.
    #[command(subcommand)]
    Attest(Attest),
    /// Makes and checks the files of disks.
    #[command(subcommand)]
    Disk(Disk),
    /// Keeps the keys of disks, and gives them to attested machines.
    #[command(subcommand)]
    Keys(Keys),
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
        None => run_command::run(&Run::default()),
        Some(Command::Run(arguments)) => run_command::run(&arguments),
        Some(Command::Build(arguments)) => build_command::build(&arguments).map(|()| 0),
        Some(Command::Measure(arguments)) => measurement(&arguments).and_then(show),
        Some(Command::Inspect(arguments)) => content(&arguments).and_then(show),
        Some(Command::Attest(command)) => attest_command::attest(&command).and_then(show),
        Some(Command::Disk(command)) => disk_command::disk(&command).and_then(show),
        Some(Command::Keys(command)) => keys_command::keys(&command).and_then(show),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("stockade: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn measurement(arguments: &Measure) -> Result<String, Failure> {
    let measurement = measure::measure(&Image::open(&arguments.image)?);
    Ok(if arguments.json {
        // A plain structure of strings and numbers always has a JSON form.
        format!("{}\n", serde_json::json!(measurement))
    } else {
        format!("{}\n", measurement.launch_digest)
    })
}

fn content(arguments: &Inspect) -> Result<String, Failure> {
    Ok(inspect::describe(&Image::open(&arguments.image)?))
}

/// Writes to stdout; returns the exit code. A reader that has seen enough and closed it is no error.
fn show(text: String) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Stdout(error)),
        _ => Ok(0),
    }
}
