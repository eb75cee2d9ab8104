//! Sealed disks: a copy-on-write tree whose every block is authenticated by the one above it.
//!
//! In the order of use: [`config`] and [`fault`] say what goes in, `opening` finds the newest superblock, `requests` are what the guest
//! wants, `reading`, `writing` and `clearing` turn them into `transfer`s, `tree` brings the nodes they need into the [`cache`], and
//! `commit` makes what they changed durable. [`format`], [`geometry`], [`entry`] and [`seals`] are the disk as it lies in the file.

mod clearing;
mod commit;
mod opening;
mod reading;
mod requests;
mod space;
mod transfer;
mod tree;
mod volume;
mod writing;

pub mod cache;
pub mod check;
pub mod config;
pub mod entry;
pub mod fault;
pub mod format;
pub mod geometry;
pub mod request;
pub mod seals;

use alloc::boxed::Box;
use core::mem;

pub use config::{Access, Anchoring, Config, ConfigError};
pub use fault::{ANCHOR_BYTES, Anchor, Event, Fault, Freshness, Trust};
pub use request::{Completion, Kind, Request, RequestError};

use zeroize::Zeroizing;

use cache::NodeCache;
use opening::Opening;
use space::Space;
use transfer::Transfers;
use volume::{Events, Io, Step, Volume};

use crate::host::{BLOCK_BYTES, HostError, HostIo, IoId, Memory};
use crate::key::DiskKey;

/// Whether there is more to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// To be called again, when there is time.
    Again,
    /// Nothing until something is submitted, completed or anchored.
    Idle,
}

/// What can be done with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet anything.
    Opening,
    /// Everything.
    Open(Freshness),
    /// Reading: a commit has failed.
    Offline,
    /// Nothing.
    Failed(Fault),
}

/// A sealed disk.
///
/// The caller's loop: [`work`](Self::work) until it is idle or the time is up, pass on what [`next_io`](Self::next_io) gives and
/// [`complete`](Self::complete) it, put what [`next_anchor`](Self::next_anchor) gives into the store and say so by
/// [`anchored`](Self::anchored), tell the guest what [`next_completion`](Self::next_completion) gives.
#[derive(Debug)]
pub struct SealedDisk {
    io: Io,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Opening(Box<Opening>),
    Formatting(Box<Volume>),
    Open(Box<Volume>, Freshness),
    Failed(Fault),
}

impl SealedDisk {
    /// Makes a disk of a host's file with so many blocks of 4 KiB. It opens as soon as work is done.
    ///
    /// `entropy` must be new each time, and not from the host. Nothing is allocated later than in the call of
    /// [`work`](Self::work) that opens the disk.
    ///
    /// # Errors
    /// The configuration is too small.
    pub fn new(
        key: DiskKey,
        entropy: [u8; 32],
        trust: Trust,
        host_blocks: u64,
        config: Config,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            io: Io {
                transfers: Transfers::new(config.transfers, config.slots),
                scratch: Box::new([0; BLOCK_BYTES]),
                events: Events::new(),
            },
            stage: Stage::Opening(Box::new(Opening {
                key,
                entropy: Zeroizing::new(entropy),
                trust,
                host_blocks,
                config,
                cache: NodeCache::new(config.cache_nodes),
                space: Space::new(config.given_up, host_blocks),
            })),
        })
    }

    /// Returns what can be done with the disk.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.stage {
            Stage::Opening(_) | Stage::Formatting(_) => State::Opening,
            Stage::Open(volume, _) if volume.is_offline() => State::Offline,
            Stage::Open(_, freshness) => State::Open(*freshness),
            Stage::Failed(fault) => State::Failed(*fault),
        }
    }

    /// Returns the number of sectors the guest sees, once the disk is open.
    #[must_use]
    pub fn sectors(&self) -> Option<u64> {
        self.open_volume().map(Volume::sectors)
    }

    /// Returns the generation of the last commit, once the disk is open.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.open_volume().map(|volume| volume.generation)
    }

    /// Takes a request of the guest.
    ///
    /// # Errors
    /// It is not taken, and there will be no completion: `Closed`, `Busy`, `OutOfRange` or `ReadOnly`.
    pub fn submit(&mut self, request: Request) -> Result<(), RequestError> {
        match &mut self.stage {
            Stage::Open(volume, _) => volume.submit(request),
            _ => Err(RequestError::Closed),
        }
    }

    /// Does the next piece of work: at most one block is encrypted, decrypted or authenticated.
    pub fn work(&mut self, memory: &mut impl Memory) -> Work {
        let step = match &mut self.stage {
            Stage::Opening(opening) => {
                if let Some(index) = Opening::returned(&self.io) {
                    self.open(memory, index);
                    Step::Done
                } else if opening.start(&mut self.io) {
                    Step::Done
                } else {
                    Step::Waiting
                }
            }
            Stage::Formatting(volume) => {
                let step = volume.work(&mut self.io, memory);
                self.end_formatting();
                step
            }
            Stage::Open(volume, _) => volume.work(&mut self.io, memory),
            Stage::Failed(_) => Step::Waiting,
        };
        match step {
            Step::Done => Work::Again,
            Step::Waiting => Work::Idle,
        }
    }

    /// Returns the next transfer for the host.
    pub fn next_io(&mut self) -> Option<HostIo> {
        self.io.transfers.next_io()
    }

    /// Notes that the host is done with a transfer, and how it went. Returns `false`, and notes nothing, if the host had no such
    /// transfer.
    pub fn complete(&mut self, id: IoId, result: Result<(), HostError>) -> bool {
        self.io.transfers.complete(id, result)
    }

    /// Returns the next request that is done.
    pub fn next_completion(&mut self) -> Option<Completion> {
        let volume = self.open_volume_mut()?;
        let safe = volume.safe();
        volume.requests.take_done(safe)
    }

    /// Returns what to put into the store, if it is new. A newer one replaces one that was not fetched.
    pub fn next_anchor(&mut self) -> Option<Anchor> {
        self.open_volume_mut()?.anchor.take()
    }

    /// Notes that the anchor of this generation is safe in the store.
    pub fn anchored(&mut self, generation: u64) {
        if let Some(volume) = self.open_volume_mut() {
            volume.set_anchored(generation);
        }
    }

    /// Notes that no anchor will be safe any more. With strict anchoring the disk can only be read from now on.
    pub fn lose_anchor(&mut self) {
        let Self { io, stage } = self;
        if let Stage::Open(volume, _) = stage {
            volume.lose_anchor(io);
        }
    }

    /// Returns the next thing the host did that should be logged.
    pub fn next_event(&mut self) -> Option<Event> {
        self.io.events.pop()
    }

    /// Returns how many events were lost because nobody fetched them.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.io.events.lost()
    }

    fn open_volume(&self) -> Option<&Volume> {
        match &self.stage {
            Stage::Open(volume, _) => Some(volume),
            _ => None,
        }
    }

    fn open_volume_mut(&mut self) -> Option<&mut Volume> {
        match &mut self.stage {
            Stage::Open(volume, _) => Some(volume),
            _ => None,
        }
    }

    fn open(&mut self, memory: &mut impl Memory, index: usize) {
        let stage = mem::replace(&mut self.stage, Stage::Failed(Fault::Unreadable));
        let Stage::Opening(opening) = stage else {
            self.stage = stage;
            return;
        };
        self.stage = match opening.finish(&mut self.io, memory, index) {
            Ok((volume, Freshness::Formatted)) => Stage::Formatting(Box::new(volume)),
            Ok((volume, freshness)) => Stage::Open(Box::new(volume), freshness),
            Err(fault) => Stage::Failed(fault),
        };
    }

    fn end_formatting(&mut self) {
        let stage = mem::replace(&mut self.stage, Stage::Failed(Fault::Unwritable));
        self.stage = match stage {
            Stage::Formatting(volume) if volume.is_offline() => Stage::Failed(Fault::Unwritable),
            Stage::Formatting(volume) if volume.generation > 0 => {
                Stage::Open(volume, Freshness::Formatted)
            }
            other => other,
        };
    }
}
