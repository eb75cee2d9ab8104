//! The entropy source (Virtio 1.2, 5.4): random numbers of ours, never of the host's.

use stockade_bus::GuestMemory;

use super::device::read_bytes;
use super::link::{Link, LinkState};
use super::queue::{Chain, Queue, QueueConfig, QueueState, Used, Violation, total};
use super::{DeviceId, Features, FeaturesRefused, Interrupts, VirtioDevice, Work};
use crate::RestoreError;
use crate::state::check_version;

const QUEUE_SIZE: u16 = 64;
/// Random bytes a request gets at most; a driver that wants more asks again.
const BYTES_A_REQUEST: u64 = 1024;
/// Requests served before others have their turn.
const REQUESTS_A_TURN: usize = 8;
/// Bytes drawn at a time.
const DRAW: usize = 64;

/// The source has no random numbers now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no random numbers")]
pub struct NoEntropy;

/// A source of random numbers fit for keys.
pub trait Entropy {
    /// Fills `buffer`, or leaves nothing in it that may be used.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy>;
}

/// A virtio entropy source.
#[derive(Debug)]
pub struct Rng<E> {
    entropy: E,

    link: Link,
    queues: [Option<Queue>; 1],

    chain: Chain,
}

/// The device's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RngState {
    /// Format version: 1.
    pub version: u32,
    /// What all devices have.
    pub link: LinkState,
    /// The queue.
    pub queue: Option<QueueState>,
}

impl<E: Entropy> Rng<E> {
    /// Returns a device that draws from `entropy`.
    pub fn new(entropy: E) -> Self {
        Self {
            entropy,
            link: Link::default(),
            queues: [None],
            chain: Chain::new(QUEUE_SIZE.into()),
        }
    }

    /// Returns the rule the driver broke, if it did.
    pub fn violation(&self) -> Option<Violation> {
        self.link.violation
    }

    fn serve(&mut self, memory: &dyn GuestMemory) -> Result<Work, Violation> {
        let [Some(queue)] = &mut self.queues else {
            return Ok(Work::Done);
        };
        for _ in 0..REQUESTS_A_TURN {
            if !queue.pop(memory, &mut self.chain)? {
                return Ok(Work::Done);
            }
            let head = self.chain.head();
            let Ok(written) = fill(memory, &self.chain, &mut self.entropy)? else {
                queue.undo_pop(head);
                break;
            };
            queue.push(memory, &[Used { head, written }])?;
        }
        Ok(Work::More)
    }

    /// Returns the state to save.
    pub fn save(&self) -> RngState {
        let Self {
            entropy: _,
            link,
            queues: [queue],
            chain: _,
        } = self;
        RngState {
            version: 1,
            link: link.save(),
            queue: queue.as_ref().map(Queue::save),
        }
    }

    /// Takes a saved state.
    pub fn restore<M: GuestMemory + ?Sized>(
        &mut self,
        state: &RngState,
        memory: &M,
    ) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        let link = Link::try_restore(&state.link, self.device_features())?;
        let mut queues = [None];
        link.try_restore_queues(&mut queues, &[state.queue], QUEUE_SIZE, memory)?;
        link.check_in_flight(&queues, &[0])?;
        (self.link, self.queues) = (link, queues);
        Ok(())
    }
}

/// Fills the start of a chain; returns how many bytes that were.
fn fill<E: Entropy>(
    memory: &dyn GuestMemory,
    chain: &Chain,
    entropy: &mut E,
) -> Result<Result<u32, NoEntropy>, Violation> {
    let room = total(chain.writable());
    if room == 0 {
        return Err(Violation::ShortRequest);
    }
    let mut written = 0;
    while written < room.min(BYTES_A_REQUEST) {
        let mut bytes = [0; DRAW];
        if entropy.fill(&mut bytes).is_err() {
            break;
        }
        // The last draw may have more than there is room for.
        written += chain.write(memory, written, &bytes)? as u64;
    }
    // A request gets one byte at least (Virtio 1.2, 5.4.6.2).
    Ok(match u32::try_from(written) {
        Ok(0) | Err(_) => Err(NoEntropy),
        Ok(written) => Ok(written),
    })
}

impl<E: Entropy> VirtioDevice for Rng<E> {
    fn device_id(&self) -> DeviceId {
        DeviceId::ENTROPY
    }

    fn class_code(&self) -> u32 {
        // A device of no class.
        0x00_FF_00
    }

    fn device_features(&self) -> Features {
        Features::COMMON
    }

    fn queue_count(&self) -> u16 {
        1
    }

    fn queue_max_size(&self, queue: u16) -> Option<u16> {
        (queue == 0).then_some(QUEUE_SIZE)
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        read_bytes(&[], offset, data);
    }

    fn write_config(&mut self, _offset: u32, _data: &[u8]) {}

    fn config_generation(&self) -> u8 {
        self.link.config_generation
    }

    fn negotiate(&mut self, features: Features) -> Result<(), FeaturesRefused> {
        self.link.negotiate(self.device_features(), features)
    }

    fn activate(&mut self, queues: &[Option<QueueConfig>], memory: &dyn GuestMemory) {
        self.link
            .activate(&mut self.queues, queues, QUEUE_SIZE, memory);
    }

    fn reset(&mut self) {
        self.link.reset();
        self.queues = [None];
    }

    fn notify(&mut self, _queue: u16, memory: &dyn GuestMemory) -> Work {
        self.work(memory)
    }

    fn work(&mut self, memory: &dyn GuestMemory) -> Work {
        if !self.link.is_running() {
            return Work::Done;
        }
        let outcome = self.serve(memory);
        self.link.check(outcome)
    }

    fn take_interrupts(&mut self, memory: &dyn GuestMemory) -> Interrupts {
        self.link.take_interrupts(&mut self.queues, memory)
    }

    fn needs_reset(&self) -> bool {
        self.link.violation.is_some()
    }
}

#[cfg(test)]
mod tests;
