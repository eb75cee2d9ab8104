//! The console (Virtio 1.2, 5.3): one port.
//!
//! Characters stay in the guest's buffers until somebody takes them with [`Console::take_output`]; those from outside go straight into buffers
//! the driver left for them.

mod saved;

use stockade_bus::GuestMemory;

use super::device::read_bytes;
use super::link::Link;
use super::queue::{Chain, Queue, QueueConfig, Used, Violation, total};
use super::{DeviceId, Features, FeaturesRefused, Interrupts, VirtioDevice, Work};
pub use saved::ConsoleState;

/// `VIRTIO_CONSOLE_F_SIZE`: the size of the console is told.
pub const SIZE: Features = Features::bit(0);

const QUEUE_SIZE: u16 = 64;
/// Chains looked at in one call: they may have no characters in them.
const CHAINS_A_CALL: usize = 64;

/// A console's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleSize {
    /// Characters of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A virtio console.
#[derive(Debug)]
pub struct Console {
    size: ConsoleSize,

    link: Link,
    /// The receive queue, then the transmit queue.
    queues: [Option<Queue>; 2],
    /// The chain that is being taken, and how much of it was.
    open: Chain,
    taken: Option<u64>,

    chain: Chain,
}

impl Console {
    /// Returns a console of this size.
    #[must_use]
    pub fn new(size: ConsoleSize) -> Self {
        Self {
            size,
            link: Link::default(),
            queues: [None, None],
            open: Chain::new(QUEUE_SIZE.into()),
            taken: None,
            chain: Chain::new(QUEUE_SIZE.into()),
        }
    }

    /// Changes the console's size and tells the driver.
    pub fn resize(&mut self, size: ConsoleSize) {
        if size != self.size {
            self.size = size;
            self.link.config_changed();
        }
    }

    /// Returns the rule the driver broke, if it did.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.link.violation
    }

    /// Moves characters of the guest into `buffer`; returns how many that were. None means that the driver will notify when there are more,
    /// unless `buffer` has no room.
    pub fn take_output<M: GuestMemory + ?Sized>(&mut self, memory: &M, buffer: &mut [u8]) -> usize {
        if !self.link.is_running() {
            return 0;
        }
        let mut done = 0;
        let outcome = self.take(memory, buffer, &mut done);
        self.link.check(outcome);
        done
    }

    fn take<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        buffer: &mut [u8],
        done: &mut usize,
    ) -> Result<(), Violation> {
        let [_, Some(queue)] = &mut self.queues else {
            return Ok(());
        };
        for _ in 0..CHAINS_A_CALL {
            let room = buffer.get_mut(*done..).unwrap_or_default();
            let taken = match self.taken {
                _ if room.is_empty() => break,
                Some(taken) => taken,
                None if queue.pop(memory, &mut self.open)? => 0,
                None => break,
            };
            let read = self.open.read(memory, taken, room)?;
            *done += read;
            let taken = taken + read as u64;
            self.taken = (taken < total(self.open.readable())).then_some(taken);
            if self.taken.is_none() {
                let head = self.open.head();
                queue.push(memory, &[Used { head, written: 0 }])?;
            }
        }
        Ok(())
    }

    /// Gives the guest characters from outside; returns how many it had room for. The driver will notify when it has more.
    pub fn push_input<M: GuestMemory + ?Sized>(&mut self, memory: &M, bytes: &[u8]) -> usize {
        if !self.link.is_running() {
            return 0;
        }
        let mut done = 0;
        let outcome = self.push(memory, bytes, &mut done);
        self.link.check(outcome);
        done
    }

    fn push<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        bytes: &[u8],
        done: &mut usize,
    ) -> Result<(), Violation> {
        let [Some(queue), _] = &mut self.queues else {
            return Ok(());
        };
        while let Some(rest) = bytes.get(*done..).filter(|rest| !rest.is_empty()) {
            if !queue.pop(memory, &mut self.chain)? {
                break;
            }
            let written = self.chain.write(memory, 0, rest)?;
            if written == 0 {
                return Err(Violation::ShortRequest);
            }
            let used = Used {
                head: self.chain.head(),
                written: u32::try_from(written).unwrap_or(u32::MAX),
            };
            queue.push(memory, &[used])?;
            *done += written;
        }
        Ok(())
    }

    fn config(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..2].copy_from_slice(&self.size.columns.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.size.rows.to_le_bytes());
        // One port, and no emergency write.
        bytes[4] = 1;
        bytes
    }
}

impl VirtioDevice for Console {
    fn device_id(&self) -> DeviceId {
        DeviceId::CONSOLE
    }

    fn class_code(&self) -> u32 {
        // Communication controller of no kind that has a number.
        0x07_80_00
    }

    fn device_features(&self) -> Features {
        Features::COMMON | SIZE
    }

    fn queue_count(&self) -> u16 {
        2
    }

    fn queue_max_size(&self, queue: u16) -> Option<u16> {
        (queue < 2).then_some(QUEUE_SIZE)
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        read_bytes(&self.config(), offset, data);
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
        self.queues = [None, None];
        self.taken = None;
    }

    fn notify(&mut self, _queue: u16, _memory: &dyn GuestMemory) -> Work {
        // Characters are taken and given from outside.
        Work::Done
    }

    fn work(&mut self, _memory: &dyn GuestMemory) -> Work {
        Work::Done
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
