//! The TPM's engine as a process of its own, and the distribution's `tpm2-tools` to ask it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use stockade::setup::{Cache, TpmEngine, tpm_engine};

/// Returns the engine, built at the first call.
pub fn engine() -> &'static TpmEngine {
    static ENGINE: OnceLock<TpmEngine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let cache = Cache::open().expect("the workspace is where this was built");
        let mut say = |words: &str| eprintln!("rig: {words}");
        tpm_engine(&cache, &mut say).unwrap_or_else(|e| panic!("{e}"))
    })
}

/// A TPM behind two ports of this machine.
#[derive(Debug)]
pub struct SimulatedTpm {
    process: Child,
    port: u16,
}

impl SimulatedTpm {
    /// Starts one that keeps what must last in `state`, or nothing.
    #[must_use]
    pub fn start(state: Option<&Path>) -> Self {
        for _ in 0..20 {
            if let Some(started) = Self::try_start(state, two_free_ports()) {
                return started;
            }
        }
        panic!("no two ports in a row stay free");
    }

    /// `None` if somebody else took the ports meanwhile.
    fn try_start(state: Option<&Path>, port: u16) -> Option<Self> {
        let mut command = Command::new(&engine().program);
        command.args(["--startup", "--socket", &format!("127.0.0.1:{port}")]);
        if let Some(folder) = state {
            command.arg("--state").arg(folder);
        }
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the engine was built for this machine");
        let output = process.stdout.take().expect("it is piped");
        let mut line = String::new();
        let is_up = BufReader::new(output).read_line(&mut line).is_ok() && !line.is_empty();
        let started = Self { process, port };
        is_up.then_some(started)
    }

    /// Returns the port for commands; the platform's is the next.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns a tool that asks this TPM, to be run in `folder`.
    #[must_use]
    pub fn tool(&self, folder: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(tool_path(words[0]));
        command
            .args(&words[1..])
            .current_dir(folder)
            .env(
                "TPM2TOOLS_TCTI",
                format!("mssim:host=127.0.0.1,port={}", self.port),
            )
            .env("TSS2_LOG", "all+NONE");
        command
    }

    /// Runs a tool and returns what it printed, whatever its exit code. What it left in the TPM, which has room for three objects, is
    /// flushed: there is no resource manager here.
    #[must_use]
    pub fn run(&self, folder: &Path, line: &str) -> Output {
        let words: Vec<&str> = line.split_whitespace().collect();
        let run = |words: &[&str]| self.tool(folder, words).output();
        let output = run(&words).unwrap_or_else(|e| panic!("{line}: {e}"));
        for kind in ["-t", "-l"] {
            // Where there is nothing to flush, that is an error.
            let _ = run(&["tpm2_flushcontext", kind]);
        }
        output
    }

    /// Runs a tool that must succeed, and returns what it printed.
    #[must_use]
    pub fn ask(&self, folder: &Path, line: &str) -> String {
        let output = self.run(folder, line);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}{errors}");
        said
    }

    /// Ends it as a power cut does.
    pub fn cut_power(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for SimulatedTpm {
    fn drop(&mut self) {
        self.end();
    }
}

fn tool_path(name: &str) -> PathBuf {
    let path = Path::new("/usr/bin").join(name);
    assert!(
        path.is_file(),
        "{name} is missing; run: apt-get install --no-install-recommends tpm2-tools libtss2-tcti-mssim0"
    );
    path
}

/// Returns the first of two ports in a row that nobody has at the moment.
pub(crate) fn two_free_ports() -> u16 {
    for _ in 0..1000 {
        let first = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let port = first.local_addr().expect("it is bound").port();
        let next = port
            .checked_add(1)
            .map(|next| TcpListener::bind(("127.0.0.1", next)));
        if matches!(next, Some(Ok(_))) {
            return port;
        }
    }
    panic!("no two ports in a row are free");
}
