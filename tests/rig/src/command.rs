//! The command `stockade`, called as a user calls it.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::{Finished, Running, Slot, workshop};

/// Longer than any boot on a loaded machine; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// Enough for kernel, initramfs and a shell, and quick to launch.
const MEMORY_MIB: u64 = 256;

/// A panic is a reset at once, not a hang.
const PANIC: &str = "panic=-1";

/// Returns a whole kernel command line, for a kernel started without `stockade`: a quiet console and these words.
#[must_use]
pub fn command_line(words: &str) -> String {
    format!("console=ttyS0 quiet {PANIC} {words}")
}

/// Returns what is appended to the command's own words for a kernel: no hang after a panic, and these words.
#[must_use]
pub fn appended(words: &str) -> String {
    format!("{PANIC} {words}")
}

/// A call of `stockade`, being put together.
#[derive(Clone, Debug)]
pub struct Stockade {
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    limit: Duration,
    is_machine: bool,
}

impl Stockade {
    /// A call of a subcommand.
    #[must_use]
    pub fn new(subcommand: &str) -> Self {
        Self {
            arguments: vec![subcommand.into()],
            environment: Vec::new(),
            limit: LIMIT,
            is_machine: subcommand == "run",
        }
    }

    /// `stockade run` with the default kernel and initramfs and these words on the kernel's command line.
    #[must_use]
    pub fn guest(words: &str) -> Self {
        Self::new("run")
            .arg("--memory")
            .arg(format!("{MEMORY_MIB}M"))
            .arg("--append")
            .arg(appended(words))
    }

    /// `stockade run` with an image made before.
    #[must_use]
    pub fn image(image: impl AsRef<OsStr>) -> Self {
        Self::new("run")
            .arg("--memory")
            .arg(format!("{MEMORY_MIB}M"))
            .arg("--image")
            .arg(image)
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name, value.as_ref().to_owned()));
        self
    }

    /// Makes the host a bad one: `attack` is a file of the model's `hostile` folder.
    #[must_use]
    pub fn attacked_by(self, attack: &str) -> Self {
        self.arg("--model-arg").arg(format!("attack={attack}"))
    }

    /// Lets the host launch another image than the one it was given: of two `-initrd` QEMU takes the last.
    #[must_use]
    pub fn swapped_for(self, image: &Path) -> Self {
        self.arg("--qemu-arg=-initrd")
            .arg(format!("--qemu-arg={}", image.display()))
    }

    /// Gives up after this time instead of the usual limit.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Takes no slot: the caller has them all.
    #[must_use]
    pub fn with_slots_taken(mut self) -> Self {
        self.is_machine = false;
        self
    }

    /// Starts it; a machine waits for its slot first.
    #[must_use]
    pub fn start(self) -> Running {
        let program = &workshop().stockade;
        let slot = self.is_machine.then(Slot::take);
        let mut words = self.arguments.iter().map(|word| word.to_string_lossy());
        let name = words.by_ref().collect::<Vec<_>>().join(" ");
        let mut command = Command::new(program);
        command.args(&self.arguments).envs(self.environment);
        Running::start(&mut command, format!("stockade {name}"), self.limit, slot)
    }

    /// Starts it, says nothing to it and waits for its end.
    #[must_use]
    pub fn finish(self) -> Finished {
        self.start().finish()
    }
}
