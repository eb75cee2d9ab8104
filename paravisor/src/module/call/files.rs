//! Descriptors: 0 is empty, 1 and 2 are the log, 3 is the channel, 4 is the record store, 5 has reports; there are no others.

use alloc::vec::Vec;

use super::{Call, Context, Desk, Errno, Outcome};
use crate::module::call::number::Number;
use crate::module::channel::LONGEST_MESSAGE;
use crate::module::outside::NoReport;
use crate::module::records::{RecordRequest, RecordStatus};
use crate::module::space::Space;
use crate::module::statement::{LONGEST_DOCUMENT, report_data};

const INPUT: u64 = 0;
const OUTPUT: u64 = 1;
const ERRORS: u64 = 2;
const CHANNEL: u64 = 3;
const RECORDS: u64 = 4;
const REPORTS: u64 = 5;

/// What a module reads when its request is cancelled.
pub(crate) const CANCEL: u8 = 0xFF;
/// Do not wait (`MSG_DONTWAIT`).
const DO_NOT_WAIT: u64 = 0x40;
/// Most of what is printed at once.
const MOST_PRINTED: u64 = 4096;
/// Most descriptors in a poll, and most pieces in a vector.
const MOST_ENTRIES: u64 = 16;
/// There is something to read (`POLLIN`); the descriptor is none (`POLLNVAL`).
const POLL_IN: u16 = 1;
const POLL_OUT: u16 = 4;
const POLL_INVALID: u16 = 0x20;
/// How often a busy host is asked again for a report, and after how long: a second and a half, in which a guest may wait for its TPM.
const REPORT_TRIES: u8 = 15;
const REPORT_PAUSE_NS: u64 = 100_000_000;
/// Bytes of `struct stat`.
const STATUS_BYTES: usize = 144;

impl<S: Space + ?Sized> Context<'_, S> {
    /// Carries out a call that may wait for a message.
    pub(super) fn incoming(&mut self, call: &Call) -> Outcome {
        let [a, b, c, d, ..] = call.arguments;
        match call.number {
            Number::READ => self.read(a, b, c, 0),
            Number::RECVFROM => self.read(a, b, c, d),
            Number::POLL => {
                let millis = i32::from_le_bytes(low(c));
                let span = u64::try_from(millis).ok().map(|millis| millis * 1_000_000);
                self.poll(a, b, span)
            }
            _ => match self.poll_span(c) {
                Ok(span) => self.poll(a, b, span),
                Err(errno) => Outcome::Failed(errno),
            },
        }
    }

    fn read(&mut self, descriptor: u64, address: u64, bytes: u64, flags: u64) -> Outcome {
        match descriptor {
            INPUT => Outcome::Done(0),
            CHANNEL => self.read_channel(address, bytes, flags),
            RECORDS => self.read_record(address, bytes),
            REPORTS => self.read_report(address, bytes),
            _ => Outcome::Failed(Errno::EBADF),
        }
    }

    fn read_channel(&mut self, address: u64, bytes: u64, flags: u64) -> Outcome {
        if self.channel.is_cancelled() {
            if self.space.write(address, &[CANCEL]).is_err() {
                return Outcome::Failed(Errno::EFAULT);
            }
            self.channel.take_cancel();
            return Outcome::Done(1);
        }
        if !self.channel.has_request() {
            return match flags & DO_NOT_WAIT {
                0 => Outcome::WAIT,
                _ => Outcome::Failed(Errno::EAGAIN),
            };
        }
        let space = &mut *self.space;
        let received = self.channel.receive(|request| {
            let part = beginning(request, bytes);
            space.write(address, part).ok().map(|()| part.len() as u64)
        });
        received.map_or(Outcome::Failed(Errno::EFAULT), Outcome::Done)
    }

    fn read_record(&mut self, address: u64, bytes: u64) -> Outcome {
        let mut value = Vec::new();
        let status = match self.desk {
            Desk::Empty | Desk::Report(..) => return Outcome::Failed(Errno::EAGAIN),
            Desk::Refused => RecordStatus::Refused,
            Desk::Begun => match self.records.poll(&mut value) {
                Some(status) => status,
                None => return Outcome::WAIT,
            },
        };
        *self.desk = Desk::Empty;
        value.insert(0, status as u8);
        let part = beginning(&value, bytes);
        let written = self.space.write(address, part);
        written
            .map(|()| part.len() as u64)
            .map_err(Errno::from)
            .into()
    }

    /// Has the secure processor sign what the module wrote before.
    fn read_report(&mut self, address: u64, bytes: u64) -> Outcome {
        let Desk::Report(report_data, tries) = *self.desk else {
            return Outcome::Failed(Errno::EAGAIN);
        };
        let now = self.outside.monotonic_ns();
        // It has turns before its time, too.
        if let Some(until) = self.until_ns.filter(|until| now < *until) {
            return Outcome::Wait(until);
        }
        let report = self.outside.report(&report_data);
        if report == Err(NoReport::Busy) && tries > 0 {
            let until = now.saturating_add(REPORT_PAUSE_NS);
            *self.until_ns = Some(until);
            *self.desk = Desk::Report(report_data, tries - 1);
            return Outcome::Wait(until);
        }
        *self.desk = Desk::Empty;
        self.give_report(report, address, bytes).into()
    }

    fn give_report(
        &mut self,
        report: Result<Vec<u8>, NoReport>,
        address: u64,
        bytes: u64,
    ) -> Result<u64, Errno> {
        let report = report?;
        let part = beginning(&report, bytes);
        self.space.write(address, part)?;
        Ok(part.len() as u64)
    }

    /// Carries out a write to a descriptor.
    pub(super) fn write(
        &mut self,
        descriptor: u64,
        address: u64,
        bytes: u64,
    ) -> Result<u64, Errno> {
        match descriptor {
            OUTPUT | ERRORS => self.print(address, bytes.min(MOST_PRINTED)),
            CHANNEL | RECORDS | REPORTS => {
                let message = self.message(&[(address, bytes)])?;
                self.send(descriptor, &message)
            }
            _ => Err(Errno::EBADF),
        }
    }

    /// Carries out a write in pieces: of a message, the pieces are one.
    pub(super) fn write_vector(
        &mut self,
        descriptor: u64,
        address: u64,
        count: u64,
    ) -> Result<u64, Errno> {
        if count > MOST_ENTRIES {
            return Err(Errno::EINVAL);
        }
        let mut pieces = Vec::new();
        for index in 0..count {
            let at = address.wrapping_add(16 * index);
            let [start, bytes] = super::words(self.space, at)?;
            pieces.push((start, bytes));
        }
        if matches!(descriptor, CHANNEL | RECORDS | REPORTS) {
            let message = self.message(&pieces)?;
            return self.send(descriptor, &message);
        }
        let mut written = 0_u64;
        for (start, bytes) in pieces {
            written += self.write(descriptor, start, bytes)?;
        }
        Ok(written)
    }

    fn print(&mut self, address: u64, bytes: u64) -> Result<u64, Errno> {
        let mut printed = 0;
        while printed < bytes {
            let mut buffer = [0; 256];
            let len = usize::try_from(bytes - printed).map_or(256, |left| left.min(256));
            let at = address.wrapping_add(printed);
            self.space.read(at, &mut buffer[..len])?;
            self.output.print(self.name, &buffer[..len], self.outside);
            printed += len as u64;
        }
        Ok(bytes)
    }

    fn message(&self, pieces: &[(u64, u64)]) -> Result<Vec<u8>, Errno> {
        let mut message = Vec::new();
        for (address, bytes) in pieces {
            let bytes = usize::try_from(*bytes).map_err(|_| Errno::EMSGSIZE)?;
            let start = message.len();
            if bytes > LONGEST_MESSAGE - start {
                return Err(Errno::EMSGSIZE);
            }
            message.resize(start + bytes, 0);
            self.space.read(*address, &mut message[start..])?;
        }
        Ok(message)
    }

    fn send(&mut self, descriptor: u64, message: &[u8]) -> Result<u64, Errno> {
        if descriptor == RECORDS {
            if *self.desk != Desk::Empty {
                return Err(Errno::EBUSY);
            }
            *self.desk = match RecordRequest::parse(message) {
                Some(request) => {
                    self.records.begin(request);
                    Desk::Begun
                }
                None => Desk::Refused,
            };
            return Ok(message.len() as u64);
        }
        if descriptor == REPORTS {
            if *self.desk != Desk::Empty {
                return Err(Errno::EBUSY);
            }
            if message.len() > LONGEST_DOCUMENT {
                return Err(Errno::EMSGSIZE);
            }
            *self.desk = Desk::Report(report_data(self.name, message), REPORT_TRIES);
            return Ok(message.len() as u64);
        }
        let is_taken = self.channel.answer(|response| {
            response.extend_from_slice(message);
            true
        });
        if is_taken {
            Ok(message.len() as u64)
        } else {
            Err(Errno::EPROTO)
        }
    }

    fn poll_span(&self, address: u64) -> Result<Option<u64>, Errno> {
        if address == 0 {
            return Ok(None);
        }
        let [seconds, nanoseconds] = super::words(self.space, address)?;
        Ok(Some(
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds),
        ))
    }

    fn poll(&mut self, address: u64, count: u64, span: Option<u64>) -> Outcome {
        if count > MOST_ENTRIES {
            return Outcome::Failed(Errno::EINVAL);
        }
        let ready = match self.poll_entries(address, count) {
            Ok(ready) => ready,
            Err(errno) => return Outcome::Failed(errno),
        };
        if ready != 0 || span == Some(0) {
            return Outcome::Done(ready);
        }
        let now = self.outside.monotonic_ns();
        let until = *self
            .until_ns
            .get_or_insert(span.map_or(u64::MAX, |span| now.saturating_add(span)));
        if until <= now {
            Outcome::Done(0)
        } else {
            Outcome::Wait(until)
        }
    }

    fn poll_entries(&mut self, address: u64, count: u64) -> Result<u64, Errno> {
        let mut ready = 0;
        for index in 0..count {
            let at = address.wrapping_add(8 * index);
            let mut entry = [0; 8];
            self.space.read(at, &mut entry)?;
            let [f0, f1, f2, f3, e0, e1, ..] = entry;
            let descriptor = i32::from_le_bytes([f0, f1, f2, f3]);
            let wanted = u16::from_le_bytes([e0, e1]) | POLL_INVALID;
            let found = self.poll_events(descriptor) & wanted;
            ready += u64::from(found != 0);
            self.space.write(at.wrapping_add(6), &found.to_le_bytes())?;
        }
        Ok(ready)
    }

    fn poll_events(&self, descriptor: i32) -> u16 {
        match u64::try_from(descriptor) {
            // A negative descriptor is to be ignored.
            Err(_) => 0,
            Ok(INPUT) => POLL_IN,
            Ok(OUTPUT | ERRORS) => POLL_OUT,
            Ok(CHANNEL) if self.channel.has_request() || self.channel.is_cancelled() => {
                POLL_IN | POLL_OUT
            }
            // Only a read finds out whether the store is done.
            Ok(RECORDS) if *self.desk != Desk::Empty => POLL_IN | POLL_OUT,
            Ok(REPORTS) if matches!(self.desk, Desk::Report(..)) => POLL_IN,
            Ok(CHANNEL | RECORDS | REPORTS) => POLL_OUT,
            Ok(_) => POLL_INVALID,
        }
    }

    /// Says of each descriptor that it is a pipe.
    pub(super) fn file_status(&mut self, descriptor: u64, address: u64) -> Result<u64, Errno> {
        const PIPE: u32 = 0o010_600;
        if !is_open(descriptor) {
            return Err(Errno::EBADF);
        }
        let mut status = [0; STATUS_BYTES];
        status[24..28].copy_from_slice(&PIPE.to_le_bytes());
        status[56..64].copy_from_slice(&4096_u64.to_le_bytes());
        self.space.write(address, &status)?;
        Ok(0)
    }
}

/// Returns whether there is such a descriptor.
pub(super) fn is_open(descriptor: u64) -> bool {
    descriptor <= REPORTS
}

fn beginning(message: &[u8], bytes: u64) -> &[u8] {
    let len = usize::try_from(bytes).map_or(message.len(), |bytes| bytes.min(message.len()));
    &message[..len]
}

fn low(word: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = word.to_le_bytes();
    [a, b, c, d]
}
