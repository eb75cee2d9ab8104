//! At the console of a machine that boots such a disk: its marks on the way up, a login, commands.

use super::{HOST_NAME, PASSWORD, USER};
use crate::Running;

/// What comes behind a command's output: 42 and its exit code. What the terminal echoes of the command looks otherwise.
const MARK: &str = "echo \"=$((6*7))=$?=\"";
/// A terminal that shows nothing but what programs write: nothing of the kernel and, by its `SIGRTMIN+21`, of systemd, which on a slow
/// machine still starts services after it has given up waiting for them with the prompt.
const QUIET: &str = "kill -s RTMAX-9 1; export PS1= PS2= TERM=dumb PAGER=cat; stty -echo cols 400; bind 'set enable-bracketed-paste off'; dmesg -n 1";

/// A moment of the boot, by what is then written to the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What has ended.
    pub name: &'static str,
    /// What tells.
    pub words: &'static str,
}

/// The phases in order.
pub const PHASES: [Phase; 4] = [
    Phase {
        name: "firmware",
        words: "Welcome to GRUB!",
    },
    Phase {
        name: "GRUB",
        words: "Linux version",
    },
    Phase {
        name: "kernel",
        words: "Run /init",
    },
    Phase {
        name: "userland",
        words: "debian login:",
    },
];

/// A shell of the disk's administrator.
pub struct Session<'a> {
    machine: &'a mut Running,
}

impl<'a> Session<'a> {
    /// Waits for the prompt and logs in.
    #[must_use]
    pub fn log_in(machine: &'a mut Running) -> Self {
        machine.expect(&format!("{HOST_NAME} login:"));
        Self::answer(machine)
    }

    /// Logs in at a prompt that has been seen.
    #[must_use]
    pub fn answer(machine: &'a mut Running) -> Self {
        machine.send_line(USER);
        machine.expect("Password:");
        machine.send_line(PASSWORD);
        machine.expect(&format!("{USER}@{HOST_NAME}"));
        machine.send_line(&format!("{QUIET}; {MARK}"));
        machine.expect("=42=0=");
        Self { machine }
    }

    /// Runs a command and returns what it wrote.
    ///
    /// # Panics
    /// If its exit code is not 0.
    #[must_use]
    pub fn run(&mut self, command: &str) -> String {
        self.machine.send_line(&format!("{command}; {MARK}"));
        let text = self.machine.expect("=42=");
        let code = self.machine.expect("=");
        assert_eq!(code, "0=", "{command}\n{text}");
        let text = text.trim_end_matches("=42=").replace('\r', "");
        text.trim().to_owned()
    }

    /// Types a command whose end nobody waits for, such as `reboot`.
    pub fn leave(self, command: &str) {
        self.machine.send_line(command);
    }
}
