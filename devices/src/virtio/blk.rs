//! The block device (Virtio 1.2, 5.2): requests out of the guest's rings, for an engine that does the I/O.
//!
//! The engine asks [`Blk::next`] for requests as long as it has room for them, copies their data by [`Blk::request`] and ends each with
//! [`Blk::complete`], in any order. What needs no I/O (wrong requests, the disk's name) is answered here. While the engine has no
//! room, requests wait in the guest's ring. After a reset of the device, requests still with the engine have no memory any more, and new
//! ones wait until the engine ended those: what the guest wrote before a reset never overtakes what it writes after.

mod config;
mod features;
mod parse;
mod request;
mod saved;
mod slot;

use alloc::boxed::Box;
use alloc::vec::Vec;

use stockade_bus::GuestMemory;

use super::device::read_bytes;
use super::link::Link;
pub use super::queue::Listening;
use super::queue::{Chain, Queue, QueueConfig, Used, Violation};
use super::{DeviceId, Features, FeaturesRefused, Interrupts, VirtioDevice, Work};
pub use config::{BlkOptions, RangeLimits, ZeroLimits};
pub use features::{
    BLK_SIZE, CONFIG_WCE, DISCARD, FLUSH, MQ, READ_ONLY, SEG_MAX, TOPOLOGY, WRITE_ZEROES,
};
use parse::{Answer, Parsed};
pub use request::{Kind, Range, Request, SECTOR_BYTES, Status, Token};
pub use saved::{BlkState, RequestState};
use slot::{Slot, Use};

/// Requests answered here in one call of [`Blk::next`].
const ANSWERS_A_TURN: usize = 32;
/// Most buffers of a chain: as many as the largest queue of the device has descriptors, or what a request may have if that is more.
const CHAIN_CAPACITY: usize = 256;

/// What [`Blk::next`] has for the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// A request to be done.
    Request(Token),
    /// Nothing. The driver notifies of the next one if it is asked to: [`Blk::listen`].
    Idle,
    /// As many requests as the device takes are with the engine; one must be completed first.
    Full,
    /// The turn's budget is used up; ask again soon.
    Later,
}

/// A virtio block device.
#[derive(Debug)]
pub struct Blk {
    options: BlkOptions,

    link: Link,
    /// The driver's choice of cache: writes may wait in it.
    is_writeback: bool,
    queues: Box<[Option<Queue>]>,

    slots: Box<[Slot]>,
    free: Vec<u16>,
    /// Slots whose requests have lost their device, but are still with the engine.
    orphans: usize,
    /// Slots restored from a saved state that the engine has yet to get.
    waiting: usize,
    /// The queue that is looked at first.
    turn: usize,
    chain: Chain,
    io_errors: u64,
}

impl Blk {
    /// Returns the device of a disk. Options out of bounds are taken as the nearest that are not.
    #[must_use]
    pub fn new(options: BlkOptions) -> Self {
        let options = options.clamped();
        let slot = || Slot::new(options.segments());
        Self {
            link: Link::default(),
            is_writeback: options.has_cache,
            queues: (0..options.queues).map(|_| None).collect(),
            slots: (0..options.depth).map(|_| slot()).collect(),
            free: (0..options.depth).rev().collect(),
            orphans: 0,
            waiting: 0,
            turn: 0,
            chain: Chain::new(CHAIN_CAPACITY),
            io_errors: 0,
            options,
        }
    }

    /// Returns the next request, if there is one and room for it.
    pub fn next<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Next {
        if self.orphans > 0 {
            return Next::Full;
        }
        if self.link.is_running()
            && let Some(token) = self.take_waiting()
        {
            return Next::Request(token);
        }
        for _ in 0..ANSWERS_A_TURN {
            // A chain that broke the rules ends the device before the next one is looked at.
            if !self.link.is_running() {
                return Next::Idle;
            }
            let Some(slot) = self.free.last().copied() else {
                return Next::Full;
            };
            let Some(queue) = self.pop(memory) else {
                return Next::Idle;
            };
            if let Some(token) = self.begin(memory, queue, slot) {
                return Next::Request(token);
            }
        }
        Next::Later
    }

    /// Asks the driver to notify of requests, by the rings that have none on its way: where there is one, its end brings whoever
    /// completes it back to look, which spares the guest an exit. Requests that came before it knew may go unnoticed: look once more,
    /// unless it was asked already.
    pub fn listen<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Listening {
        let mut listening = Listening::Already;
        if !self.link.is_running() {
            return listening;
        }
        let queues = self.queues.iter_mut().flatten();
        for queue in queues.filter(|queue| queue.in_flight() == 0) {
            match queue.listen(memory) {
                Ok(Listening::Already) => {}
                Ok(Listening::FromNow) => listening = Listening::FromNow,
                Err(violation) => self.link.fail(violation),
            }
        }
        listening
    }

    /// Returns whether the driver notifies of any request. If not, look again soon.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        let mut queues = self.queues.iter().flatten();
        !self.link.is_running() || queues.all(Queue::is_listening)
    }

    /// Returns a request that is with the engine; `None` once the device was reset or broken.
    #[must_use]
    pub fn request(&self, token: Token) -> Option<Request<'_>> {
        let slot = self.slots.get(token.slot())?;
        let is_alive = slot.is(token.serial, Use::Busy) && self.link.is_running();
        is_alive.then(|| slot.request())
    }

    /// Ends a request. One that was ended before is left alone.
    pub fn complete<M: GuestMemory + ?Sized>(&mut self, memory: &M, token: Token, status: Status) {
        let Some(slot) = self.slots.get_mut(token.slot()) else {
            return;
        };
        if slot.is(token.serial, Use::Orphan) {
            self.orphans -= 1;
        } else if !slot.is(token.serial, Use::Busy) {
            return;
        }
        if status == Status::IoError {
            self.io_errors = self.io_errors.saturating_add(1);
        }
        let answer = slot.answer(status);
        let (queue, is_orphan) = (slot.queue, slot.is(token.serial, Use::Orphan));
        slot.release();
        self.free.push(token.slot);
        if !is_orphan {
            self.give_back(memory, queue, answer);
        }
    }

    /// Returns how many requests the engine has ended with an I/O error since it was made.
    #[must_use]
    pub fn io_errors(&self) -> u64 {
        self.io_errors
    }

    /// Returns how many requests are with the engine, those without a device included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() - self.waiting
    }

    /// Returns the rule the driver broke, if it did.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.link.violation
    }

    /// Returns the disk's size in sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.options.sectors
    }

    /// Changes the disk's size and tells the driver.
    pub fn set_sectors(&mut self, sectors: u64) {
        self.options.sectors = sectors;
        self.link.config_changed();
    }

    /// Pops a chain from one of the queues, in turn.
    fn pop<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Option<u16> {
        for step in 0..self.queues.len() {
            let index = (self.turn + step) % self.queues.len();
            let Some(Some(queue)) = self.queues.get_mut(index) else {
                continue;
            };
            match queue.poll(memory, &mut self.chain) {
                Ok(false) => {}
                Ok(true) => {
                    self.turn = (index + 1) % self.queues.len();
                    return u16::try_from(index).ok();
                }
                Err(violation) => {
                    self.link.fail(violation);
                    return None;
                }
            }
        }
        None
    }

    /// Makes a request of the popped chain, or answers it.
    fn begin<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        queue: u16,
        index: u16,
    ) -> Option<Token> {
        let is_through = self.is_write_through();
        let slot = self.slots.get_mut(usize::from(index))?;
        match parse::parse(memory, &self.chain, &self.options, is_through, slot) {
            Ok(Parsed::Request) => {
                self.free.pop();
                let serial = slot.begin(queue, self.chain.head());
                Some(Token {
                    slot: index,
                    serial,
                })
            }
            Ok(Parsed::Answered(answer)) => {
                self.give_back(memory, queue, answer);
                None
            }
            Err(violation) => {
                self.link.fail(violation);
                None
            }
        }
    }

    fn take_waiting(&mut self) -> Option<Token> {
        if self.waiting == 0 {
            return None;
        }
        let (index, slot) = (0..)
            .zip(&mut self.slots)
            .find(|(_, slot)| slot.usage == Use::Waiting)?;
        self.waiting -= 1;
        slot.usage = Use::Busy;
        Some(Token {
            slot: index,
            serial: slot.serial,
        })
    }

    /// Writes a request's status and gives its chain back.
    fn give_back<M: GuestMemory + ?Sized>(&mut self, memory: &M, queue: u16, answer: Answer) {
        if !self.link.is_running() {
            return;
        }
        let Some(Some(ring)) = self.queues.get_mut(usize::from(queue)) else {
            return;
        };
        let used = Used {
            head: answer.head,
            written: answer.written,
        };
        let outcome = memory
            .write(answer.status_gpa, &[answer.status.to_byte()])
            .map_err(Violation::from)
            .and_then(|()| ring.push(memory, &[used]));
        self.link.check(outcome);
    }

    /// Without a cache that is on, completed writes must last (Virtio 1.2, 5.2.5.2).
    fn is_write_through(&self) -> bool {
        if self.link.features.contains(CONFIG_WCE) {
            !self.is_writeback
        } else {
            !self.link.features.contains(FLUSH)
        }
    }
}

impl VirtioDevice for Blk {
    fn device_id(&self) -> DeviceId {
        DeviceId::BLOCK
    }

    fn class_code(&self) -> u32 {
        // Mass storage, of no kind that has a number.
        0x01_80_00
    }

    fn device_features(&self) -> Features {
        self.options.features()
    }

    fn queue_count(&self) -> u16 {
        self.options.queues
    }

    fn queue_max_size(&self, queue: u16) -> Option<u16> {
        (queue < self.options.queues).then_some(self.options.queue_size)
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        read_bytes(&self.options.to_bytes(self.is_writeback), offset, data);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let has_switch = self.link.features.contains(CONFIG_WCE);
        if let (config::WRITEBACK, [value @ (0 | 1)], true) = (offset, data, has_switch) {
            self.is_writeback = *value == 1;
        }
    }

    fn config_generation(&self) -> u8 {
        self.link.config_generation
    }

    fn negotiate(&mut self, features: Features) -> Result<(), FeaturesRefused> {
        self.link.negotiate(self.device_features(), features)?;
        self.is_writeback = features.contains(FLUSH);
        Ok(())
    }

    fn activate(&mut self, queues: &[Option<QueueConfig>], memory: &dyn GuestMemory) {
        let max_size = self.options.queue_size;
        self.link
            .activate(&mut self.queues, queues, max_size, memory);
    }

    fn reset(&mut self) {
        self.link.reset();
        self.is_writeback = self.options.has_cache;
        self.queues.fill_with(|| None);
        for (index, slot) in (0..).zip(&mut self.slots) {
            match slot.usage {
                Use::Busy => {
                    slot.usage = Use::Orphan;
                    self.orphans += 1;
                }
                Use::Waiting => {
                    slot.release();
                    self.free.push(index);
                }
                Use::Free | Use::Orphan => {}
            }
        }
        (self.waiting, self.turn) = (0, 0);
    }

    fn notify(&mut self, _queue: u16, _memory: &dyn GuestMemory) -> Work {
        // The engine asks for requests itself.
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
