//! The power button: SIGTERM asks the guest to shut down before it ends the machine.
//!
//! A break on the host's console is the button: [`press`] has QEMU send one, as Ctrl-A B at a terminal does. A guest that does not
//! shut down in time, or a second SIGTERM, ends as by SIGINT: at once.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::follow::Sink;

/// How long QEMU may take to answer its monitor.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the monitor is told: that we know how to speak to it, and to send a break to the console's character device.
const WORDS: [&str; 2] = [
    r#"{"execute":"qmp_capabilities"}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"chardev-send-break console"}}"#,
];

/// What SIGTERM has come to.
pub(super) struct Ending {
    signal: Arc<AtomicBool>,
    grace: Duration,
    until: Option<Instant>,
}

impl Ending {
    /// Watches for SIGTERM from now on.
    pub(super) fn new(grace: Duration) -> Self {
        let signal = Arc::new(AtomicBool::new(false));
        // Without the handler the signal still ends us, only less tidily.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&signal));
        Self {
            signal,
            grace,
            until: None,
        }
    }

    /// Does as a signal says that has come. A guest that has not started has nothing to shut down.
    pub(super) fn watch(&mut self, has_started: bool, monitor: &Path, sink: &mut Sink) {
        if !self.signal.swap(false, Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let is_first = self.until.replace(now).is_none();
        if is_first && has_started && !self.grace.is_zero() {
            match press(monitor) {
                Ok(()) => self.until = now.checked_add(self.grace),
                Err(error) => sink.line("stockade", &format!("no power button: {error}")),
            }
        }
    }

    /// Returns whether the machine is to end now.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Presses the button by QEMU's monitor.
fn press(monitor: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(monitor)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    // It greets first.
    answers.read_line(&mut answer)?;
    for words in WORDS {
        stream.write_all(words.as_bytes())?;
        // Events may come in between.
        loop {
            answer.clear();
            if answers.read_line(&mut answer)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if answer.contains("\"error\"") {
                return Err(io::Error::other(answer));
            }
            if answer.contains("\"return\"") {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn button_is_a_break_by_the_monitor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("monitor");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            let mut heard = String::new();
            let mut buffer = [0; 1024];
            for answer in [
                "{\"return\": {}}\r\n",
                "{\"event\": 1}\r\n{\"return\": \"\"}\r\n",
            ] {
                let len = io::Read::read(&mut stream, &mut buffer).unwrap();
                heard.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            heard
        });
        press(&path).unwrap();
        assert!(
            server
                .join()
                .unwrap()
                .contains("chardev-send-break console")
        );
        assert!(press(&folder.path().join("none")).is_err());
    }

    #[test]
    fn second_signal_and_the_end_of_grace_end_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = Sink::open(Some(&folder.path().join("log"))).unwrap();
        let mut ending = Ending::new(Duration::from_secs(60));
        assert!(!ending.is_over());
        // No guest, or no monitor: at once.
        ending.signal.store(true, Ordering::Relaxed);
        ending.watch(false, Path::new("/nowhere"), &mut sink);
        assert!(ending.is_over());
        let mut waiting = Ending::new(Duration::from_secs(60));
        waiting.until = Instant::now().checked_add(Duration::from_secs(60));
        assert!(!waiting.is_over());
        waiting.signal.store(true, Ordering::Relaxed);
        waiting.watch(true, Path::new("/nowhere"), &mut sink);
        assert!(waiting.is_over());
    }
}
