//! Running an image: QEMU started, watched, and its end put into one exit code.
//!
//! [`run`] takes [`RunOptions`], starts the model under QEMU with the guest's console on stdin and stdout, follows the two
//! logs (the paravisor's and the model's), and returns a [`Report`] with an [`Outcome`].

mod button;
mod certificates;
mod command;
pub mod devices;
mod follow;
pub mod framebuffer;
mod keys;
mod outcome;
mod refusal;
mod report;
mod symbols;
mod view;

pub use keys::KeySource;
pub use outcome::{Outcome, STOPPED_BY_USER};
pub use report::Report;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::keys::Address;
use crate::output;
use crate::setup::Qemu;
use button::Ending;
use follow::{Follower, Sink};
use framebuffer::{Framebuffer, Painter};
use keys::KeyDesk;

/// How often the running machine is looked at.
const POLL: Duration = Duration::from_millis(30);

/// What to run and how.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The IGVM image.
    pub image: PathBuf,
    /// The model's ELF file.
    pub model: PathBuf,
    /// The paravisor's ELF file, to put names to addresses of a backtrace.
    pub paravisor: Option<PathBuf>,
    /// vCPUs.
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// When to give up.
    pub timeout: Option<Duration>,
    /// How long a guest has to shut down when we are asked to end by SIGTERM.
    pub grace: Duration,
    /// Where our own words go instead of stderr.
    pub host_log: Option<PathBuf>,
    /// Where figures go as JSON.
    pub stats: Option<PathBuf>,
    /// Where the host's view of guest memory goes.
    pub host_view: Option<PathBuf>,
    /// Where the certificates of the host's chip go, a directory.
    pub certificates: Option<PathBuf>,
    /// Where what the guest shows goes, if the image shows it.
    pub framebuffer: Option<Framebuffer>,
    /// Count instructions, so that runs repeat exactly.
    pub icount: bool,
    /// Disks and network cards of the host.
    pub devices: devices::HostDevices,
    /// Who has the keys of disks whose keys are released, if there are such disks.
    pub keys: Option<KeySource>,
    /// More arguments for QEMU.
    pub qemu_arguments: Vec<String>,
    /// More words for the model's command line (an attack, a seed).
    pub model_words: Vec<String>,
}

/// Why a run could not be made or its results not be kept.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU could not be started at all.
    #[error("cannot start {program}: {source}")]
    Start {
        /// What was tried.
        program: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The key server is not there.
    #[error(
        "no key server at {address}: {source}; start `stockade keys serve` there, or correct --key-server"
    )]
    KeyServer {
        /// Where it was looked for.
        address: Address,
        /// Why it was not found.
        source: io::Error,
    },
    /// The model did not say where the host's view is.
    #[error("no host view: {0}")]
    View(String),
}

impl RunError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Runs the image to its end and reports. `started` is called once the guest owns the console.
pub fn run(
    qemu: &Qemu,
    options: &RunOptions,
    started: &mut dyn FnMut(),
) -> Result<Report, RunError> {
    for output in [&options.stats, &options.host_view].into_iter().flatten() {
        output::check(output).map_err(RunError::io(output))?;
    }
    let scratch = scratch_folder()?;
    let paths = command::Paths::in_folder(scratch.path());
    for log in [&paths.paravisor_log, &paths.model_log] {
        File::create(log).map_err(RunError::io(log))?;
    }
    let keys = options.keys.as_ref();
    let keys = keys.map(|source| KeyDesk::open(source, &paths.keys, &paths.model_log));
    let keys = keys.transpose()?;
    let sink = Sink::open(options.host_log.as_deref())?;
    let qemu_log = File::create(&paths.qemu_log).map_err(RunError::io(&paths.qemu_log))?;
    let cpu_before = report::children_cpu();
    let mut child = command::qemu(qemu, options, &paths)
        .stdin(Stdio::inherit())
        .stderr(qemu_log)
        .spawn()
        .map_err(|source| RunError::Start {
            program: qemu.program.clone(),
            source,
        })?;
    let begun = Instant::now();
    let mut logs = Logs {
        paravisor: Follower::open(&paths.paravisor_log, "paravisor")?,
        model: Follower::open(&paths.model_log, "model")?,
        keys,
        sink,
    };
    let ended = watch(&mut child, options, &paths, &mut logs, started, begun)?;
    restore_terminal();
    let mut report = Report::collect(ended, &paths, begun.elapsed())?;
    report.cpu = report::children_cpu().saturating_sub(cpu_before);
    report.symbolise(options.paravisor.as_deref());
    if let Some(folder) = &options.certificates {
        certificates::write(folder, &report.model_log)?;
    }
    let view = options.host_view.as_ref();
    let viewed = view.map_or(Ok(()), |path| view::write(path, &paths, &mut report));
    if let Some(path) = &options.stats {
        report.write_json(path)?;
    }
    viewed.map(|()| report)
}

/// How QEMU's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this status (-1 for a signal).
    Status(i32),
    /// We gave up waiting.
    TimedOut,
    /// We were told to stop.
    Interrupted,
}

/// What is said while the machine runs, and where it goes.
struct Logs {
    paravisor: Follower,
    model: Follower,
    keys: Option<KeyDesk>,
    sink: Sink,
}

impl Logs {
    /// Passes on what is new.
    fn pump(&mut self) {
        self.paravisor.pump(&mut self.sink);
        self.model.pump(&mut self.sink);
        if let Some(keys) = &self.keys {
            keys.pump(&mut self.sink);
        }
    }
}

fn watch(
    child: &mut Child,
    options: &RunOptions,
    paths: &command::Paths,
    logs: &mut Logs,
    started: &mut dyn FnMut(),
    begun: Instant,
) -> Result<Ended, RunError> {
    let (stop, mut ending) = (stop_flag(), Ending::new(options.grace));
    let mut painter = options.framebuffer.as_ref().map(Painter::new);
    let mut has_started = false;
    let ended = loop {
        let status = child.try_wait().map_err(RunError::io(&options.model))?;
        logs.pump();
        painter.iter_mut().for_each(Painter::look);
        if !has_started && (logs.paravisor.has_entered() || status.is_some()) {
            has_started = true;
            started();
        }
        if let Some(status) = status {
            break Ended::Status(status.code().unwrap_or(-1));
        }
        ending.watch(has_started, &paths.monitor, &mut logs.sink);
        let gave_up = options.timeout.is_some_and(|limit| begun.elapsed() > limit);
        if gave_up || stop.load(Ordering::Relaxed) || ending.is_over() {
            kill(child);
            break if gave_up {
                Ended::TimedOut
            } else {
                Ended::Interrupted
            };
        }
        std::thread::sleep(POLL);
    };
    painter.iter_mut().for_each(Painter::paint);
    logs.pump();
    Ok(ended)
}

fn kill(child: &mut Child) {
    // It may have ended by itself in between; either way it is gone afterwards.
    let _ = child.kill();
    let _ = child.wait();
}

/// Set by SIGINT and SIGHUP, so that QEMU never outlives us.
fn stop_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        // Without the handler the signal still ends us, only less tidily.
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    flag
}

/// QEMU restores the terminal itself unless it was killed.
fn restore_terminal() {
    if io::stdin().is_terminal() {
        let _ = std::process::Command::new("stty")
            .arg("sane")
            .stdin(Stdio::inherit())
            .status();
    }
}

/// A folder that goes with the run; in memory where the machine has such a place, for the guest's RAM may lie there.
fn scratch_folder() -> Result<tempfile::TempDir, RunError> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_path_buf()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("stockade-")
        .tempdir_in(&parent)
        .map_err(RunError::io(parent))
}
