//! The channel: one request at a time to a module, one response back.
//!
//! A device's front-end posts and takes; the module's side is [`Channel::receive`] and [`Channel::answer`], called by its system calls.
//! Nobody waits for the other: a front-end looks at [`Channel::state`], which is one atomic read.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use spin::Mutex;

/// The longest request and the longest response.
pub const LONGEST_MESSAGE: usize = 8192;

/// What a channel is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChannelState {
    /// A request may be posted.
    Idle,
    /// A request waits for the module, or the module works on it.
    Busy,
    /// A response waits to be taken.
    Answered,
    /// The module failed while it worked on the request, and is being started again.
    Lost,
    /// There is no module any more.
    Closed,
}

impl ChannelState {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Idle,
            1 => Self::Busy,
            2 => Self::Answered,
            3 => Self::Lost,
            _ => Self::Closed,
        }
    }
}

/// Why nothing was posted or taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The last request is not done with.
    #[error("the channel has a request already")]
    Busy,
    /// More than [`LONGEST_MESSAGE`].
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// The module failed.
    #[error("the module failed on the request")]
    Lost,
    /// There is no module any more.
    #[error("there is no module any more")]
    Closed,
    /// There is none because its program cannot be loaded: the host changed it, or took it away.
    #[error("the module's program is not to be had")]
    NotLoaded,
}

/// When modules next have something to do, in nanoseconds since the paravisor started: one word that all of them share.
#[derive(Clone, Debug)]
pub struct Bell(Arc<AtomicU64>);

impl Default for Bell {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Bell {
    /// Says that a module has something to do now.
    pub fn ring(&self) {
        self.ring_at(0);
    }

    /// Says that a module has something to do then.
    pub fn ring_at(&self, ns: u64) {
        self.0.fetch_min(ns, Ordering::SeqCst);
    }

    /// Returns when a module next has something to do; `u64::MAX` is never.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes all that was said; to be done before the look.
    pub fn take(&self) -> u64 {
        self.0.swap(u64::MAX, Ordering::SeqCst)
    }
}

#[derive(Debug, Default)]
struct Mail {
    request: Vec<u8>,
    response: Vec<u8>,
    /// The module has received the request.
    is_received: bool,
    is_cancelled: bool,
    /// Nobody waits for the response.
    is_abandoned: bool,
    /// The module is to be started again, for it does not answer.
    is_dismissed: bool,
    /// The module has answered since somebody asked.
    has_progressed: bool,
    /// Why there is no module any more.
    end: Option<ChannelError>,
}

impl Mail {
    fn end(&self) -> ChannelError {
        self.end.unwrap_or(ChannelError::Closed)
    }

    /// Returns what comes of a request that ends so: one nobody waits for leaves nothing to be taken.
    fn outcome(&self, state: ChannelState) -> ChannelState {
        if self.is_abandoned {
            ChannelState::Idle
        } else {
            state
        }
    }
}

/// The channel of one module.
#[derive(Debug)]
pub struct Channel {
    state: AtomicU8,
    mail: Mutex<Mail>,
    bell: Bell,
}

impl Channel {
    /// Returns an idle channel whose requests ring `bell`. Its buffers are there from the start.
    #[must_use]
    pub fn new(bell: Bell) -> Self {
        Self {
            state: AtomicU8::new(ChannelState::Idle as u8),
            mail: Mutex::new(Mail {
                request: Vec::with_capacity(LONGEST_MESSAGE),
                response: Vec::with_capacity(LONGEST_MESSAGE),
                ..Mail::default()
            }),
            bell,
        }
    }

    /// Returns what the channel is doing.
    #[must_use]
    pub fn state(&self) -> ChannelState {
        ChannelState::from_byte(self.state.load(Ordering::Acquire))
    }

    /// Posts a request.
    pub fn post(&self, request: &[u8]) -> Result<(), ChannelError> {
        if request.len() > LONGEST_MESSAGE {
            return Err(ChannelError::TooLong(request.len()));
        }
        let mut mail = self.mail.lock();
        match self.state() {
            ChannelState::Idle => {}
            ChannelState::Closed => return Err(mail.end()),
            _ => return Err(ChannelError::Busy),
        }
        mail.request.clear();
        mail.request.extend_from_slice(request);
        (mail.is_received, mail.is_cancelled, mail.is_abandoned) = (false, false, false);
        self.set(ChannelState::Busy);
        self.bell.ring();
        Ok(())
    }

    /// Asks the module to give up the request. It answers in any case, sooner or later.
    pub fn cancel(&self) {
        let mut mail = self.mail.lock();
        if self.state() == ChannelState::Busy {
            mail.is_cancelled = true;
            self.bell.ring();
        }
    }

    /// Takes the response, as much of it as fits; returns its whole length. `None` while there is none.
    pub fn take(&self, buffer: &mut [u8]) -> Option<Result<usize, ChannelError>> {
        let mail = self.mail.lock();
        match self.state() {
            ChannelState::Idle | ChannelState::Busy => None,
            ChannelState::Closed => Some(Err(mail.end())),
            ChannelState::Lost => {
                self.set(ChannelState::Idle);
                Some(Err(ChannelError::Lost))
            }
            ChannelState::Answered => {
                let len = mail.response.len().min(buffer.len());
                buffer[..len].copy_from_slice(&mail.response[..len]);
                self.set(ChannelState::Idle);
                Some(Ok(mail.response.len()))
            }
        }
    }

    /// Forgets the request and its response, as a device's reset does. The module may still be at work on it: what it then answers is
    /// dropped, and [`ChannelState::Busy`] lasts until it does.
    pub fn abandon(&self) {
        let mut mail = self.mail.lock();
        match self.state() {
            ChannelState::Busy if mail.is_received => {
                (mail.is_cancelled, mail.is_abandoned) = (true, true);
                self.bell.ring();
            }
            ChannelState::Closed => {}
            _ => self.set(ChannelState::Idle),
        }
    }

    /// Has the module ended and started again, however it waits: what it had received is lost.
    pub(crate) fn dismiss(&self) {
        self.mail.lock().is_dismissed = true;
        self.bell.ring();
    }

    /// Returns whether the module is to be started again; says so once.
    pub(crate) fn take_dismissal(&self) -> bool {
        core::mem::take(&mut self.mail.lock().is_dismissed)
    }

    /// Hands the request to the module, once, by `read`; `None` if there is none. A request `read` refuses stays.
    pub fn receive<R>(&self, read: impl FnOnce(&[u8]) -> Option<R>) -> Option<R> {
        let mut mail = self.mail.lock();
        if self.state() != ChannelState::Busy || mail.is_received {
            return None;
        }
        let result = read(&mail.request)?;
        mail.is_received = true;
        Some(result)
    }

    /// Returns whether a request waits for the module.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.state() == ChannelState::Busy && !self.mail.lock().is_received
    }

    /// Returns whether the module is asked to give up the request it has received; says so once.
    pub fn take_cancel(&self) -> bool {
        let mut mail = self.mail.lock();
        let is_asked = self.state() == ChannelState::Busy && mail.is_received;
        is_asked && core::mem::take(&mut mail.is_cancelled)
    }

    /// Returns whether [`Self::take_cancel`] would say yes.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.state() == ChannelState::Busy && {
            let mail = self.mail.lock();
            mail.is_received && mail.is_cancelled
        }
    }

    /// Takes the module's response, which `write` fills in; `false` without a request that was received.
    pub fn answer(&self, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let mut mail = self.mail.lock();
        if self.state() != ChannelState::Busy || !mail.is_received {
            return false;
        }
        mail.response.clear();
        let is_written = write(&mut mail.response);
        if is_written {
            mail.has_progressed = true;
            self.set(mail.outcome(ChannelState::Answered));
        }
        is_written
    }

    /// Returns whether the module has answered since the last time.
    pub(crate) fn take_progress(&self) -> bool {
        core::mem::take(&mut self.mail.lock().has_progressed)
    }

    /// Notes that the module failed: a request it had received is lost, one that it had not waits for the next.
    pub(crate) fn fail(&self) {
        let mail = self.mail.lock();
        if self.state() == ChannelState::Busy && mail.is_received {
            self.set(mail.outcome(ChannelState::Lost));
        }
    }

    /// Notes that there will be no module any more, and why.
    pub(crate) fn close(&self, end: ChannelError) {
        self.mail.lock().end = Some(end);
        self.set(ChannelState::Closed);
    }

    fn set(&self, state: ChannelState) {
        self.state.store(state as u8, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Channel {
        Channel::new(Bell::default())
    }

    fn receive(channel: &Channel) -> Option<Vec<u8>> {
        channel.receive(|request| Some(request.to_vec()))
    }

    fn answer(channel: &Channel, bytes: &[u8]) -> bool {
        channel.answer(|response| {
            response.extend_from_slice(bytes);
            true
        })
    }

    #[test]
    fn a_request_comes_back_as_its_response() {
        let channel = channel();
        channel.post(b"ping").unwrap();
        assert_eq!((channel.bell.take(), channel.bell.take()), (0, u64::MAX));
        assert_eq!(channel.post(b"more"), Err(ChannelError::Busy));
        assert_eq!(receive(&channel).unwrap(), b"ping");
        assert_eq!(receive(&channel), None);
        assert!(answer(&channel, b"pong"));
        let mut buffer = [0; 2];
        assert_eq!(channel.take(&mut buffer), Some(Ok(4)));
        assert_eq!((&buffer, channel.state()), (b"po", ChannelState::Idle));
        assert_eq!(channel.take(&mut buffer), None);
    }

    #[test]
    fn a_response_without_a_request_is_dropped() {
        let channel = channel();
        assert!(!answer(&channel, b"unasked"));
        channel.post(b"x").unwrap();
        assert!(!answer(&channel, b"too soon"));
    }

    #[test]
    fn a_cancel_is_seen_once_and_only_by_the_request_it_is_for() {
        let channel = channel();
        channel.cancel();
        channel.post(b"x").unwrap();
        assert!(!channel.take_cancel());
        receive(&channel).unwrap();
        channel.cancel();
        assert!(channel.is_cancelled() && channel.take_cancel() && !channel.take_cancel());
    }

    #[test]
    fn a_failed_module_loses_only_what_it_had_received() {
        let channel = channel();
        channel.post(b"x").unwrap();
        channel.fail();
        assert_eq!(channel.state(), ChannelState::Busy);
        receive(&channel).unwrap();
        channel.fail();
        assert_eq!(channel.take(&mut []), Some(Err(ChannelError::Lost)));
        assert_eq!(channel.state(), ChannelState::Idle);
        channel.close(ChannelError::NotLoaded);
        assert_eq!(channel.post(b"x"), Err(ChannelError::NotLoaded));
        assert_eq!(channel.take(&mut []), Some(Err(ChannelError::NotLoaded)));
    }

    #[test]
    fn messages_have_a_greatest_length() {
        let channel = channel();
        let long = [0; LONGEST_MESSAGE + 1];
        assert_eq!(
            channel.post(&long),
            Err(ChannelError::TooLong(LONGEST_MESSAGE + 1))
        );
        assert_eq!(channel.post(&long[1..]), Ok(()));
    }

    #[test]
    fn an_abandoned_request_is_cancelled_and_its_response_dropped() {
        let channel = channel();
        channel.post(b"x").unwrap();
        channel.abandon();
        assert_eq!(channel.state(), ChannelState::Idle);
        channel.post(b"y").unwrap();
        receive(&channel).unwrap();
        channel.abandon();
        assert!(channel.is_cancelled());
        assert_eq!(channel.post(b"z"), Err(ChannelError::Busy));
        assert!(answer(&channel, b"late"));
        assert_eq!(channel.take(&mut []), None);
        channel.post(b"z").unwrap();
        receive(&channel).unwrap();
        channel.abandon();
        channel.fail();
        assert_eq!(channel.take(&mut []), None);
        // What was abandoned before says nothing of the next.
        channel.post(b"z").unwrap();
        receive(&channel).unwrap();
        assert!(answer(&channel, b"in time"));
        assert_eq!(channel.take(&mut []), Some(Ok(7)));
    }
}
