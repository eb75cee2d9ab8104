//! A queue, whichever its ring.

use core::sync::atomic::{Ordering, fence};

use stockade_bus::GuestMemory;

use super::QueueConfig;
use super::chain::{Chain, Head};
use super::packed::{PackedRing, PackedState};
use super::split::{SplitRing, SplitState};
use super::violation::Violation;
use crate::RestoreError;
use crate::state::check_version;
use crate::virtio::Features;

/// A chain given back, with how many bytes of it were written, from its first writable one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Which chain.
    pub head: Head,
    /// Bytes written.
    pub written: u32,
}

/// Since when the driver is asked to notify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// Since before the last poll: there is nothing it did not see.
    Already,
    /// What came before may go unnoticed: poll again.
    FromNow,
}

#[derive(Clone, Debug)]
enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

/// The device's side of a queue.
///
/// It asks the driver for a notification only when it was found empty: while there are buffers to be popped, whoever pops comes back by
/// itself. Signals to the driver are asked for once for all that was pushed before.
#[derive(Clone, Debug)]
pub struct Queue {
    config: QueueConfig,
    ring: Ring,
    /// The driver was asked to notify, and nothing was popped since.
    is_listening: bool,
}

/// Where a ring of either kind stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingState {
    /// A split ring.
    Split(SplitState),
    /// A packed ring.
    Packed(PackedState),
}

/// A queue's state, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Format version: 1.
    pub version: u32,
    /// What the driver configured.
    pub config: QueueConfig,
    /// Where the ring stands.
    pub ring: RingState,
    /// The driver was asked to notify.
    pub is_listening: bool,
}

impl Queue {
    /// Returns the queue the driver laid out, if it can be: at most `max_size` entries, aligned, and all in guest RAM.
    pub fn try_new<M: GuestMemory + ?Sized>(
        config: QueueConfig,
        max_size: u16,
        features: Features,
        memory: &M,
    ) -> Result<Self, Violation> {
        if config.size == 0 || config.size > max_size {
            return Err(Violation::QueueSize(config.size));
        }
        let ring = if features.contains(Features::RING_PACKED) {
            Ring::Packed(PackedRing::try_new(config, features, memory)?)
        } else {
            Ring::Split(SplitRing::try_new(config, features, memory)?)
        };
        Ok(Self {
            config,
            ring,
            is_listening: true,
        })
    }

    /// Pops the next chain into `chain` and returns whether there was one. When there was none the driver will notify.
    pub fn pop<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &mut Chain,
    ) -> Result<bool, Violation> {
        loop {
            if self.poll(memory, chain)? {
                return Ok(true);
            }
            if self.is_listening {
                return Ok(false);
            }
            self.listen(memory)?;
        }
    }

    /// The same for who comes back soon anyway: the driver is not asked to notify when there was none.
    pub fn poll<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &mut Chain,
    ) -> Result<bool, Violation> {
        let has_popped = match &mut self.ring {
            Ring::Split(ring) => ring.pop(memory, chain)?,
            Ring::Packed(ring) => ring.pop(memory, chain)?,
        };
        if has_popped {
            self.stop_listening(memory)?;
        }
        Ok(has_popped)
    }

    /// Asks the driver to notify, if it is not asked yet. Chains may have come before it knew: who polls has to do so once more.
    pub fn listen<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Result<Listening, Violation> {
        if self.is_listening {
            return Ok(Listening::Already);
        }
        self.set_listening(memory, true)?;
        // What the driver made available before it saw the wish would go unnoticed.
        fence(Ordering::SeqCst);
        Ok(Listening::FromNow)
    }

    /// Returns whether the driver is asked to notify.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// Takes the last pop back, which was of `head`.
    pub fn undo_pop(&mut self, head: Head) {
        match &mut self.ring {
            Ring::Split(ring) => ring.undo_pop(),
            Ring::Packed(ring) => ring.undo_pop(head),
        }
    }

    /// Gives chains back; the driver sees all of them or none.
    pub fn push<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        used: &[Used],
    ) -> Result<(), Violation> {
        match &mut self.ring {
            Ring::Split(ring) => ring.push(memory, used),
            Ring::Packed(ring) => ring.push(memory, used),
        }
    }

    /// Returns whether the driver wants to be told of what was pushed since the last call.
    pub fn take_signal<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Result<bool, Violation> {
        match &mut self.ring {
            Ring::Split(ring) => ring.take_signal(memory),
            Ring::Packed(ring) => ring.take_signal(memory),
        }
    }

    fn stop_listening<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Result<(), Violation> {
        if self.is_listening {
            self.set_listening(memory, false)?;
        }
        Ok(())
    }

    fn set_listening<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        is_listening: bool,
    ) -> Result<(), Violation> {
        self.is_listening = is_listening;
        match &mut self.ring {
            Ring::Split(ring) => ring.set_listening(memory, is_listening),
            Ring::Packed(ring) => ring.set_listening(memory, is_listening),
        }
    }

    /// Returns how many descriptors of the ring are popped and not given back (in a split ring, chains).
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        match &self.ring {
            Ring::Split(ring) => ring.state.popped.wrapping_sub(ring.state.used),
            Ring::Packed(ring) => ring.state.in_flight,
        }
    }

    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> QueueState {
        let Self {
            config,
            ring,
            is_listening,
        } = self;
        QueueState {
            version: 1,
            config: *config,
            ring: match ring {
                Ring::Split(ring) => RingState::Split(ring.state),
                Ring::Packed(ring) => RingState::Packed(ring.state),
            },
            is_listening: *is_listening,
        }
    }

    /// Returns the queue of a saved state.
    pub fn try_restore<M: GuestMemory + ?Sized>(
        state: &QueueState,
        max_size: u16,
        features: Features,
        memory: &M,
    ) -> Result<Self, RestoreError> {
        const IMPOSSIBLE: RestoreError = RestoreError::Impossible("virtqueue");
        check_version(state.version, 1)?;
        let mut queue = Self::try_new(state.config, max_size, features, memory)
            .map_err(|_| RestoreError::Impossible("place of a virtqueue"))?;
        match (&mut queue.ring, state.ring) {
            (Ring::Split(ring), RingState::Split(state)) if ring.is_possible(&state) => {
                ring.state = state;
            }
            (Ring::Packed(ring), RingState::Packed(state)) if ring.is_possible(&state) => {
                ring.state = state;
            }
            _ => return Err(IMPOSSIBLE),
        }
        queue.is_listening = state.is_listening;
        Ok(queue)
    }
}

/// Returns whether an event lies among the last `since` steps, when the side that waits for it named the step `behind` back.
pub(super) fn is_passed(behind: u32, since: u32) -> bool {
    (1..=since).contains(&behind)
}
