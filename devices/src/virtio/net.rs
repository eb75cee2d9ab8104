//! The network card (Virtio 1.2, 5.1): frames out of the guest's buffers and into them.
//!
//! Frames are copied: [`Net::take_frame`] takes the next one the guest sent, [`Net::give_frame`] puts one into its buffers. What checksums and
//! segments are left undone is told by a [`Header`] on either side; which of that may be is what the options and the driver agreed on. Headers
//! that say something else, from the guest or from outside, cost their frame and nothing more.

mod checksum;
mod config;
mod control;
mod filter;
mod header;
mod packet;
mod pieces;
mod receive;
mod saved;

use stockade_bus::GuestMemory;

use super::device::read_bytes;
use super::link::Link;
pub use super::queue::Listening;
use super::queue::{Chain, Queue, QueueConfig, Used, Violation, total};
use super::{DeviceId, Features, FeaturesRefused, Interrupts, VirtioDevice, Work};
pub use config::{Address, NetOptions, features};
use filter::Filter;
pub use filter::{AddressTable, FilterState, TABLE_SIZE};
pub use header::{HEADER_BYTES, Header};
pub use pieces::Pieces;
pub use receive::Given;
pub use saved::NetState;

const QUEUE_SIZE: u16 = 256;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;
/// Frames of the guest's dropped in one call.
const DROPS_A_TURN: usize = 32;
/// Destination, source and type: no frame is shorter.
const LEAST_FRAME: usize = 14;

/// What [`Net::take_frame`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// A frame of `len` bytes.
    Frame {
        /// What is left to be done to it.
        header: Header,
        /// Its bytes.
        len: usize,
    },
    /// Nothing. The driver notifies of the next one if it is asked to: [`Net::listen`].
    Nothing,
    /// The turn's budget is used up; ask again soon.
    Later,
}

/// When the driver is told of what it waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Telling {
    /// As soon as it is there.
    #[default]
    Now,
    /// Later, when it is said so.
    Later,
}

/// A virtio network card.
#[derive(Debug)]
pub struct Net {
    options: NetOptions,

    link: Link,
    /// Receive, transmit and control queue.
    queues: [Option<Queue>; 3],
    address: Address,
    is_connected: bool,
    filter: Filter,
    /// What of the work on received frames the driver wants left undone now.
    offloads: Features,

    /// When the driver is told that frames were sent.
    telling: Telling,
    /// Queues of whose buffers the driver is to be told, a bit each, whatever is put off.
    told: u64,
    /// Frames that were not passed on because something was wrong with them.
    dropped: u64,
    chain: Chain,
}

impl Net {
    /// Returns a card.
    #[must_use]
    pub fn new(options: NetOptions) -> Self {
        Self {
            link: Link::default(),
            queues: [None, None, None],
            address: options.address,
            is_connected: true,
            filter: Filter::new(),
            offloads: Features::empty(),
            telling: Telling::Now,
            told: 0,
            dropped: 0,
            chain: Chain::new(QUEUE_SIZE.into()),
            options,
        }
    }

    /// Returns the rule the driver broke, if it did.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.link.violation
    }

    /// Returns how many frames were dropped for what was wrong with them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the features the driver chose.
    #[must_use]
    pub fn driver_features(&self) -> Features {
        self.link.features
    }

    /// Tells the driver that the wire was plugged in or out.
    pub fn set_connected(&mut self, is_connected: bool) {
        if self.is_connected != is_connected {
            self.is_connected = is_connected;
            self.link.config_changed();
        }
    }

    /// Takes the next frame the guest sent into `frame`; one that is longer than that, or wrong, is dropped.
    pub fn take_frame<M: GuestMemory + ?Sized>(&mut self, memory: &M, frame: &mut [u8]) -> Taken {
        if !self.link.is_running() {
            return Taken::Nothing;
        }
        let outcome = self.take(memory, frame);
        self.link.check(outcome.map(Some)).unwrap_or(Taken::Nothing)
    }

    /// Asks the driver to notify of frames. Frames that came before it knew may go unnoticed: take once more, unless it was asked
    /// already. Whoever comes back soon anyway spares the guest the exit and does not ask.
    pub fn listen<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Listening {
        let Some(queue) = &mut self.queues[TRANSMIT] else {
            return Listening::Already;
        };
        if !self.link.is_running() {
            return Listening::Already;
        }
        let outcome = queue.listen(memory);
        let listening = self.link.check(outcome.map(Some));
        listening.unwrap_or(Listening::Already)
    }

    /// Tells the driver that frames were sent, if it still waits for that, and of those from now on as soon as they are, or at the next
    /// call. What it is not told of it sees all the same if it looks.
    pub fn tell_of_sent<M: GuestMemory + ?Sized>(&mut self, memory: &M, telling: Telling) {
        self.telling = telling;
        if let Some(queue) = self.queues[TRANSMIT]
            .as_mut()
            .filter(|_| self.link.is_running())
            && self.link.check(queue.take_signal(memory))
        {
            self.told = 1 << TRANSMIT;
        }
    }

    fn take<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        frame: &mut [u8],
    ) -> Result<Taken, Violation> {
        let allowed = self.link.features;
        let Some(queue) = &mut self.queues[TRANSMIT] else {
            return Ok(Taken::Nothing);
        };
        for _ in 0..DROPS_A_TURN {
            if !queue.poll(memory, &mut self.chain)? {
                return Ok(Taken::Nothing);
            }
            let taken = read_frame(memory, &self.chain, frame)?;
            let head = self.chain.head();
            queue.push(memory, &[Used { head, written: 0 }])?;
            let checked = taken.and_then(|(header, len)| {
                let header = header.checked_from_guest(frame.get(..len)?, allowed)?;
                Some(Taken::Frame { header, len })
            });
            match checked {
                Some(taken) => return Ok(taken),
                None => self.dropped = self.dropped.saturating_add(1),
            }
        }
        Ok(Taken::Later)
    }
}

/// Copies a frame and its header out of a chain, if the frame is long enough and fits.
fn read_frame<M: GuestMemory + ?Sized>(
    memory: &M,
    chain: &Chain,
    frame: &mut [u8],
) -> Result<Option<(Header, usize)>, Violation> {
    let mut header = [0; HEADER_BYTES];
    if chain.read(memory, 0, &mut header)? < HEADER_BYTES {
        return Err(Violation::ShortRequest);
    }
    let len = total(chain.readable()) - HEADER_BYTES as u64;
    let place = usize::try_from(len)
        .ok()
        .and_then(|len| frame.get_mut(..len));
    let Some(place) = place.filter(|place| place.len() >= LEAST_FRAME) else {
        return Ok(None);
    };
    chain.read(memory, HEADER_BYTES as u64, place)?;
    Ok(Some((Header::from_bytes(header), place.len())))
}

impl VirtioDevice for Net {
    fn device_id(&self) -> DeviceId {
        DeviceId::NETWORK
    }

    fn class_code(&self) -> u32 {
        // Ethernet controller.
        0x02_00_00
    }

    fn device_features(&self) -> Features {
        self.options.features()
    }

    fn queue_count(&self) -> u16 {
        3
    }

    fn queue_max_size(&self, queue: u16) -> Option<u16> {
        (queue < 3).then_some(QUEUE_SIZE)
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let config = self.options.to_bytes(self.address, self.is_connected);
        read_bytes(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u32, _data: &[u8]) {
        // The address is changed by command (Virtio 1.2, 5.1.4.2).
    }

    fn config_generation(&self) -> u8 {
        self.link.config_generation
    }

    fn negotiate(&mut self, chosen: Features) -> Result<(), FeaturesRefused> {
        if !config::is_consistent(chosen) {
            return Err(FeaturesRefused(chosen));
        }
        self.link.negotiate(self.device_features(), chosen)?;
        self.offloads = chosen & features::RECEIVE_OFFLOADS;
        Ok(())
    }

    fn activate(&mut self, queues: &[Option<QueueConfig>], memory: &dyn GuestMemory) {
        self.link
            .activate(&mut self.queues, queues, QUEUE_SIZE, memory);
    }

    fn reset(&mut self) {
        self.link.reset();
        self.queues = [None, None, None];
        self.address = self.options.address;
        self.filter = Filter::new();
        self.offloads = Features::empty();
        self.telling = Telling::Now;
        self.told = 0;
    }

    fn notify(&mut self, queue: u16, memory: &dyn GuestMemory) -> Work {
        // Frames are taken and given from outside.
        if usize::from(queue) == CONTROL {
            self.work(memory)
        } else {
            Work::Done
        }
    }

    fn work(&mut self, memory: &dyn GuestMemory) -> Work {
        if !self.link.is_running() {
            return Work::Done;
        }
        let outcome = self.serve_control(memory);
        self.link.check(outcome)
    }

    fn take_interrupts(&mut self, memory: &dyn GuestMemory) -> Interrupts {
        let put_off = match self.telling {
            Telling::Now => 0,
            Telling::Later => 1 << TRANSMIT,
        };
        let queues = &mut self.queues;
        let mut interrupts = self.link.take_interrupts_but(put_off, queues, memory);
        let told = core::mem::take(&mut self.told);
        // A card that broke since then has nothing more to say.
        if self.link.is_running() {
            interrupts.queues |= told;
        }
        interrupts
    }

    fn needs_reset(&self) -> bool {
        self.link.violation.is_some()
    }
}

#[cfg(test)]
mod tests;
