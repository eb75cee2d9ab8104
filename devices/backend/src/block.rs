//! A disk of the host (virtio 1.2, section 5.2).
//!
//! A request goes through four hands: [`Block::reserve`] finds slots for it or says that it must wait, the caller puts what is
//! to be written into them, [`Block::post`] queues it (and [`Block::publish`] shows the device all that was queued), and
//! [`Block::take`] returns it when the device is done; the caller takes what was read and gives the slots back with
//! [`Block::release`]. A request has at most [`MAX_BYTES`]; longer ones are the caller's to divide.

mod control;
mod flight;
mod lent;
mod patience;
mod request;
mod room;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use stockade_bus::{Gpa, GuestMemory, MemoryError};

use crate::error::BackendError;
use crate::host::{Function, HostBus};
use crate::pci::DeviceType;
use crate::queue::{MAX_SIZE, QUEUE_BYTES, Queue};
use crate::shared::SharedMemory;
use crate::slots::{Run, SLOT_BYTES, Slots};
use crate::transport::{CommonFeatures, Doorbell, NotifyRegister, Transport};
use crate::watch::Watch;

use flight::{Flight, State};
pub use request::{Done, Features, IoError, Kind, Request, Ticket};

/// The most bytes of one request.
pub const MAX_BYTES: u32 = 128 << 10;
/// Bytes of a sector, whatever the disk's blocks are.
pub const SECTOR_BYTES: u64 = 512;
/// The least shared memory for a disk: its queue, its control blocks, and slots for two requests of the greatest size.
pub const MIN_MEMORY: usize = RESERVED + 2 * MAX_BYTES as usize;

/// Into how many pieces a request may fall that finds no slots side by side.
const MAX_RUNS: usize = 32;
const RESERVED: usize = QUEUE_BYTES + MAX_SIZE as usize * control::BYTES;
const FIRST_SLOT: u16 = 21;

const _: () = assert!(RESERVED == FIRST_SLOT as usize * SLOT_BYTES);

/// A disk of the host.
#[derive(Debug)]
pub struct Block<M> {
    transport: Transport,
    memory: M,
    queue: Queue,
    notify: NotifyRegister,
    slots: Slots,
    features: Features,
    capacity: u64,

    flights: Box<[Flight]>,
    free: Vec<Ticket>,
    /// By queue id: whose it is.
    tickets: Box<[Ticket]>,
    watch: Watch,
    /// Why the device is offline.
    failure: Option<BackendError>,
}

impl<M: SharedMemory> Block<M> {
    /// Opens the disk at `function` with `memory`, which is zero, for itself; its interrupts go to `doorbell`.
    pub fn open(
        bus: &mut impl HostBus,
        function: Function,
        memory: M,
        doorbell: Doorbell,
    ) -> Result<Self, BackendError> {
        if memory.len_bytes() < MIN_MEMORY {
            return Err(BackendError::NoMemory);
        }
        let mut transport = Transport::open(bus, function, DeviceType::BLOCK)?;
        let needed = CommonFeatures::INDIRECT.bits();
        let wanted = Features::all().bits() | CommonFeatures::EVENT_INDEX.bits();
        let agreed = transport.negotiate(bus, needed, wanted)?;
        let mut capacity = [0; 8];
        transport.read_config(bus, 0, &mut capacity)?;
        transport.route(bus, doorbell)?;
        let size = transport.queue_size(bus, 0)?;
        if size == 0 {
            return Err(BackendError::Queue(0));
        }
        let has_event_index = agreed & CommonFeatures::EVENT_INDEX.bits() != 0;
        let mut queue = Queue::new_truncate(0, size, has_event_index);
        let notify = transport.set_queue(bus, 0, queue.size(), queue.addresses(&memory))?;
        transport.start(bus)?;
        queue.listen(&memory);
        let entries = usize::from(queue.size());
        Ok(Self {
            slots: Slots::new(&memory, RESERVED),
            transport,
            memory,
            notify,
            features: Features::from_bits_truncate(agreed),
            capacity: u64::from_le_bytes(capacity),
            flights: vec![Flight::NONE; entries].into_boxed_slice(),
            free: (0..queue.size()).rev().map(Ticket).collect(),
            tickets: vec![Ticket(0); entries].into_boxed_slice(),
            queue,
            watch: Watch::default(),
            failure: None,
        })
    }

    /// Returns how many sectors the disk had when it was opened.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Returns what was agreed with the disk.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Returns why the device is offline, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<BackendError> {
        self.failure
    }

    /// Returns how many requests the device has.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// Finds room for a request. `None`: it must wait until another is over. A request with more than [`MAX_BYTES`] gets none.
    pub fn reserve(&mut self, request: Request) -> Option<Ticket> {
        let runs = self.take_runs(&request)?;
        let ticket = self.take_ticket(request, runs, false);
        if ticket.is_none() {
            self.give_back(&runs, 0);
        }
        ticket
    }

    fn take_ticket(
        &mut self,
        request: Request,
        runs: [Run; MAX_RUNS],
        is_lent: bool,
    ) -> Option<Ticket> {
        let since = self.watch.moment();
        let ticket = self.free.pop()?;
        if let Some(flight) = self.flights.get_mut(usize::from(ticket.0)) {
            *flight = Flight {
                state: State::Reserved,
                request,
                is_lent,
                since,
                runs,
            };
        }
        Some(ticket)
    }

    /// Copies what is to be written from guest memory to `offset` of a reserved request.
    pub fn put_from_guest(
        &mut self,
        ticket: Ticket,
        offset: usize,
        guest: &dyn GuestMemory,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        self.each_piece(ticket, offset, len, |memory, at, done, len| {
            memory.copy_from_guest(at, guest, later(gpa, done), len)
        })
    }

    /// Copies what was read at `offset` of a request that is over to guest memory.
    pub fn get_to_guest(
        &self,
        ticket: Ticket,
        offset: usize,
        guest: &dyn GuestMemory,
        gpa: Gpa,
        len: usize,
    ) -> Result<(), MemoryError> {
        self.each_piece(ticket, offset, len, |memory, at, done, len| {
            memory.copy_to_guest(at, guest, later(gpa, done), len)
        })
    }

    /// Copies what is to be written to `offset` of a reserved request.
    pub fn put(&mut self, ticket: Ticket, offset: usize, bytes: &[u8]) {
        let _: Result<(), ()> =
            self.each_piece(ticket, offset, bytes.len(), |memory, at, done, len| {
                memory.write(at, bytes.get(done..done + len).unwrap_or_default());
                Ok(())
            });
    }

    /// Copies what was read at `offset` of a request that is over.
    pub fn get(&self, ticket: Ticket, offset: usize, bytes: &mut [u8]) {
        let _: Result<(), ()> =
            self.each_piece(ticket, offset, bytes.len(), |memory, at, done, len| {
                memory.read(at, bytes.get_mut(done..done + len).unwrap_or_default());
                Ok(())
            });
    }

    /// Calls `work` with memory, offset in it, offset in the caller's bytes and length, for each piece of a range.
    fn each_piece<E>(
        &self,
        ticket: Ticket,
        offset: usize,
        len: usize,
        mut work: impl FnMut(&M, usize, usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(flight) = self.flights.get(usize::from(ticket.0)) else {
            return Ok(());
        };
        let (mut skip, mut done) = (offset, 0);
        for (at, piece) in flight.pieces() {
            let skipped = skip.min(piece);
            skip -= skipped;
            let part = (piece - skipped).min(len - done);
            if part != 0 {
                work(&self.memory, at + skipped, done, part)?;
                done += part;
            }
        }
        Ok(())
    }

    /// Queues a reserved request. The device sees it with the next [`Self::publish`].
    pub fn post(&mut self, ticket: Ticket) {
        let Some(flight) = self.flights.get_mut(usize::from(ticket.0)) else {
            return;
        };
        if flight.state != State::Reserved {
            return;
        }
        flight.state = State::Posted;
        let flight = *flight;
        let pieces = flight.pieces();
        let posted = control::write(&self.memory, ticket, &flight.request, pieces);
        // There are as many tickets as entries; a queue that takes none is dead, and what it has fails with it.
        if let Some(id) = self.queue.post(&self.memory, posted)
            && let Some(slot) = self.tickets.get_mut(usize::from(id))
        {
            *slot = ticket;
        }
    }

    /// Shows the device what was posted.
    pub fn publish(&mut self, bus: &mut impl HostBus) {
        if self.queue.publish(&self.memory)
            && let Err(error) = self.notify.notify(bus)
        {
            self.fail(error);
        }
    }

    /// Returns the next request that is over. Once the device is offline, all it had are.
    pub fn take(&mut self) -> Option<Done> {
        if self.failure.is_none() {
            match self.queue.take(&self.memory) {
                Ok(None) => return None,
                Ok(Some(used)) => {
                    let ticket = *self.tickets.get(usize::from(used.id))?;
                    let flight = self.flights.get_mut(usize::from(ticket.0))?;
                    flight.state = State::Over;
                    let request = flight.request;
                    let outcome = self.judge(ticket, &request, used.written);
                    return Some(Done { ticket, outcome });
                }
                Err(error) => self.fail(error),
            }
        }
        let (index, flight) = (0..)
            .zip(self.flights.iter_mut())
            .find(|(_, flight)| flight.state == State::Posted)?;
        flight.state = State::Over;
        Some(Done {
            ticket: Ticket(index),
            outcome: Err(IoError::Offline),
        })
    }

    fn judge(&self, ticket: Ticket, request: &Request, found: u32) -> Result<(), IoError> {
        let expected = request.writable_bytes();
        if found != expected {
            return Err(IoError::Short { found, expected });
        }
        match control::read_status(&self.memory, ticket) {
            0 => Ok(()),
            status => Err(IoError::Status(status)),
        }
    }

    /// Gives the slots of a request back that is over or was never posted.
    pub fn release(&mut self, ticket: Ticket) {
        let Some(flight) = self.flights.get_mut(usize::from(ticket.0)) else {
            return;
        };
        // The device may still write what it has.
        if !matches!(flight.state, State::Over | State::Reserved) {
            return;
        }
        flight.state = State::Free;
        let flight = *flight;
        self.free.push(ticket);
        if flight.is_lent {
            return;
        }
        let used: usize = flight.pieces().map(|(_, len)| len).sum();
        // What an offline device still writes meets nothing but its own memory, which nobody reads any more.
        self.give_back(&flight.runs, used);
    }

    /// Asks for an interrupt with the next completion. Returns whether there already is one.
    pub fn listen(&mut self) -> bool {
        self.listen_for(1)
    }

    /// Asks for one interrupt when so many requests are over. Returns whether they already are.
    ///
    /// Without event indexes there is one for each.
    pub fn listen_for(&mut self, requests: u16) -> bool {
        let before = requests.saturating_sub(1);
        self.failure.is_none() && self.queue.listen_after(&self.memory, before)
    }

    /// Asks for no interrupt until the next [`Self::listen`]. Returns whether there is any to wait for: the device has requests.
    pub fn hush(&mut self) -> bool {
        self.queue.hush(&self.memory);
        self.failure.is_none() && self.queue.in_flight() != 0
    }

    /// Returns whether so many requests seem to be over.
    #[must_use]
    pub fn has_finished(&self, requests: u16) -> bool {
        self.failure.is_none() && self.queue.has_used(&self.memory, requests)
    }

    /// Sees whether the device still says of itself what it said at first.
    pub fn check(&mut self, bus: &mut impl HostBus) {
        if self.failure.is_some() {
            return;
        }
        if let Err(error) = self.compare(bus) {
            self.fail(error);
        }
    }

    fn compare(&self, bus: &mut impl HostBus) -> Result<(), BackendError> {
        self.transport.check(bus, &[(0, self.queue.size())])?;
        let mut capacity = [0; 8];
        self.transport.read_config(bus, 0, &mut capacity)?;
        if u64::from_le_bytes(capacity) != self.capacity {
            return Err(BackendError::Changed("capacity"));
        }
        Ok(())
    }

    fn fail(&mut self, error: BackendError) {
        let (function, code) = (self.transport.function(), error.code().0);
        log::error!("host disk {function} is offline, code {code}: {error}");
        self.queue.kill();
        self.failure = Some(error);
    }
}

/// Addresses of guest memory wrap here only where the memory itself refuses them.
fn later(gpa: Gpa, offset: usize) -> Gpa {
    Gpa(gpa.0.saturating_add(offset as u64))
}

#[cfg(test)]
mod tests;
