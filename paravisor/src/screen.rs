//! The guest's screen, shown to the host: the picture in guest memory that firmware names (`etc/ramfb`), copied to a disk of the host's
//! every now and then.
//!
//! It is there only if the image asks for it, for **the host sees what the guest shows**. The guest says by a file of the configuration
//! device where the picture is ([`Surface`]); [`Screen`] copies it, a piece a turn, behind a first block that says what follows. A picture
//! that is not in guest memory is not shown, and the guest goes on.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use stockade_backend::HostBus;
use stockade_backend::block::{Block, Kind, MAX_BYTES, Request, SECTOR_BYTES};
use stockade_backend::shared::AnyShared;
use stockade_boot::manifest::screen::{Header, PICTURE_OFFSET};
use stockade_bus::Gpa;
use stockade_devices::fw_cfg::ramfb::Picture;
use zerocopy::IntoBytes;

use crate::virtio::{Attention, Doubt, Memory, Turn};

/// From the end of a picture to the beginning of the next.
const PAUSE_NS: u64 = 500_000_000;
/// Pictures the log is told of.
const MOST_TOLD: u32 = 16;
/// Requests the host may have at a time.
const MOST_IN_FLIGHT: u16 = 2;

/// What the guest said of its picture.
#[derive(Clone)]
pub struct Surface(Arc<Said>);

struct Said {
    picture: Mutex<Option<Picture>>,
    is_new: AtomicBool,
    /// How often the log was told.
    told: AtomicU32,
    attention: Attention,
}

impl core::fmt::Debug for Surface {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Surface").field(&self.picture()).finish()
    }
}

impl Surface {
    /// Returns one without a picture, which raises `attention` when there is one.
    #[must_use]
    pub fn new(attention: Attention) -> Self {
        Self(Arc::new(Said {
            picture: Mutex::new(None),
            is_new: AtomicBool::new(false),
            told: AtomicU32::new(0),
            attention,
        }))
    }

    /// Takes what the guest wrote to the file.
    pub(crate) fn set(&self, file: &[u8]) {
        let picture = Picture::parse(file);
        // A guest can set one after the other, and the log is the host's.
        if let Some(Picture { width, height, .. }) = picture
            && self.0.told.fetch_add(1, Ordering::Relaxed) < MOST_TOLD
        {
            log::info!("screen: {width} by {height}, shown to the host");
        }
        *self.0.picture.lock() = picture;
        self.0.is_new.store(true, Ordering::SeqCst);
        self.0.attention.raise();
    }

    fn picture(&self) -> Option<Picture> {
        *self.0.picture.lock()
    }

    fn take_news(&self) -> bool {
        self.0.is_new.swap(false, Ordering::SeqCst)
    }
}

/// What carries the picture to the host.
pub struct Screen {
    surface: Surface,
    doubt: Doubt,
    /// When there is something to do without being asked, in nanoseconds; `u64::MAX` for never.
    due_ns: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    block: Block<AnyShared>,
    memory: Memory,
    state: State,
    frames: u32,
    was_reported: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing is to be done before this moment.
    Resting { until_ns: u64 },
    /// The first `done` bytes are on their way.
    Copying { picture: Picture, done: u32 },
    /// All are, and the header is missing.
    Ending { picture: Picture },
}

impl Screen {
    /// Returns what copies the picture of `surface` in `memory` to the host's `block`.
    #[must_use]
    pub fn new(block: Block<AnyShared>, memory: Memory, surface: Surface) -> Self {
        Self {
            surface,
            doubt: Doubt::default(),
            due_ns: AtomicU64::new(u64::MAX),
            inner: Mutex::new(Inner {
                block,
                memory,
                state: State::Resting { until_ns: u64::MAX },
                frames: 0,
                was_reported: false,
            }),
        }
    }

    /// Returns where the guest says what it shows.
    #[must_use]
    pub fn surface(&self) -> &Surface {
        &self.surface
    }

    /// Asks for a turn.
    pub(crate) fn accessed(&self) {
        self.surface.0.attention.raise();
    }

    /// Notes that the host's device may have changed.
    pub(crate) fn doubted(&self) {
        self.doubt.raise();
        self.accessed();
    }

    pub(crate) fn due_ns(&self) -> u64 {
        self.due_ns.load(Ordering::SeqCst)
    }

    /// Carries a piece of the picture.
    pub(crate) fn turn(&self, mut bus: &mut dyn HostBus, now_ns: u64) -> Turn {
        let Some(mut inner) = self.inner.try_lock() else {
            return Turn::More;
        };
        if self.doubt.is_due() {
            inner.block.check(&mut bus);
        }
        let turn = inner.turn(bus, &self.surface, now_ns);
        let watched = inner.block.watch(&mut bus, now_ns).unwrap_or(u64::MAX);
        let own = match inner.state {
            State::Resting { until_ns } => until_ns,
            State::Copying { .. } | State::Ending { .. } => u64::MAX,
        };
        self.due_ns.store(watched.min(own), Ordering::SeqCst);
        turn
    }
}

impl Inner {
    fn turn(&mut self, mut bus: &mut dyn HostBus, surface: &Surface, now_ns: u64) -> Turn {
        while let Some(done) = self.block.take() {
            self.block.release(done.ticket);
        }
        if let Some(error) = self.block.failure() {
            self.state = State::Resting { until_ns: u64::MAX };
            if !core::mem::replace(&mut self.was_reported, true) {
                log::error!("screen: {error}: nothing more is shown");
            }
            return Turn::Done;
        }
        let is_more = match self.state {
            State::Resting { until_ns } if surface.take_news() || until_ns <= now_ns => {
                self.begin(surface.picture())
            }
            State::Resting { .. } => false,
            State::Copying { picture, done } => self.copy(picture, done, now_ns),
            State::Ending { picture } => self.end(&picture, now_ns),
        };
        self.block.publish(&mut bus);
        if self.block.listen() || is_more {
            Turn::More
        } else {
            Turn::Done
        }
    }

    fn begin(&mut self, picture: Option<Picture>) -> bool {
        let room = self.block.capacity().saturating_mul(SECTOR_BYTES);
        let picture = picture.filter(|picture| {
            PICTURE_OFFSET + u64::from(picture.len_bytes()) + SECTOR_BYTES <= room
        });
        self.state = match picture {
            Some(picture) => State::Copying { picture, done: 0 },
            // The guest will say when there is one.
            None => State::Resting { until_ns: u64::MAX },
        };
        picture.is_some()
    }

    /// Sends the next piece, and returns whether another can follow at once.
    fn copy(&mut self, picture: Picture, done: u32, now_ns: u64) -> bool {
        if self.block.in_flight() >= MOST_IN_FLIGHT {
            return false;
        }
        let len = MAX_BYTES.min(picture.len_bytes() - done);
        let at = PICTURE_OFFSET + u64::from(done);
        let Some(request) = write(at, len) else {
            return false;
        };
        let Some(ticket) = self.block.reserve(request) else {
            return false;
        };
        let gpa = picture.gpa.checked_add(done.into());
        let bytes = usize::try_from(len).unwrap_or(0);
        let copied = gpa.map(|gpa: Gpa| {
            self.block
                .put_from_guest(ticket, 0, self.memory, gpa, bytes)
        });
        if !matches!(copied, Some(Ok(()))) {
            self.block.release(ticket);
            self.state = State::Resting {
                until_ns: now_ns.saturating_add(PAUSE_NS),
            };
            return false;
        }
        self.block.post(ticket);
        let done = done + len;
        self.state = if done == picture.len_bytes() {
            State::Ending { picture }
        } else {
            State::Copying { picture, done }
        };
        true
    }

    /// Sends the header once all else is with the host.
    fn end(&mut self, picture: &Picture, now_ns: u64) -> bool {
        if self.block.in_flight() > 0 {
            return false;
        }
        let Picture {
            width,
            height,
            stride,
            ..
        } = *picture;
        let header = Header::new(self.frames.wrapping_add(1), width, height, stride);
        let bytes = header.as_bytes();
        let request = u32::try_from(bytes.len())
            .ok()
            .and_then(|len| write(0, len));
        let Some(ticket) = request.and_then(|request| self.block.reserve(request)) else {
            return false;
        };
        self.block.put(ticket, 0, bytes);
        self.block.post(ticket);
        self.frames = self.frames.wrapping_add(1);
        self.state = State::Resting {
            until_ns: now_ns.saturating_add(PAUSE_NS),
        };
        false
    }
}

/// Returns the request that writes so many bytes, and what fills their last sector, at an offset of whole sectors.
fn write(offset: u64, len: u32) -> Option<Request> {
    let len = u64::from(len).next_multiple_of(SECTOR_BYTES);
    Some(Request {
        kind: Kind::Write,
        sector: offset / SECTOR_BYTES,
        len_bytes: u32::try_from(len).ok()?,
    })
}

#[cfg(test)]
mod tests;
