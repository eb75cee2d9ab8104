//! Whose TPM the guest has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;
use stockade::setup::Cache;
use stockade_rig::{Initrd, Running, Stockade};

use crate::directly;

const MEMORY: &str = "512M";
const LIMIT: Duration = Duration::from_secs(400);
/// How many of the guest's commands there are to follow.
const COMMANDS: usize = 5;
/// Gives its commands and times them.
const PROGRAM: &str = "tpm_commands";

/// cyclictest of ten seconds by itself, then beside a program that has RSA keys made until it is ended.
const TIMERS: &str = r#"
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
feel() {
    cyclictest --quiet --threads=1 --priority=90 --interval=1000 --loops=8000 >/tmp/out 2>&1
    say "$1 $(grep '^T:' /tmp/out)"
}
feel quiet
tpm_commands keys 10000 >/tmp/keys 2>&1 &
sleep 1
feel busy
cat /tmp/keys
say done
"#;

/// Whose TPM the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// QEMU's interface, swtpm behind it.
    Direct,
    /// Ours.
    Below,
}

/// What a run left.
pub(super) struct Ran {
    /// QEMU's processor time for all times of each command.
    pub(super) cpu: Vec<Duration>,
    pub(super) console: String,
    pub(super) stats: Value,
}

impl Way {
    pub(super) const ALL: [Self; 2] = [Self::Direct, Self::Below];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Direct => "directly, swtpm",
            Self::Below => "below us",
        }
    }

    /// Boots and has each command timed.
    pub(super) fn time_commands(self, folder: &Path) -> Ran {
        let initrd = Initrd::new("tpm_commands time").own_program(&program());
        let stats = folder.join("stats.json");
        // What another left is nothing of this one's.
        let _ = fs::remove_file(&stats);
        let mut machine = self.start(&initrd, folder, &stats);
        let mut console = String::new();
        let mut cpu = Vec::new();
        for number in 1..=COMMANDS {
            console += &machine.running.expect(&format!("begin {number}"));
            let before = machine.running.cpu();
            console += &machine.running.expect(&format!("end {number}"));
            cpu.push(machine.running.cpu() - before);
        }
        console += &machine.running.expect("guest-check: done");
        console += &machine.finish();
        let text = fs::read_to_string(&stats).unwrap_or_default();
        Ran {
            cpu,
            console,
            stats: serde_json::from_str(&text).unwrap_or(Value::Null),
        }
    }

    /// Boots and returns what cyclictest says, in lines `quiet …` and `busy …`.
    pub(super) fn feel_timers(self, folder: &Path) -> String {
        let initrd = Initrd::new(TIMERS).own_program(&program()).program(
            "rt-tests",
            "usr/bin/cyclictest",
            &["libnuma1"],
        );
        let mut machine = self.start(&initrd, folder, &folder.join("timers.json"));
        let console = machine.running.expect("guest-check: done");
        console + &machine.finish()
    }

    fn start(self, initrd: &Initrd, folder: &Path, stats: &Path) -> Machine {
        let initrd = initrd.write(folder);
        match self {
            Self::Direct => directly(&initrd),
            Self::Below => Machine {
                running: below_us(&initrd, stats),
                swtpm: None,
            },
        }
    }
}

/// A machine, with the process that is its TPM, if that is one.
struct Machine {
    running: Running,
    swtpm: Option<Swtpm>,
}

impl Machine {
    /// Waits for the guest to end, and returns what it said last.
    fn finish(self) -> String {
        let finished = self.running.finish();
        drop(self.swtpm);
        finished.stdout
    }
}

/// swtpm with a folder of its own for state and socket.
struct Swtpm {
    process: Child,
    folder: tempfile::TempDir,
}

impl Swtpm {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2"])
            .arg(format!("--tpmstate=dir={}", folder.path().display()))
            .arg(format!(
                "--ctrl=type=unixio,path={}",
                socket(&folder).display()
            ))
            .spawn()
            .expect("swtpm is there; apt-get install swtpm");
        let swtpm = Self { process, folder };
        let is_up = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            socket(&swtpm.folder).exists()
        });
        assert!(is_up, "swtpm does not come up");
        swtpm
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // It ends with its connection.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn socket(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("socket")
}

fn directly(initrd: &Path) -> Machine {
    let swtpm = Swtpm::start();
    let mut command = directly::qemu(initrd, MEMORY, "");
    command
        .arg("-chardev")
        .arg(format!(
            "socket,id=tpm,path={}",
            socket(&swtpm.folder).display()
        ))
        .args(["-tpmdev", "emulator,id=tpm,chardev=tpm"])
        .args(["-device", "tpm-crb,tpmdev=tpm"]);
    Machine {
        running: Running::start(&mut command, "qemu".to_owned(), LIMIT, None),
        swtpm: Some(swtpm),
    }
}

fn below_us(initrd: &Path, stats: &Path) -> Running {
    Stockade::new("run")
        .args(["--tpm", "--memory", MEMORY, "--append", "panic=-1"])
        .arg("--initrd")
        .arg(initrd)
        .arg("--stats")
        .arg(stats)
        .limit(LIMIT)
        .with_slots_taken()
        .start()
}

/// Builds the guest's program.
fn program() -> PathBuf {
    let cache = Cache::open().expect("the workspace is where this was built");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(cache.workspace())
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "stockade-cases",
        ])
        .args(["--bin", PROGRAM, "--target-dir"])
        .arg(cache.target())
        .status()
        .expect("cargo ran this, so it is there");
    assert!(status.success(), "{PROGRAM} does not build");
    cache.target().join("release").join(PROGRAM)
}
