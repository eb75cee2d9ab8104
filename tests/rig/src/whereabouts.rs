//! What the processors of a machine are at that does not get on: a few looks at where each executes, by QEMU's monitor.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::processes;

/// So many looks tell a loop from a stop.
const LOOKS: usize = 8;
const BETWEEN: Duration = Duration::from_millis(100);
/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const GREETING: &str = r#"{"execute":"qmp_capabilities"}"#;
const REGISTERS: &str =
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"info registers -a"}}"#;

/// Returns the looks at the machine that a process of this group runs, or why there are none.
pub(crate) fn of(group: i32) -> String {
    looks(group).unwrap_or_else(|error| format!("nobody looked: {error}"))
}

fn looks(group: i32) -> io::Result<String> {
    let path = monitor(group).ok_or(io::ErrorKind::NotFound)?;
    let mut monitor = Monitor::connect(&path)?;
    let mut looks = String::new();
    for _ in 0..LOOKS {
        let _ = writeln!(looks, "{}", places(&monitor.ask(REGISTERS)?));
        std::thread::sleep(BETWEEN);
    }
    Ok(looks)
}

/// Returns the path of the monitor's socket, from the command line of a process of the group.
fn monitor(group: i32) -> Option<String> {
    processes::all()
        .filter(|stat| stat.pgrp == group)
        .find_map(|stat| socket_in(&processes::command_line(stat.pid)?))
}

fn socket_in(words: &[String]) -> Option<String> {
    let mut words = words.iter();
    let _ = words.find(|word| *word == "-qmp")?;
    let (path, _) = words.next()?.strip_prefix("unix:")?.split_once(',')?;
    Some(path.to_owned())
}

struct Monitor {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(path: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let answers = BufReader::new(stream.try_clone()?);
        let mut monitor = Self { stream, answers };
        monitor.ask(GREETING)?;
        Ok(monitor)
    }

    fn ask(&mut self, question: &str) -> io::Result<String> {
        self.stream.write_all(question.as_bytes())?;
        loop {
            let mut answer = String::new();
            if self.answers.read_line(&mut answer)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // Its greeting and events come in between.
            let answer: Value = serde_json::from_str(&answer).map_err(io::Error::other)?;
            if let Some(said) = answer.get("return") {
                return Ok(said.as_str().unwrap_or_default().to_owned());
            }
            if answer.get("error").is_some() {
                return Err(io::Error::other(answer.to_string()));
            }
        }
    }
}

/// Returns what is said of each processor's instruction pointer, flags, state and code segment.
fn places(registers: &str) -> String {
    let is_place = |line: &&str| {
        ["RIP=", "EIP=", "CS ="]
            .iter()
            .any(|it| line.starts_with(it))
    };
    let lines: Vec<&str> = registers.lines().filter(is_place).collect();
    lines.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::{places, socket_in};

    #[test]
    fn the_monitor_is_where_the_command_line_says() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let qemu = words("qemu -m 1 -qmp unix:/dev/shm/a/monitor,server=on,wait=off");
        assert_eq!(socket_in(&qemu).as_deref(), Some("/dev/shm/a/monitor"));
        assert_eq!(socket_in(&words("sleep 1")), None);
    }

    #[test]
    fn of_all_registers_those_that_say_where_it_executes_are_shown() {
        let said = "CPU#0\r\nRAX=1 RBX=2\r\nRIP=10 RFL=2\r\nES =0\r\nCS =8\r\n";
        assert_eq!(places(said), "RIP=10 RFL=2 | CS =8");
    }
}
