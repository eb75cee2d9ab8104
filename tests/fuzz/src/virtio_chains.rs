//! Rings, descriptors and requests of any bytes at the virtio front-ends, and an engine that serves what they make of it.

use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_devices::virtio::blk::{
    Blk, BlkOptions, Kind, Next, RangeLimits, Status, Token, ZeroLimits,
};
use stockade_devices::virtio::console::{Console, ConsoleSize};
use stockade_devices::virtio::net::{
    self, Address, Given, Header, Net, NetOptions, Taken, Telling,
};
use stockade_devices::virtio::queue::total;
use stockade_devices::virtio::rng::{Entropy, NoEntropy, Rng};
use stockade_devices::virtio::{Features, QueueConfig, VirtioDevice};

use crate::Input;

const RAM: usize = 0x1_0000;
const QUEUES: usize = 3;
const QUEUE_SIZE: u16 = 16;
const SECTORS: u64 = 100;
const DEPTH: usize = 5;
/// Bytes of a step: all have as many, so that a change of one leaves the others what they are.
const STEP: usize = 32;

/// Returns where the parts of a queue lie: a page each, whatever the ring.
fn config(queue: u64) -> QueueConfig {
    let base = 0x1000 * (queue + 1);
    QueueConfig {
        size: QUEUE_SIZE,
        descriptors: Gpa(base),
        driver: Gpa(base + 0x400),
        device: Gpa(base + 0x800),
    }
}

/// A driver that does not keep its promises.
struct Driver<'a> {
    memory: FakeMemory,
    features: Features,
    available: [u16; QUEUES],
    steps: Input<'a>,
    /// What is left of the current step.
    input: Input<'a>,
}

impl Driver<'_> {
    /// Begins the next step and returns its kind.
    fn next(&mut self) -> Option<u8> {
        if self.steps.is_empty() {
            return None;
        }
        self.input = Input::new(self.steps.bytes(STEP));
        Some(self.input.u8())
    }

    fn put(&self, gpa: u64, bytes: &[u8]) {
        // What falls outside RAM is nobody's.
        let _ = self.memory.write(Gpa(gpa), bytes);
    }

    /// Writes a descriptor; addresses are mostly in RAM.
    fn describe(&mut self) {
        let (queue, index) = (self.input.u8(), self.input.u8());
        let high = u64::from(self.input.u8());
        let gpa = u64::from(self.input.u16()) | if high == 0xFF { high << 40 } else { 0 };
        let mut bytes = gpa.to_le_bytes().to_vec();
        bytes.extend(u32::from(self.input.u16()).to_le_bytes());
        bytes.extend(self.input.array::<4>());
        // Beyond the third ring begin tables and data.
        let at = 0x1000 * (1 + u64::from(queue % 5)) + 16 * u64::from(index % 32);
        self.put(at, &bytes);
    }

    /// Makes a chain of a split ring available.
    fn offer(&mut self) {
        let (queue, head) = (self.input.below(3), self.input.u16());
        let Some(available) = self.available.get_mut(queue) else {
            return;
        };
        let slot = u64::from(*available % QUEUE_SIZE);
        *available = available.wrapping_add(1);
        let (index, driver) = (*available, config(queue as u64).driver.0);
        self.put(driver + 4 + 2 * slot, &head.to_le_bytes());
        self.put(driver + 2, &index.to_le_bytes());
    }

    fn scribble(&mut self) {
        let at = u64::from(self.input.u16());
        let len = self.input.below(STEP);
        let bytes = self.input.bytes(len).to_vec();
        self.put(at, &bytes);
    }

    /// Starts the device, now and then with a queue that is somewhere else.
    fn start(&mut self, device: &mut dyn VirtioDevice) {
        device.reset();
        self.available = [0; QUEUES];
        self.put(0x1000, &[0; 0x3000]);
        let chosen = Features::from_bits_retain(self.input.u64()) & device.device_features();
        let wanted = self.features | Features::VERSION_1 | chosen;
        if device.negotiate(wanted).is_err() && device.negotiate(Features::VERSION_1).is_err() {
            unreachable!("VERSION_1 alone is enough");
        }
        let mut queues = [0, 1, 2].map(|queue| Some(config(queue)));
        if self.input.u8() == 0xFF {
            queues[self.input.below(3)] = self.input.bool().then(|| QueueConfig {
                size: self.input.u16() & 0x1F,
                descriptors: Gpa(self.input.u64()),
                driver: Gpa(self.input.u16().into()),
                device: Gpa(self.input.u16().into()),
            });
        }
        device.activate(&queues, &self.memory);
    }

    /// A step of the driver or of the transport.
    fn step(&mut self, kind: u8, device: &mut dyn VirtioDevice) {
        match kind % 16 {
            0..=4 => self.describe(),
            5..=7 => self.offer(),
            8 => self.scribble(),
            9..=11 => {
                let _ = device.notify(u16::from(self.input.u8() & 3), &self.memory);
            }
            12 => {
                let _ = device.work(&self.memory);
            }
            13 => {
                let mut bytes = self.input.array::<4>();
                device.write_config(u32::from(bytes[0]), &bytes[1..2]);
                device.read_config(u32::from(bytes[0]), &mut bytes);
            }
            14 => {
                let is_broken = device.needs_reset();
                let interrupts = device.take_interrupts(&self.memory);
                assert!(interrupts.queues >> QUEUES == 0);
                assert!(!is_broken || interrupts.queues == 0);
            }
            _ if kind == 0xFF => self.start(device),
            _ => {}
        }
    }
}

/// Drives one of the front-ends.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, choice) = (input.u8(), input.u8());
    let mut features = Features::INDIRECT_DESC;
    features.set(Features::RING_PACKED, choice & 1 != 0);
    features.set(Features::EVENT_IDX, choice & 2 != 0);
    features.set(Features::INDIRECT_DESC, choice & 4 == 0);
    let driver = Driver {
        memory: FakeMemory::new(RAM),
        features,
        available: [0; QUEUES],
        input: input.clone(),
        steps: input,
    };
    match kind % 4 {
        0 => blk(driver),
        1 => net(driver),
        2 => console(driver),
        _ => rng(driver),
    }
}

fn blk(mut driver: Driver<'_>) {
    let mut blk = Blk::new(BlkOptions {
        sectors: SECTORS,
        discard: Some(RangeLimits {
            max_sectors: 64,
            alignment: 8,
        }),
        write_zeroes: Some(ZeroLimits {
            max_sectors: 64,
            may_unmap: true,
        }),
        queues: 3,
        queue_size: QUEUE_SIZE,
        depth: 5,
        seg_max: 6,
        ..BlkOptions::default()
    });
    let mut with_engine: Vec<Token> = Vec::new();
    let _ = driver.next();
    driver.start(&mut blk);
    while let Some(kind) = driver.next() {
        driver.step(kind, &mut blk);
        if kind & 0x10 != 0
            && let Next::Request(token) = blk.next(&driver.memory)
        {
            assert!(!with_engine.iter().any(|t| t.slot() == token.slot()));
            check_request(&blk, token, &driver.memory);
            with_engine.push(token);
        }
        if kind & 0x20 != 0 && !with_engine.is_empty() {
            let choice = driver.input.below(with_engine.len());
            let token = with_engine.swap_remove(choice);
            let status = driver.input.pick(&[Status::Ok, Status::IoError]);
            blk.complete(&driver.memory, token, status);
            blk.complete(&driver.memory, token, Status::Unsupported);
        }
        if kind & 0xC0 == 0xC0 && with_engine.is_empty() && blk.in_flight() == 0 {
            let state = blk.save();
            assert_eq!(blk.restore(&state, &driver.memory), Ok(()));
            assert_eq!(blk.save(), state);
        }
        assert_eq!(blk.in_flight(), with_engine.len());
        assert!(blk.in_flight() <= DEPTH);
    }
}

fn check_request(blk: &Blk, token: Token, memory: &FakeMemory) {
    let Some(request) = blk.request(token) else {
        unreachable!("the engine just got it");
    };
    let pieces: Vec<_> = request.pieces(0, u64::MAX).collect();
    assert_eq!(total(&pieces), request.data_len());
    assert!(pieces.len() <= 8);
    for piece in pieces {
        assert!(memory.is_ram_range(piece.gpa, piece.len.into()));
    }
    let end = |sector: u64| sector + request.data_len() / 512;
    let mut buffer = vec![0x5A; 0x1000];
    match request.kind() {
        Kind::Read { sector } => {
            assert!(request.data_len() > 0 && end(sector) <= SECTORS);
            assert!(request.write_data(memory, 3, &buffer).is_ok());
        }
        Kind::Write { sector, .. } => {
            assert!(request.data_len() > 0 && end(sector) <= SECTORS);
            assert!(request.read_data(memory, 3, &mut buffer).is_ok());
        }
        Kind::Flush => assert_eq!(request.data_len(), 0),
        Kind::Discard | Kind::WriteZeroes { .. } => {
            assert!(!request.ranges().is_empty());
            for range in request.ranges() {
                assert!(range.count > 0 && range.sector + u64::from(range.count) <= SECTORS);
            }
        }
    }
}

fn net(mut driver: Driver<'_>) {
    let mut net = Net::new(NetOptions {
        address: Address([2, 0, 0, 0, 0, 1]),
        mtu: None,
        offloads: net::features::RECEIVE_OFFLOADS | net::features::TRANSMIT_OFFLOADS,
    });
    let _ = driver.next();
    driver.start(&mut net);
    while let Some(kind) = driver.next() {
        driver.step(kind, &mut net);
        let mut frame = [0; 2000];
        if kind & 0x10 != 0
            && let Taken::Frame { header, len } = net.take_frame(&driver.memory, &mut frame)
        {
            assert!((14..=frame.len()).contains(&len));
            let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
            assert!(header.flags & 1 == 0 || end <= len);
        }
        if kind & 0x20 != 0 {
            let header = Header::from_bytes(driver.input.array());
            let len = usize::from(driver.input.u16()) % frame.len();
            let given = net.give_frame(&driver.memory, header, &frame[..len]);
            assert!(given != Given::Delivered || len >= 14);
        }
        if kind & 0x0C == 0x0C {
            let telling = [Telling::Now, Telling::Later][usize::from(kind & 1)];
            net.tell_of_sent(&driver.memory, telling);
        }
        if kind & 0xC0 == 0xC0 {
            let state = net.save();
            assert_eq!(net.restore(&state, &driver.memory), Ok(()));
            assert_eq!(net.save(), state);
        }
    }
}

fn console(mut driver: Driver<'_>) {
    let size = ConsoleSize {
        columns: 80,
        rows: 25,
    };
    let mut console = Console::new(size);
    let _ = driver.next();
    driver.start(&mut console);
    while let Some(kind) = driver.next() {
        driver.step(kind, &mut console);
        let mut buffer = [0; 100];
        let len = usize::from(kind);
        let part = buffer.get_mut(..len).unwrap_or(&mut []);
        if kind & 0x10 != 0 {
            assert!(console.take_output(&driver.memory, part) <= len);
        }
        if kind & 0x20 != 0 {
            assert!(console.push_input(&driver.memory, part) <= len);
        }
        if kind & 0xC0 == 0xC0 {
            let state = console.save();
            assert_eq!(console.restore(&state, &driver.memory), Ok(()));
            assert_eq!(console.save(), state);
        }
    }
}

struct Sevens;

impl Entropy for Sevens {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        buffer.fill(7);
        Ok(())
    }
}

fn rng(mut driver: Driver<'_>) {
    let mut rng = Rng::new(Sevens);
    let _ = driver.next();
    driver.start(&mut rng);
    while let Some(kind) = driver.next() {
        driver.step(kind, &mut rng);
        if kind & 0xC0 == 0xC0 {
            let state = rng.save();
            assert_eq!(rng.restore(&state, &driver.memory), Ok(()));
            assert_eq!(rng.save(), state);
        }
    }
}

/// Steps of a driver that keeps the rules.
struct Script(Vec<u8>);

impl Script {
    fn new(kind: u8, choice: u8, features: u64) -> Self {
        Self(vec![kind, choice]).step(0, &features.to_le_bytes())
    }

    fn step(mut self, kind: u8, arguments: &[u8]) -> Self {
        self.0.push(kind);
        self.0.extend(arguments);
        self.0.resize(self.0.len() + STEP - 1 - arguments.len(), 0);
        self
    }

    fn descriptor(self, queue: u8, index: u8, gpa: u16, len: u16, words: [u16; 2]) -> Self {
        let mut arguments = vec![queue, index, 0];
        for word in [gpa, len, words[0], words[1]] {
            arguments.extend(word.to_le_bytes());
        }
        self.step(0, &arguments)
    }

    fn scribble(self, gpa: u16, bytes: &[u8]) -> Self {
        let mut arguments = gpa.to_le_bytes().to_vec();
        arguments.extend(u8::try_from(bytes.len()));
        arguments.extend(bytes);
        self.step(8, &arguments)
    }
}

/// A request with header at 0x8000, data at 0x9000 and status at 0xF000, in a ring of either kind.
fn request(choice: u8, kind: u8, data: u16, data_flags: u16) -> Vec<u8> {
    let words = |flags: u16, next: u16| match choice & 1 {
        0 => [flags, next],
        _ => [5, flags | 0x80],
    };
    let script = Script::new(0, choice, u64::MAX)
        .scribble(0x8000, &[kind, 0, 0, 0, 0, 0, 0, 0, 1])
        .scribble(0x9000, &[1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0])
        .descriptor(0, 2, 0xF000, 1, words(2, 0))
        .descriptor(0, 1, 0x9000, data, words(1 | data_flags, 2))
        .descriptor(0, 0, 0x8000, 16, words(1, 1));
    let script = match choice & 1 {
        0 => script.step(5, &[0, 0, 0]),
        _ => script,
    };
    script.step(0x1C, &[]).step(0x2C, &[0, 0]).step(0x0E, &[]).0
}

/// One buffer of each queue, through a table in a page of its own, and what a device does with it.
fn table(device: u8, choice: u8) -> Vec<u8> {
    let mut script = Script::new(device, choice, u64::MAX).scribble(0x8000, &[0, 0, 1]);
    for (queue, flags) in [(0, 2), (1, 0), (2, 1)] {
        let first = 8 * queue;
        let (ring, inner) = match choice & 1 {
            0 => ([4, 0], [flags, u16::from(first) + 1]),
            _ => ([1, 4 | 0x80], [0, flags]),
        };
        let ack = if choice & 1 == 0 { [2, 0] } else { [0, 2] };
        let at = 0x4000 + 16 * u16::from(first);
        let len = if queue == 2 { 32 } else { 16 };
        script = script
            .descriptor(3, first, 0x8000, 200, inner)
            .descriptor(3, first + 1, 0xF000, 1, ack)
            .descriptor(queue, 0, at, len, ring)
            .step(5, &[queue, 0, 0])
            .step(9, &[queue]);
    }
    let mut given = vec![0; 12];
    given.extend([100, 0]);
    script.step(0x1C, &[]).step(0x2C, &given).step(0xCC, &[]).0
}

/// Every kind of block request and every device, in rings of every kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for choice in 0..4 {
        seeds.push(request(choice, 0, 512, 2));
        seeds.push(request(choice, 1, 1024, 0));
        seeds.push(request(choice, 4, 1, 2));
        seeds.push(request(choice, 8, 20, 2));
        seeds.push(request(choice, 11, 16, 0));
        seeds.push(request(choice, 13, 16, 0));
        for device in 0..4 {
            seeds.push(table(device, choice));
        }
    }
    seeds
}
