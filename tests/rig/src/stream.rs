//! What a running program writes, collected by a thread so that it never blocks.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What has come so far.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    /// Which byte was the first of those that came at once, and when that was.
    times: Vec<(usize, Instant)>,
    has_ended: bool,
}

#[derive(Default)]
struct Shared {
    written: Mutex<Written>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One output of a running program.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

impl Stream {
    /// Starts to collect.
    pub(crate) fn follow(mut source: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = source.read(&mut buffer).unwrap_or(0);
                let mut state = theirs.lock();
                let first = state.bytes.len();
                state.times.push((first, Instant::now()));
                state.bytes.extend_from_slice(&buffer[..count]);
                state.has_ended = count == 0;
                theirs.changed.notify_all();
                if count == 0 {
                    break;
                }
            }
        });
        Self { shared, reader }
    }

    /// Waits until `words` are written at or behind byte `from`; returns the offset behind them, or `None` when the program
    /// ends its output or the time is over first.
    pub(crate) fn wait_for(&self, words: &str, from: usize, until: Instant) -> Option<usize> {
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = find(
                &state.bytes[from.min(state.bytes.len())..],
                words.as_bytes(),
            ) {
                return Some(from + found + words.len());
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.has_ended || left == Duration::ZERO {
                return None;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns what lies between two offsets, which count bytes and not characters.
    pub(crate) fn part(&self, from: usize, end: usize) -> String {
        let state = self.shared.lock();
        String::from_utf8_lossy(state.bytes.get(from..end).unwrap_or_default()).into_owned()
    }

    /// Waits for the end of the output and returns all of it. The program must have ended.
    pub(crate) fn finish(self) -> String {
        // A reader that panicked has still left what it read.
        let _ = self.reader.join();
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }

    /// Does the same, with the seconds from `begun` to its first byte before each line.
    pub(crate) fn finish_timed(self, begun: Instant) -> String {
        let _ = self.reader.join();
        let written = self.shared.lock();
        let mut at = 0;
        let mut timed = String::new();
        for line in written.bytes.split_inclusive(|byte| *byte == b'\n') {
            let came = written.times.partition_point(|(first, _)| *first <= at);
            let when = written.times[came - 1].1.duration_since(begun);
            at += line.len();
            let line = String::from_utf8_lossy(line);
            timed.push_str(&format!("{:7.1} {line}", when.as_secs_f64()));
        }
        timed
    }
}

fn find(bytes: &[u8], words: &[u8]) -> Option<usize> {
    bytes.windows(words.len()).position(|at| at == words)
}

#[cfg(test)]
mod tests {
    use super::Stream;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn words_are_found_behind_the_place_given_only() {
        let stream = Stream::follow(&b"one two one"[..]);
        let until = Instant::now() + Duration::from_secs(10);
        assert_eq!(stream.wait_for("one", 0, until), Some(3));
        assert_eq!(stream.wait_for("one", 3, until), Some(11));
        assert_eq!(stream.wait_for("one", 11, until), None);
        assert_eq!(stream.finish(), "one two one");
    }

    #[test]
    fn each_line_has_the_time_of_its_first_byte() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let begun = Instant::now();
        let stream = Stream::follow(theirs);
        ours.write_all(b"one\ntw").expect("it is read");
        let _ = stream.wait_for("tw", 0, begun + Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(200));
        ours.write_all(b"o\nthree").expect("it is read");
        drop(ours);
        let timed = stream.finish_timed(begun);
        let lines: Vec<(f64, &str)> = timed
            .lines()
            .map(|line| line.trim_start().split_once(' ').expect("time and line"))
            .map(|(time, line)| (time.parse().expect("seconds"), line))
            .collect();
        let [(first, "one"), (second, "two"), (third, "three")] = lines[..] else {
            panic!("{timed}");
        };
        assert!(first <= second && second + 0.1 <= third, "{timed}");
    }

    /// Firmware draws boxes with bytes that are no UTF-8, each of which takes three as a replacement character.
    #[test]
    fn offsets_are_of_bytes_whatever_they_mean() {
        let stream = Stream::follow(&b"\xC4\xC4\xC4 login: word"[..]);
        let until = Instant::now() + Duration::from_secs(10);
        let end = stream.wait_for("login:", 0, until).expect("it is there");
        assert_eq!(stream.wait_for("word", end, until), Some(15));
        assert_eq!(stream.part(end, 15), " word");
    }
}
