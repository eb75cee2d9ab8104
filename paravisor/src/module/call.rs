//! System calls of modules: the part of Linux's interface that a static program needs to start and to work.
//!
//! [`Context::perform`] carries one out. Every argument is a module's word: addresses are only touched through the module's own space,
//! lengths are bounded, and an unknown call is refused. A call that has to wait is simply tried again, so nothing of it is kept but the
//! time it waits for.

mod files;
mod memory;
pub mod number;
mod state;

use super::channel::Channel;
use super::memory::Memory;
use super::output::Output;
use super::outside::{NoReport, Outside};
use super::records::RecordStore;
use super::space::{BadAddress, Registers, Space};
use number::Number;

/// An error as the module sees it: the negative of Linux's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

#[expect(missing_docs, reason = "each is Linux's error of its name")]
impl Errno {
    pub const ENOENT: Self = Self(2);
    pub const EIO: Self = Self(5);
    pub const EBADF: Self = Self(9);
    pub const EAGAIN: Self = Self(11);
    pub const ENOMEM: Self = Self(12);
    pub const EACCES: Self = Self(13);
    pub const EFAULT: Self = Self(14);
    pub const EBUSY: Self = Self(16);
    pub const EEXIST: Self = Self(17);
    pub const ENODEV: Self = Self(19);
    pub const EINVAL: Self = Self(22);
    pub const ENOTTY: Self = Self(25);
    pub const ESPIPE: Self = Self(29);
    pub const ENOSYS: Self = Self(38);
    pub const EPROTO: Self = Self(71);
    pub const EMSGSIZE: Self = Self(90);
}

impl From<BadAddress> for Errno {
    fn from(_: BadAddress) -> Self {
        Self::EFAULT
    }
}

impl From<NoReport> for Errno {
    fn from(error: NoReport) -> Self {
        match error {
            NoReport::Busy => Self::EBUSY,
            NoReport::Refused => Self::EIO,
        }
    }
}

/// How a module's program ended by its own will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// With this status.
    Exit(u8),
    /// By a signal to itself, as by `abort`.
    Signal(u8),
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done(u64),
    /// It is refused.
    Failed(Errno),
    /// It waits for a message, or for this time.
    Wait(u64),
    /// The program ends.
    Leave(Leave),
    /// There is no such call.
    Unknown(Number),
}

impl Outcome {
    /// Waiting without an end.
    pub const WAIT: Self = Self::Wait(u64::MAX);

    /// Returns what RAX then is, if the call is over and the program is not.
    #[must_use]
    pub fn value(self) -> Option<u64> {
        match self {
            Self::Done(value) => Some(value),
            Self::Failed(errno) => Some(u64::from(errno.0).wrapping_neg()),
            Self::Unknown(_) => Some(u64::from(Errno::ENOSYS.0).wrapping_neg()),
            Self::Wait(_) | Self::Leave(_) => None,
        }
    }
}

impl From<Result<u64, Errno>> for Outcome {
    fn from(result: Result<u64, Errno>) -> Self {
        result.map_or_else(Self::Failed, Self::Done)
    }
}

/// What a call works on.
pub struct Context<'a, S: Space + ?Sized> {
    /// The module's name.
    pub name: &'a str,
    /// Its address space.
    pub space: &'a mut S,
    /// The books of it.
    pub memory: &'a mut Memory,
    /// Its channel.
    pub channel: &'a Channel,
    /// Its records.
    pub records: &'a mut dyn RecordStore,
    /// What it has asked of its records.
    pub desk: &'a mut Desk,
    /// What it prints.
    pub output: &'a mut Output,
    /// The world outside.
    pub outside: &'a mut dyn Outside,
    /// Until when the call waits, if it was tried before.
    pub until_ns: &'a mut Option<u64>,
    /// The base of its thread-local storage.
    pub fs_base: &'a mut u64,
}

/// What a module has asked of its records, or of the secure processor, and not yet read the answer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Desk {
    /// Nothing.
    #[default]
    Empty,
    /// The store is at work.
    Begun,
    /// Something malformed.
    Refused,
    /// A report with this bound to it, by descriptor 5; a busy host is asked for it so many times more.
    Report([u8; 64], u8),
}

impl<S: Space + ?Sized> Context<'_, S> {
    /// Carries out the call in the registers, which are not changed but for FS.
    pub fn perform(&mut self, registers: &Registers) -> Outcome {
        let call = Call::new(registers);
        let outcome = self.dispatch(&call);
        if !matches!(outcome, Outcome::Wait(_)) {
            *self.until_ns = None;
        }
        outcome
    }

    fn dispatch(&mut self, call: &Call) -> Outcome {
        let [a, b, c, d, ..] = call.arguments;
        match call.number {
            Number::READ | Number::RECVFROM | Number::POLL | Number::PPOLL => self.incoming(call),
            Number::WRITE | Number::SENDTO => self.write(a, b, c).into(),
            Number::WRITEV => self.write_vector(a, b, c).into(),
            Number::MMAP
            | Number::MPROTECT
            | Number::MUNMAP
            | Number::MREMAP
            | Number::BRK
            | Number::MADVISE => self.memory_call(call).into(),
            Number::FSTAT => self.file_status(a, b).into(),
            Number::NEWFSTATAT => self.file_status(a, c).into(),
            Number::NANOSLEEP => self.sleep(a, Clock::Span),
            Number::CLOCK_NANOSLEEP => self.clock_sleep(a, b, c),
            Number::EXIT | Number::EXIT_GROUP => Outcome::Leave(Leave::Exit(a.to_le_bytes()[0])),
            Number::KILL | Number::TKILL if b != 0 => {
                Outcome::Leave(Leave::Signal(b.to_le_bytes()[0]))
            }
            Number::TGKILL if c != 0 => Outcome::Leave(Leave::Signal(c.to_le_bytes()[0])),
            Number::PRLIMIT64 => self.limits(b, d).into(),
            _ => self.state_call(call),
        }
    }
}

/// What a time a module names is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// From now on.
    Span,
    /// Of the clock that only goes forward.
    Monotonic,
    /// Of the calendar.
    Calendar,
}

/// A call and its arguments (System V ABI, x86-64 supplement, A.2.1).
#[derive(Clone, Copy, Debug)]
struct Call {
    number: Number,
    arguments: [u64; 6],
}

impl Call {
    fn new(registers: &Registers) -> Self {
        let Registers {
            rax,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..
        } = *registers;
        Self {
            number: Number(rax),
            arguments: [rdi, rsi, rdx, r10, r8, r9],
        }
    }
}

/// Copies an array of the module's words.
fn words<const N: usize, S: Space + ?Sized>(space: &S, address: u64) -> Result<[u64; N], Errno> {
    let mut words = [0; N];
    for (word, at) in words
        .iter_mut()
        .zip((0..).map(|index| address.wrapping_add(8 * index)))
    {
        let mut bytes = [0; 8];
        space.read(at, &mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

#[cfg(test)]
mod tests;
