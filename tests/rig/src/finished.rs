//! A call of `stockade` that is over.

use std::process::ExitStatus;
use std::time::Duration;

use crate::transcript;

/// What it said and how it ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The call.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// The guest's console.
    pub stdout: String,
    /// Our own words.
    pub stderr: String,
    /// How long it took.
    pub wall: Duration,
}

impl Finished {
    /// Fails with everything that was said unless the exit code is this one.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{}", self.transcript());
        self
    }

    /// Fails unless the error ends in a single line of ours that contains each of these words, and is no panic.
    #[track_caller]
    pub fn assert_says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "nothing about {word:?}\n{}",
                self.transcript()
            );
        }
        self
    }

    /// Fails unless this is how a bad argument or file is refused: an exit code that is not 0, nothing on stdout, and an error
    /// of one line, which names each of `words`.
    #[track_caller]
    pub fn assert_refused(&self, words: &[&str]) -> &Self {
        let code = self.status.code().unwrap_or(-1);
        assert!(code > 0, "{}", self.transcript());
        assert_eq!(self.stdout, "", "{}", self.transcript());
        let is_error = |line: &&str| line.starts_with("stockade: ") || line.starts_with("error: ");
        let errors: Vec<&str> = self.stderr.lines().filter(is_error).collect();
        let error = *errors
            .last()
            .unwrap_or_else(|| panic!("no error line\n{}", self.transcript()));
        for word in words {
            let text = self.transcript();
            assert!(
                error.contains(word),
                "nothing about {word:?} in {error:?}\n{text}"
            );
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.transcript());
        self
    }

    /// Returns the end of what was said, for a failing test, and the name of a file with everything.
    #[must_use]
    pub fn transcript(&self) -> String {
        let seconds = self.wall.as_secs_f64();
        let ended = format!("ended with {} after {seconds:.1} s", self.status);
        transcript::of(&self.name, &ended, &self.stdout, &self.stderr)
    }
}
