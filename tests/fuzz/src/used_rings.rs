//! Used rings, shared memory and registers as a host's disk and card leave them: honest, crooked, or any bytes.
//!
//! Whatever the host does, a request comes back at most once and with nothing of another in it; a device that is offline gives all back.

use stockade_backend::block::{Block, Done, IoError, Kind, MIN_MEMORY, Request, Ticket};
use stockade_backend::fake::{FakeHost, FakeMemory};
use stockade_backend::net::{MAX_FRAME, MAX_LARGE_FRAME, MIN_MEMORY as NET_MEMORY, Net};
use stockade_backend::transport::Doorbell;
use stockade_backend::watch::INTERVAL_NS;

use crate::Input;

const SECTORS: u64 = 512;
const DOORBELL: Doorbell = Doorbell {
    apic_id: 0,
    vector: 0xE3,
    change_vector: 0xEF,
};
/// Shared memory of a card with room for large frames.
const LARGE_MEMORY: usize = 520 << 10;
/// All there are, and buffers that are merged.
const OFFLOADS: u64 = 0b11 | 0b111 << 7 | 0b111 << 11 | 1 << 15;
/// What the driver writes.
const OURS: u8 = 0xA5;
/// What is on the host's disk where the driver reads.
const THEIRS: u8 = 0x5A;

/// Drives a disk and a card.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.bool() {
        Disk::open().drive(&mut input);
    } else {
        drive_card(&mut input);
    }
}

struct Disk {
    host: FakeHost,
    block: Block<FakeMemory>,
    /// By ticket: what is with the host.
    out: Vec<Option<Request>>,
    /// The host wrote where it has no business: what it reads there is not to be believed by a fake either.
    is_wild: bool,
    free_at_first: u16,
    now_ns: u64,
}

impl Disk {
    fn open() -> Self {
        let memory = FakeMemory::new(MIN_MEMORY + 0x4000);
        let mut host = FakeHost::disk(memory.clone(), SECTORS);
        host.disk.fill(THEIRS);
        let block = Block::open(&mut host, FakeHost::function(), memory, DOORBELL);
        let block = block.expect("an honest disk opens");
        Self {
            free_at_first: block.free_slots(),
            host,
            block,
            out: vec![None; 128],
            is_wild: false,
            now_ns: 0,
        }
    }

    fn drive(mut self, input: &mut Input<'_>) {
        while !input.is_empty() {
            match input.u8() % 12 {
                0..4 => self.submit(input),
                4 | 5 => self.serve(),
                6 => self
                    .host
                    .finish(0, element_id(input), input.u32() % 0x2_0400),
                7 => self.scribble_used(input),
                8 => self.scribble(input),
                9 => {
                    let size = self.host.queues[0].size;
                    change(&mut self.host, input);
                    self.block.check(&mut self.host);
                    // Its rings stay where they are.
                    self.host.queues[0].size = size;
                }
                10 => {
                    self.block.listen();
                    self.now_ns += INTERVAL_NS / 2;
                    self.block.watch(&mut self.host, self.now_ns);
                }
                _ => self.take_all(),
            }
        }
        self.end();
    }

    fn submit(&mut self, input: &mut Input<'_>) {
        let kind = match input.u8() % 5 {
            0 | 1 => Kind::Read,
            2 => Kind::Write,
            3 => Kind::Flush,
            _ => Kind::WriteZeroes { unmap: false },
        };
        let sectors = 1 + u32::from(input.u8() % 64);
        let request = Request {
            kind,
            // What is read was never written.
            sector: u64::from(input.u8() % 128) + if kind == Kind::Read { 256 } else { 0 },
            len_bytes: sectors * 512,
        };
        let Some(ticket) = self.block.reserve(request) else {
            return;
        };
        if kind == Kind::Write {
            let bytes = vec![OURS; request.len_bytes as usize];
            self.block.put(ticket, 0, &bytes);
        }
        self.block.post(ticket);
        self.block.publish(&mut self.host);
        let place = &mut self.out[usize::from(ticket.0)];
        assert_eq!(place.replace(request), None, "a ticket given twice");
    }

    /// The host does what it is asked.
    fn serve(&mut self) {
        if !self.is_wild {
            self.host.serve_disk();
        }
    }

    /// Any bytes in the used ring, its flags and its index.
    fn scribble_used(&mut self, input: &mut Input<'_>) {
        let ring = self.host.queues[0].device;
        let at = ring + u64::from(input.u16() % 0x208);
        let bytes: [u8; 2] = input.array();
        self.host.memory.device_write(at, &bytes);
    }

    /// Any bytes anywhere.
    fn scribble(&mut self, input: &mut Input<'_>) {
        self.is_wild = true;
        let at = input.u32() % 0x1_8000;
        let byte = input.u8();
        let bytes = vec![if byte == OURS { 0 } else { byte }; 16];
        let base = stockade_backend::fake::MEMORY_BASE;
        self.host.memory.device_write(base + u64::from(at), &bytes);
    }

    fn take_all(&mut self) {
        while let Some(done) = self.block.take() {
            self.taken(done);
        }
    }

    fn taken(&mut self, Done { ticket, outcome }: Done) {
        let request = self.out[usize::from(ticket.0)].take();
        let request = request.expect("a request comes back once");
        if request.kind == Kind::Read {
            self.check_read(ticket, &request, outcome);
        }
        self.block.release(ticket);
    }

    /// The driver's own bytes of another request must not be in what was read.
    fn check_read(&self, ticket: Ticket, request: &Request, outcome: Result<(), IoError>) {
        let mut bytes = vec![0; request.len_bytes as usize];
        self.block.get(ticket, 0, &mut bytes);
        if outcome.is_ok() {
            assert!(!bytes.contains(&OURS), "bytes of another request");
        }
    }

    /// However it went: once the device is offline everything comes back, and every slot with it.
    fn end(mut self) {
        self.host.is_gone = true;
        self.block.check(&mut self.host);
        assert!(self.block.failure().is_some());
        self.take_all();
        assert!(self.out.iter().all(Option::is_none));
        assert_eq!(self.block.free_slots(), self.free_at_first);
    }
}

/// Ids there are, and some there are not.
fn element_id(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        id @ 0..240 => u32::from(id % 66),
        _ => input.u32(),
    }
}

/// The host's device says something else of itself.
fn change(host: &mut FakeHost, input: &mut Input<'_>) {
    match input.u8() % 8 {
        0 => host.config[usize::from(input.u8() % 64)] ^= input.u8(),
        1 => host.offered ^= input.u64(),
        2 => host.queues[0].size = input.u16(),
        3 => host.status = input.u8(),
        4 => host.is_gone ^= true,
        5 => host.is_refusing ^= true,
        _ => {}
    }
}

fn drive_card(input: &mut Input<'_>) {
    // With offloads or without.
    let is_large = input.bool();
    let memory = FakeMemory::new(if is_large { LARGE_MEMORY } else { NET_MEMORY });
    let mut host = FakeHost::net(memory.clone());
    host.offered |= if is_large { OFFLOADS } else { 0 };
    let net = Net::open(&mut host, FakeHost::function(), memory.clone(), DOORBELL);
    let mut net = net.expect("an honest card opens");
    let most = if is_large { MAX_LARGE_FRAME } else { MAX_FRAME };
    let (mut frame, mut now_ns) = (vec![0; MAX_LARGE_FRAME], 0);
    while !input.is_empty() {
        let queue = usize::from(input.u8() & 1);
        match input.u8() % 8 {
            0 => {
                let len = usize::from(input.u16()) % (most + 2);
                let is_sent = net.send(&[OURS; 12], &vec![OURS; len]);
                assert!(!is_sent || len <= most);
                net.publish(&mut host);
            }
            1 => host.finish(queue, element_id(input), input.u32() % 0x900),
            2 | 3 => {
                let ring = host.queues[queue].device;
                let at = ring + u64::from(input.u16() % 0x88);
                memory.device_write(at, &input.array::<2>());
            }
            4 => {
                let size = host.queues[0].size;
                change(&mut host, input);
                net.check(&mut host);
                host.queues[0].size = size;
            }
            5 => {
                net.listen();
                net.listen_for_room(most);
                now_ns += INTERVAL_NS;
                net.watch(&mut host, now_ns);
            }
            _ => {
                if let Some(len) = net.receive(&mut frame).map(|received| received.len) {
                    assert!((1..=most).contains(&len));
                    // Nothing was ever put into the card's receive buffers, whatever lengths were claimed.
                    assert!(frame[..len].iter().all(|byte| *byte != OURS));
                }
                net.publish(&mut host);
            }
        }
    }
    host.is_gone = true;
    net.check(&mut host);
    assert!(net.failure().is_some() && !net.can_send(60));
    assert_eq!(net.receive(&mut frame), None);
}

/// Requests and frames with an honest host, and one that says a thing twice.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let read = [0, 0, 7, 3];
    let write = [0, 2, 7, 3];
    let flush = [0, 3, 0, 0];
    let (serve, take) = ([4], [11]);
    let disk = [
        &[1][..],
        &write,
        &flush,
        &serve,
        &take,
        &read,
        &serve,
        &take,
    ]
    .concat();
    let twice = [
        &[1][..],
        &read,
        &read,
        &[6, 0, 1, 8, 0, 0],
        &[6, 0, 1, 8, 0, 0],
        &take,
    ]
    .concat();
    let card = [
        &[0, 0][..],
        &[0, 0, 60, 0],
        &[1, 1, 15, 0, 0, 0, 0],
        &[0, 1, 15, 72, 0, 0, 0],
        &[0, 6, 0, 5, 0, 6],
    ]
    .concat();
    vec![disk, twice, card]
}
