//! A call of `stockade` while it runs: the guest's console at both ends.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::stream::Stream;
use crate::{Finished, Slot, processes, transcript, whereabouts};

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
    /// Starts a program, `name` in messages, with its console at our hands; `slot` is kept until it has ended.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(command: &mut Command, name: String, limit: Duration, slot: Option<Slot>) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that a hung QEMU can be ended together with it.
            .process_group(0)
            .spawn()
            .expect("the program is there");
        Self::new(child, name, limit, slot)
    }

    fn new(mut child: Child, name: String, limit: Duration, slot: Option<Slot>) -> Self {
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
        let part = stdout.part(self.seen, end);
        self.seen = end;
        part
    }

    /// Returns the processor time all its processes have taken so far.
    ///
    /// # Panics
    /// If the system does not say.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let group = pid(&self.child).as_raw();
        processes::all()
            .filter(|stat| stat.pgrp == group)
            .map(|stat| processes::time(&stat))
            .sum()
    }

    /// Sends the command itself a signal, as a user's Ctrl-C or a service manager would.
    pub fn signal(&self, signal: Signal) {
        kill(pid(&self.child), signal).expect("it is our child");
    }

    /// Ends what the command started, without a word: the machine's power cord.
    ///
    /// # Panics
    /// It runs nothing.
    pub fn kill_machine(&self) {
        let own = pid(&self.child).as_raw();
        let children: Vec<i32> = processes::all()
            .filter(|stat| stat.ppid == own)
            .map(|stat| stat.pid)
            .collect();
        assert!(!children.is_empty(), "{} runs nothing", self.name);
        for child in children {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
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
        let places = whereabouts::of(pid(&self.child).as_raw());
        self.end();
        let (stdout, stderr) = self.output.take().expect("failed once");
        let after = self.begun.elapsed().as_secs();
        let ended = format!("{what} (after {after} s)\n--- processors\n{places}");
        let stdout = stdout.finish_timed(self.begun);
        let stderr = stderr.finish_timed(self.begun);
        panic!("{}", transcript::of(&self.name, &ended, &stdout, &stderr));
    }

    /// Asks the command to end QEMU and itself, then ends the whole group.
    fn end(&mut self) {
        // Whatever fails here has ended already.
        let _ = kill(pid(&self.child), Signal::SIGINT);
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
