//! A call of `stockade` while it runs: the guest's console at both ends.

use std::io::Write;
use std::process::{Child, ChildStdin, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::stream::Stream;
use crate::{Finished, Slot};

const POLL: Duration = Duration::from_millis(20);
/// How long the command may take to end QEMU when it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// A running call. Dropped without [`Running::finish`] it is ended with everything it started.
pub struct Running {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Option<(Stream, Stream)>,
    seen: usize,
    begun: Instant,
    until: Instant,
    _slot: Option<Slot>,
}

impl Running {
    pub(crate) fn new(mut child: Child, name: String, limit: Duration, slot: Option<Slot>) -> Self {
        let input = child.stdin.take();
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let begun = Instant::now();
        Self {
            name,
            child,
            input,
            output: Some((Stream::follow(stdout), Stream::follow(stderr))),
            seen: 0,
            begun,
            until: begun + limit,
            _slot: slot,
        }
    }

    /// Types a line at the guest's console.
    pub fn send_line(&mut self, line: &str) {
        self.send(format!("{line}\n").as_bytes());
    }

    /// Types bytes at the guest's console.
    pub fn send(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("stdin is open");
        if let Err(error) = input.write_all(bytes).and_then(|()| input.flush()) {
            self.fail(&format!("takes no input: {error}"));
        }
    }

    /// Waits until the guest writes `words`, behind everything waited for before; returns what it wrote up to there.
    pub fn expect(&mut self, words: &str) -> String {
        let (stdout, _) = self.output.as_ref().expect("it is not finished");
        let Some(end) = stdout.wait_for(words, self.seen, self.until) else {
            self.fail(&format!("never wrote {words:?}"))
        };
        let text = stdout.text();
        let part = text.get(self.seen..end).unwrap_or_default().to_owned();
        self.seen = end;
        part
    }

    /// Sends the command itself a signal, as a user's Ctrl-C or a service manager would.
    pub fn signal(&self, signal: Signal) {
        kill(pid(&self.child), signal).expect("it is our child");
    }

    /// Closes its stdin and waits for its end.
    #[must_use]
    pub fn finish(mut self) -> Finished {
        self.input = None;
        while Instant::now() < self.until {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return self.collect(status);
            }
            std::thread::sleep(POLL);
        }
        self.fail("does not end")
    }

    fn collect(&mut self, status: ExitStatus) -> Finished {
        let (stdout, stderr) = self.output.take().expect("collected once");
        Finished {
            name: self.name.clone(),
            status,
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            wall: self.begun.elapsed(),
        }
    }

    fn fail(&mut self, what: &str) -> ! {
        self.end();
        let (stdout, stderr) = self.output.take().expect("failed once");
        let after = self.begun.elapsed().as_secs();
        panic!(
            "`{}` {what} (after {after} s)\n--- console\n{}\n--- stderr\n{}",
            self.name,
            stdout.finish(),
            stderr.finish()
        );
    }

    /// Asks the command to end QEMU and itself, then ends the whole group.
    fn end(&mut self) {
        // Whatever fails here has ended already.
        let _ = kill(pid(&self.child), Signal::SIGTERM);
        let until = Instant::now() + GRACE;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL);
        }
        let _ = killpg(pid(&self.child), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.output.is_some() {
            self.end();
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process numbers are small"))
}
