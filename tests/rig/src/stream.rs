//! What a running program writes, collected by a thread so that it never blocks.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Shared {
    bytes: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
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
                state.0.extend_from_slice(&buffer[..count]);
                state.1 = count == 0;
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
            if let Some(found) = find(&state.0[from.min(state.0.len())..], words.as_bytes()) {
                return Some(from + found + words.len());
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.1 || left == Duration::ZERO {
                return None;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns what lies between two offsets, which count bytes and not characters.
    pub(crate) fn part(&self, from: usize, end: usize) -> String {
        let state = self.shared.lock();
        String::from_utf8_lossy(state.0.get(from..end).unwrap_or_default()).into_owned()
    }

    /// Waits for the end of the output and returns all of it. The program must have ended.
    pub(crate) fn finish(self) -> String {
        // A reader that panicked has still left what it read.
        let _ = self.reader.join();
        String::from_utf8_lossy(&self.shared.lock().0).into_owned()
    }
}

fn find(bytes: &[u8], words: &[u8]) -> Option<usize> {
    bytes.windows(words.len()).position(|at| at == words)
}

#[cfg(test)]
mod tests {
    use super::Stream;
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
