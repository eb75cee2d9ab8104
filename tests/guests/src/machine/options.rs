//! The command line: where the loader left it and what its words mean.

use core::ptr;
use core::sync::atomic::{AtomicU8, Ordering};

const LONGEST: usize = 1024;
static TEXT: [AtomicU8; LONGEST] = [const { AtomicU8::new(0) }; LONGEST];

/// The multiboot information's flag for a command line (multiboot 1, 3.3).
const MULTIBOOT_HAS_COMMAND_LINE: u32 = 1 << 2;

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    text: [u8; LONGEST],
    len: usize,
}

impl Options {
    /// Copies the command line from where the loader says it is: multiboot information, or PVH start information.
    pub(super) fn read(is_multiboot: bool, information: u64) -> Self {
        let read_u32 = |at: u64| unsafe { ptr::read_volatile(at as *const u32) };
        let line = if is_multiboot {
            let has_line = read_u32(information) & MULTIBOOT_HAS_COMMAND_LINE != 0;
            if has_line {
                u64::from(read_u32(information + 16))
            } else {
                0
            }
        } else {
            u64::from(read_u32(information + 24)) | u64::from(read_u32(information + 28)) << 32
        };
        if line != 0 {
            for (at, byte) in (line..).zip(&TEXT) {
                let value = unsafe { ptr::read_volatile(at as *const u8) };
                if value == 0 {
                    break;
                }
                byte.store(value, Ordering::Relaxed);
            }
        }
        let mut text = [0; LONGEST];
        for (to, from) in text.iter_mut().zip(&TEXT) {
            *to = from.load(Ordering::Relaxed);
        }
        let len = text.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
        Self { text, len }
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        let text = self.text.get(..self.len).unwrap_or_default();
        core::str::from_utf8(text)
            .unwrap_or_default()
            .split_ascii_whitespace()
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.words()
            .filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// Returns whether this check is to run.
    pub(crate) fn selects(&self, group: &str, name: &str) -> bool {
        let has = |text: &str| match text.split_once('.') {
            Some((left, right)) => group == left && name.contains(right),
            None => group.contains(text) || name.contains(text),
        };
        let mut tests = self.values("test").peekable();
        let is_wanted = tests.peek().is_none() || tests.any(has);
        is_wanted && !self.values("skip").any(has)
    }

    /// Returns how many CPUs there must be, if the command line says so.
    pub(crate) fn cpus(&self) -> Option<usize> {
        self.values("cpus").find_map(|value| value.parse().ok())
    }

    /// Returns whether checks are to be listed and not run.
    pub(crate) fn is_list(&self) -> bool {
        self.words().any(|word| word == "list")
    }

    /// Returns whether the start of each check is to be said.
    pub(crate) fn is_trace(&self) -> bool {
        self.words().any(|word| word == "trace")
    }

    /// Returns whether operations are to be timed and nothing checked.
    pub(crate) fn is_bench(&self) -> bool {
        self.words().any(|word| word == "bench")
    }

    /// Returns whether checks may run that stop some emulators for good.
    pub(crate) fn is_risky(&self) -> bool {
        self.words().any(|word| word == "risky")
    }
}
