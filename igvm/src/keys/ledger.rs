//! What a holder remembers of machines' starts, so that nobody gets keys for an older copy of a sealed store.
//!
//! A file of lines, only ever added to: a key's id, and the start at which it was given. Of a key's lines the last one counts. A machine's
//! store remembers its starts as well, so one that knows nothing of the last is not the store that was there then.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use stockade_storage::KeyId;
use stockade_storage::release::{StartId, Starts};

/// A holder's memory.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Locked: two holders would forget what the other one saw.
    file: File,
    seen: BTreeMap<KeyId, StartId>,
}

/// Why a file is no memory, or cannot be added to.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system says no.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("{}: in use by another key server", .0.display())]
    InUse(PathBuf),
    /// Something else is in it.
    #[error("{}: line {line} was not written by `keys serve --remember`; name another file", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// A machine's store knows nothing of the last start that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The key it asked for.
    pub id: KeyId,
    /// What its store remembers, if it has one.
    pub starts: Option<Starts>,
}

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, starts } = self;
        let what = match starts {
            Some(_) => "the machine's sealed store knows nothing of",
            None => "the machine has no sealed store, or cannot use it, and had one at",
        };
        write!(
            f,
            "{what} the last start at which key {id} was given: it was rolled back or exchanged; \
             if it was made anew on purpose, remove the lines of that key from what --remember names"
        )
    }
}

impl Ledger {
    /// Opens a file, or makes it.
    ///
    /// # Errors
    /// It cannot be read and added to, is another server's, or something else is in it.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Io {
            path: path.into(),
            source,
        };
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::InUse(path.into())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let (lines, rest) = text.split_at(whole);
        let foreign = |line| LedgerError::Line {
            path: path.into(),
            line,
        };
        let mut seen = BTreeMap::new();
        for (line, words) in (1..).zip(lines.lines()) {
            let (id, start) = parse(words).ok_or_else(|| foreign(line))?;
            seen.insert(id, start);
        }
        if !rest.is_empty() {
            if !is_beginning(rest) {
                return Err(foreign(1 + lines.lines().count()));
            }
            // A loss of power kept the rest of the line from being written: nobody was given anything for it.
            file.set_len(whole as u64).map_err(failed)?;
        }
        Ok(Self {
            path: path.into(),
            inner: Mutex::new(Inner { file, seen }),
        })
    }

    /// Remembers this start of a machine, unless its store knows nothing of the last one that had one of these keys. What is remembered is
    /// durable when this returns.
    ///
    /// Of a machine without a store nothing is remembered, and it may have keys of which nothing is.
    ///
    /// # Errors
    /// The file could not be added to; then nothing may be given.
    pub fn admit(
        &self,
        ids: &[KeyId],
        starts: Option<Starts>,
    ) -> Result<Result<(), Stale>, LedgerError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stale = |id: &&KeyId| {
            let seen = inner.seen.get(*id).copied();
            seen.is_some_and(|seen| !starts.is_some_and(|starts| starts.follow(seen)))
        };
        if let Some(id) = ids.iter().find(is_stale).copied() {
            return Ok(Err(Stale { id, starts }));
        }
        let Some(Starts { this, .. }) = starts else {
            return Ok(Ok(()));
        };
        let lines: String = ids.iter().map(|id| line(id, this)).collect();
        inner.add(&lines).map_err(|source| LedgerError::Io {
            path: self.path.clone(),
            source,
        })?;
        inner.seen.extend(ids.iter().map(|id| (*id, this)));
        Ok(Ok(()))
    }
}

impl Inner {
    /// Adds lines to the file, all of them or none.
    fn add(&mut self, lines: &str) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(lines.as_bytes());
        written
            .and_then(|()| self.file.sync_all())
            .inspect_err(|_| {
                // What a full disk took of them would be in the way of the next ones.
                let _ = self.file.set_len(before);
            })
    }
}

fn line(id: &KeyId, StartId(start): StartId) -> String {
    format!("{id} {}\n", hex::encode(start))
}

fn parse(line: &str) -> Option<(KeyId, StartId)> {
    let (id, start) = line.split_once(' ')?;
    let mut parsed = (KeyId([0; 32]), StartId([0; 16]));
    hex::decode_to_slice(id, &mut parsed.0.0).ok()?;
    hex::decode_to_slice(start, &mut parsed.1.0).ok()?;
    Some(parsed)
}

/// Returns whether a line may begin so.
fn is_beginning(words: &str) -> bool {
    const LONGEST: usize = 64 + 1 + 32;
    let of_a_line = |byte: u8| byte.is_ascii_hexdigit() || byte == b' ';
    words.len() <= LONGEST && words.bytes().all(of_a_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: KeyId = KeyId([0xAA; 32]);
    const B: KeyId = KeyId([0xBB; 32]);

    /// What a store remembers at a start whose predecessor was confirmed.
    fn starts(confirmed: u8, this: u8) -> Option<Starts> {
        let [confirmed, this] = [confirmed, this].map(|number| StartId([number; 16]));
        Some(Starts { confirmed, this })
    }

    fn is_stale(ledger: &Ledger, ids: &[KeyId], starts: Option<Starts>) -> bool {
        ledger.admit(ids, starts).unwrap().is_err()
    }

    #[test]
    fn a_store_knows_the_last_start_or_is_an_older_copy() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("starts")).unwrap();
        assert!(!is_stale(&ledger, &[A], starts(0, 1)));
        assert!(!is_stale(&ledger, &[A], starts(1, 2)));
        assert!(!is_stale(&ledger, &[A], starts(2, 3)));
        assert!(is_stale(&ledger, &[A], starts(1, 2)), "as of a start ago");
        // However often it starts.
        assert!(is_stale(&ledger, &[A], starts(1, 4)));
        assert!(is_stale(&ledger, &[A], starts(2, 4)), "as of then");
        assert!(is_stale(&ledger, &[A], starts(0, 5)), "a new one");
        assert!(is_stale(&ledger, &[A], None), "none");
        // Refused, nothing of it is remembered: not of the other key either.
        assert!(is_stale(&ledger, &[B, A], starts(1, 4)));
        assert!(!is_stale(&ledger, &[B], starts(0, 9)));
        assert!(!is_stale(&ledger, &[A], starts(3, 4)));
    }

    /// The host may keep the answer, or the power may go, before the store has it that the start was seen.
    #[test]
    fn an_answer_that_never_came_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("starts")).unwrap();
        assert!(!is_stale(&ledger, &[A], starts(0, 1)));
        assert!(!is_stale(&ledger, &[A], starts(0, 1)));
        assert!(!is_stale(&ledger, &[A], starts(1, 2)));
        // The question of this one was lost, and the next asks it again.
        assert!(!is_stale(&ledger, &[A], starts(2, 3)));
    }

    #[test]
    fn who_has_no_store_is_given_keys_that_never_had_one() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("starts")).unwrap();
        assert!(!is_stale(&ledger, &[A], None));
        assert!(!is_stale(&ledger, &[A], starts(0, 1)));
        assert!(is_stale(&ledger, &[A], None));
    }

    #[test]
    fn a_server_that_starts_anew_remembers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("starts");
        let first = Ledger::open(&path).unwrap();
        assert!(!is_stale(&first, &[A, B], starts(0, 1)));
        assert!(!is_stale(&first, &[A], starts(1, 2)));
        assert!(matches!(Ledger::open(&path), Err(LedgerError::InUse(_))));
        drop(first);
        let again = Ledger::open(&path).unwrap();
        assert!(is_stale(&again, &[A], starts(1, 3)));
        assert!(is_stale(&again, &[B], starts(0, 3)));
        assert!(!is_stale(&again, &[A], starts(2, 3)));
    }

    /// Nobody was given anything before the line was whole.
    #[test]
    fn a_line_cut_off_by_a_loss_of_power_is_as_if_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("starts");
        let ledger = Ledger::open(&path).unwrap();
        assert!(!is_stale(&ledger, &[A], starts(0, 1)));
        assert!(!is_stale(&ledger, &[A], starts(1, 2)));
        drop(ledger);
        let text = std::fs::read(&path).unwrap();
        let lines = text.len() / 2;
        for end in lines..text.len() {
            std::fs::write(&path, &text[..end]).unwrap();
            let ledger = Ledger::open(&path).unwrap();
            assert!(is_stale(&ledger, &[A], starts(0, 2)));
            assert!(!is_stale(&ledger, &[A], starts(1, 2)));
            drop(ledger);
            assert_eq!(std::fs::read(&path).unwrap(), text, "{end}");
        }
    }

    #[test]
    fn what_is_no_memory_is_named_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("starts");
        let good = line(&A, StartId([1; 16]));
        for (bad, at) in [
            ("a letter\n".to_owned(), 1),
            ("a letter without an end".to_owned(), 1),
            (format!("{good}a letter"), 2),
            ("0".repeat(200), 1),
            (format!("{good}{}", good.replace(' ', "  ")), 2),
            (good.replace('\n', " 1\n"), 1),
            (good.replacen('a', "+", 1), 1),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let opened = Ledger::open(&path);
            let is_named = matches!(&opened, Err(LedgerError::Line { line, .. }) if *line == at);
            assert!(is_named, "{opened:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
        let nowhere = Ledger::open(&folder.path().join("none/starts"));
        assert!(matches!(nowhere, Err(LedgerError::Io { .. })));
    }
}
