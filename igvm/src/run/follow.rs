//! The logs of a running machine, passed on line by line.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use super::RunError;

/// Where our own words go: stderr, or the file of `--host-log`.
pub(super) enum Sink {
    Stderr { is_raw: bool },
    File(File),
}

impl Sink {
    pub(super) fn open(path: Option<&Path>) -> Result<Self, RunError> {
        match path {
            // The command has said something there before, and will again.
            Some(path) => {
                let log = File::options().create(true).append(true).open(path);
                Ok(Self::File(log.map_err(RunError::io(path))?))
            }
            // QEMU puts a terminal on stdin into raw mode, where a line feed alone does not return the carriage.
            None => Ok(Self::Stderr {
                is_raw: std::io::stdin().is_terminal(),
            }),
        }
    }

    pub(super) fn line(&mut self, source: &str, line: &str) {
        // A log nobody can take must not end the guest.
        let _ = match self {
            Self::Stderr { is_raw: false } => writeln!(std::io::stderr(), "{source}: {line}"),
            Self::Stderr { is_raw: true } => write!(std::io::stderr(), "{source}: {line}\r\n"),
            Self::File(file) => writeln!(file, "{source}: {line}"),
        };
    }
}

/// One log file being written by QEMU.
pub(super) struct Follower {
    source: &'static str,
    file: File,
    /// The line that has no end yet.
    line: Vec<u8>,
    has_entered: bool,
}

impl Follower {
    pub(super) fn open(path: &Path, source: &'static str) -> Result<Self, RunError> {
        Ok(Self {
            source,
            file: File::open(path).map_err(RunError::io(path))?,
            line: Vec::new(),
            has_entered: false,
        })
    }

    /// Passes on every whole line that came; lines for the machine (`word-word: {`) stay here.
    pub(super) fn pump(&mut self, sink: &mut Sink) {
        let mut bytes = Vec::new();
        if self.file.read_to_end(&mut bytes).is_err() {
            return;
        }
        self.line.append(&mut bytes);
        let Some(end) = self.line.iter().rposition(|byte| *byte == b'\n') else {
            return;
        };
        let begun = self.line.split_off(end + 1);
        let lines = std::mem::replace(&mut self.line, begun);
        for line in String::from_utf8_lossy(&lines).lines() {
            let line = line.trim_end();
            self.has_entered |= line.contains("entering the guest");
            if !is_for_the_machine(line) && !line.is_empty() {
                sink.line(self.source, line);
            }
        }
    }

    /// Returns whether the guest runs, or has run.
    pub(super) fn has_entered(&self) -> bool {
        self.has_entered
    }
}

/// Returns whether the line is data for the tool, not words for a person.
fn is_for_the_machine(line: &str) -> bool {
    [
        "stockade-stats: ",
        "model-stats: ",
        "model-view: ",
        "model-certificates: ",
    ]
    .iter()
    .any(|prefix| line.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::{Follower, Sink};
    use std::io::Write;

    #[test]
    fn whole_lines_are_passed_on_once_and_data_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (log, out) = (folder.path().join("log"), folder.path().join("out"));
        let mut writer = std::fs::File::create(&log).unwrap();
        let mut follower = Follower::open(&log, "paravisor").unwrap();
        let mut sink = Sink::open(Some(&out)).unwrap();
        write!(writer, "one\nstockade-stats: {{}}\ntw").unwrap();
        follower.pump(&mut sink);
        writeln!(writer, "o").unwrap();
        follower.pump(&mut sink);
        let text = std::fs::read_to_string(&out).unwrap();
        assert_eq!(text, "paravisor: one\nparavisor: two\n");
        assert!(!follower.has_entered());
        writeln!(writer, "entering the guest").unwrap();
        follower.pump(&mut sink);
        assert!(follower.has_entered());
    }
}
