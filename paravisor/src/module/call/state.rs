//! Time, random numbers, and what a program asks about itself.

use super::files::is_open;
use super::{Call, Clock, Context, Errno, Outcome};
use crate::module::call::number::Number;
use crate::module::memory::STACK_BYTES;
use crate::module::space::{Space, USER_END};

const NANOSECONDS: u64 = 1_000_000_000;
/// `TIMER_ABSTIME`.
const ABSOLUTE: u64 = 1;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const STACK_LIMIT: u64 = 3;
/// Most random bytes at once, as a call must end within a slice; a caller that wants more asks again.
const MOST_RANDOM: u64 = 4096;
/// Bytes of a field of `struct utsname`.
const NAME_BYTES: usize = 65;
/// A module is its own and only process.
const OWN_ID: u64 = 1;

impl<S: Space + ?Sized> Context<'_, S> {
    /// Carries out what does not wait and is not about files or memory.
    pub(super) fn state_call(&mut self, call: &Call) -> Outcome {
        let [a, b, c, ..] = call.arguments;
        let result = match call.number {
            Number::CLOCK_GETTIME => self.clock(a, b),
            Number::CLOCK_GETRES => self.clock_resolution(b),
            Number::GETTIMEOFDAY => self.time_of_day(a),
            Number::TIME => self.seconds(a),
            Number::GETRANDOM => self.random(a, b),
            Number::ARCH_PRCTL => self.thread_storage(a, b),
            Number::UNAME => self.name_system(a),
            Number::SCHED_GETAFFINITY => self.processors(b, c),
            Number::FUTEX => futex(b),
            Number::CLOSE | Number::FCNTL if !is_open(a) => Err(Errno::EBADF),
            Number::IOCTL => Err(Errno::ENOTTY),
            Number::LSEEK => Err(Errno::ESPIPE),
            Number::OPEN
            | Number::OPENAT
            | Number::ACCESS
            | Number::READLINK
            | Number::READLINKAT => Err(Errno::ENOENT),
            Number::GETPID | Number::GETTID | Number::SET_TID_ADDRESS => Ok(OWN_ID),
            Number::CLOSE
            | Number::FCNTL
            | Number::RT_SIGACTION
            | Number::RT_SIGPROCMASK
            | Number::SIGALTSTACK
            | Number::SET_ROBUST_LIST
            | Number::SCHED_YIELD
            | Number::KILL
            | Number::TKILL
            | Number::TGKILL
            | Number::GETUID
            | Number::GETGID
            | Number::GETEUID
            | Number::GETEGID
            | Number::GETPPID => Ok(0),
            // A program that is refused it does without.
            Number::RSEQ => Err(Errno::ENOSYS),
            unknown => return Outcome::Unknown(unknown),
        };
        result.into()
    }

    fn now(&self, clock: u64) -> Result<u64, Errno> {
        match clock {
            0 | 5 => Ok(self.outside.realtime_ns()),
            1..=4 | 6 | 7 => Ok(self.outside.monotonic_ns()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn clock(&mut self, clock: u64, address: u64) -> Result<u64, Errno> {
        let now = self.now(clock)?;
        self.put(address, &[now / NANOSECONDS, now % NANOSECONDS])
    }

    fn clock_resolution(&mut self, address: u64) -> Result<u64, Errno> {
        match address {
            0 => Ok(0),
            _ => self.put(address, &[0, 1]),
        }
    }

    fn time_of_day(&mut self, address: u64) -> Result<u64, Errno> {
        let now = self.outside.realtime_ns();
        match address {
            0 => Ok(0),
            _ => self.put(address, &[now / NANOSECONDS, now % NANOSECONDS / 1000]),
        }
    }

    fn seconds(&mut self, address: u64) -> Result<u64, Errno> {
        let seconds = self.outside.realtime_ns() / NANOSECONDS;
        if address != 0 {
            self.put(address, &[seconds])?;
        }
        Ok(seconds)
    }

    /// Waits for the time at `address`.
    pub(super) fn sleep(&mut self, address: u64, clock: Clock) -> Outcome {
        let now = self.outside.monotonic_ns();
        let until = match *self.until_ns {
            Some(until) => until,
            None => match super::words(self.space, address) {
                Err(errno) => return Outcome::Failed(errno),
                Ok([_, nanoseconds]) if nanoseconds >= NANOSECONDS => {
                    return Outcome::Failed(Errno::EINVAL);
                }
                Ok([seconds, nanoseconds]) => {
                    let time = seconds
                        .saturating_mul(NANOSECONDS)
                        .saturating_add(nanoseconds);
                    let span = match clock {
                        Clock::Span => time,
                        Clock::Monotonic => time.saturating_sub(now),
                        Clock::Calendar => time.saturating_sub(self.outside.realtime_ns()),
                    };
                    now.saturating_add(span)
                }
            },
        };
        *self.until_ns = Some(until);
        if until <= now {
            Outcome::Done(0)
        } else {
            Outcome::Wait(until)
        }
    }

    /// Waits as `clock_nanosleep` says.
    pub(super) fn clock_sleep(&mut self, clock: u64, flags: u64, address: u64) -> Outcome {
        let clock = match (clock, flags & ABSOLUTE) {
            (0..=7, 0) => Clock::Span,
            (0 | 5, _) => Clock::Calendar,
            (1 | 4 | 6 | 7, _) => Clock::Monotonic,
            _ => return Outcome::Failed(Errno::EINVAL),
        };
        self.sleep(address, clock)
    }

    fn random(&mut self, address: u64, bytes: u64) -> Result<u64, Errno> {
        let bytes = bytes.min(MOST_RANDOM);
        let mut given = 0;
        while given < bytes {
            let mut buffer = [0; 256];
            let len = usize::try_from(bytes - given).map_or(256, |left| left.min(256));
            let filled = self.outside.random(&mut buffer[..len]);
            filled.map_err(|_| Errno::EAGAIN)?;
            let at = address.wrapping_add(given);
            self.space.write(at, &buffer[..len])?;
            given += len as u64;
        }
        Ok(bytes)
    }

    fn thread_storage(&mut self, operation: u64, address: u64) -> Result<u64, Errno> {
        match operation {
            ARCH_SET_FS if address < USER_END => {
                *self.fs_base = address;
                Ok(0)
            }
            ARCH_GET_FS => self.put(address, &[*self.fs_base]),
            _ => Err(Errno::EINVAL),
        }
    }

    fn name_system(&mut self, address: u64) -> Result<u64, Errno> {
        let mut names = [0; 6 * NAME_BYTES];
        let fields = ["Linux", "module", "6.1.0", "stockade", "x86_64", ""];
        for (field, name) in names.chunks_mut(NAME_BYTES).zip(fields) {
            field[..name.len()].copy_from_slice(name.as_bytes());
        }
        self.space.write(address, &names)?;
        Ok(0)
    }

    fn processors(&mut self, bytes: u64, address: u64) -> Result<u64, Errno> {
        if bytes < 8 {
            return Err(Errno::EINVAL);
        }
        self.put(address, &[1])?;
        Ok(8)
    }

    /// Tells a limit; none can be changed.
    pub(super) fn limits(&mut self, resource: u64, old: u64) -> Result<u64, Errno> {
        let limit = match resource {
            STACK_LIMIT => STACK_BYTES,
            _ => u64::MAX,
        };
        match old {
            0 => Ok(0),
            _ => self.put(old, &[limit, limit]),
        }
    }

    fn put(&mut self, address: u64, words: &[u64]) -> Result<u64, Errno> {
        for (word, index) in words.iter().zip(0..) {
            let at = address.wrapping_add(8 * index);
            self.space.write(at, &word.to_le_bytes())?;
        }
        Ok(0)
    }
}

/// There is one thread: nobody waits, and nobody could wake it.
fn futex(operation: u64) -> Result<u64, Errno> {
    const COMMAND: u64 = 0x7F;
    match operation & COMMAND {
        0 | 9 => Err(Errno::EAGAIN),
        1 | 10 => Ok(0),
        _ => Err(Errno::ENOSYS),
    }
}
