//! Saved states of the virtio front-ends, as anybody could have written them, over rings of any bytes.
//!
//! A state that is taken is saved again as it is, and the device then goes on like any other.

use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_devices::virtio::blk::{
    Blk, BlkOptions, BlkState, Kind, Next, Range, RangeLimits, RequestState, Status,
};
use stockade_devices::virtio::console::{Console, ConsoleSize, ConsoleState};
use stockade_devices::virtio::net::{
    Address, AddressTable, FilterState, Header, Net, NetOptions, NetState, TABLE_SIZE, features,
};
use stockade_devices::virtio::queue::{
    ChainState, Head, PackedState, Position, QueueState, RingState, Segment, SplitState,
};
use stockade_devices::virtio::{Features, LinkState, QueueConfig, Violation, VirtioDevice};

use crate::Input;

const RAM: usize = 0x1_0000;
const SECTORS: u64 = 100;

/// Restores one front-end's state and lets it go on.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = FakeMemory::new(RAM);
    let kind = input.u8();
    let scribbled = input.bytes(64);
    assert_eq!(memory.write(Gpa(0x1000), scribbled), Ok(()));
    match kind % 3 {
        0 => blk(&mut input, &memory),
        1 => net(&mut input, &memory),
        _ => console(&mut input, &memory),
    }
}

fn link(input: &mut Input<'_>) -> LinkState {
    let choice = input.u8();
    let mut features = Features::VERSION_1 | Features::INDIRECT_DESC;
    features.set(Features::RING_PACKED, choice & 1 != 0);
    features.set(Features::EVENT_IDX, choice & 2 != 0);
    features |= Features::from_bits_retain(input.u64());
    LinkState {
        features,
        is_active: choice & 4 == 0,
        violation: (choice & 8 != 0).then_some(Violation::ShortRequest),
        config_generation: input.u8(),
        is_config_due: choice & 16 != 0,
    }
}

fn queue(input: &mut Input<'_>, link: &LinkState, place: u64) -> Option<QueueState> {
    let choice = input.u8();
    let base = 0x1000 * (place + 1);
    let mut config = QueueConfig {
        size: 16,
        descriptors: Gpa(base),
        driver: Gpa(base + 0x400),
        device: Gpa(base + 0x800),
    };
    if choice & 1 != 0 {
        config.size = input.u16();
        config.driver = Gpa(input.u32().into());
    }
    let mut position = || Position {
        index: input.u8().into(),
        wrap: input.bool(),
    };
    let ring = if link.features.contains(Features::RING_PACKED) {
        RingState::Packed(PackedState {
            popped: position(),
            used: position(),
            in_flight: input.u8().into(),
            unsignalled: input.u16(),
        })
    } else {
        let popped = input.u16();
        RingState::Split(SplitState {
            popped,
            available: popped.wrapping_add(input.u8().into()),
            used: popped.wrapping_sub(input.u8().into()),
            signalled: input.u16(),
        })
    };
    (choice & 2 == 0).then_some(QueueState {
        version: 1,
        config,
        ring,
        is_listening: choice & 4 != 0,
    })
}

fn head(input: &mut Input<'_>) -> Head {
    Head {
        id: input.u16(),
        descriptors: u16::from(input.u8()),
    }
}

fn segments(input: &mut Input<'_>) -> Vec<Segment> {
    (0..input.u8() & 15)
        .map(|_| Segment {
            gpa: Gpa(input.u64() >> (input.u8() & 63)),
            len: input.u32() >> (input.u8() & 31),
        })
        .collect()
}

fn request(input: &mut Input<'_>) -> RequestState {
    let sector = u64::from(input.u8());
    let kind = match input.u8() % 5 {
        0 => Kind::Read { sector },
        1 => Kind::Write {
            sector,
            is_through: input.bool(),
        },
        2 => Kind::Flush,
        3 => Kind::Discard,
        _ => Kind::WriteZeroes {
            may_unmap: input.bool(),
            is_through: input.bool(),
        },
    };
    let ranges = (0..input.u8() & 31)
        .map(|_| Range {
            sector: input.u8().into(),
            count: input.u8().into(),
        })
        .collect();
    RequestState {
        queue: u16::from(input.u8() & 1),
        head: head(input),
        status_gpa: Gpa(input.u64() >> (input.u8() & 63)),
        before_status: u64::from(input.u32()),
        kind,
        segments: segments(input),
        ranges,
    }
}

fn blk(input: &mut Input<'_>, memory: &FakeMemory) {
    let link = link(input);
    let state = BlkState {
        version: 1,
        is_writeback: input.bool(),
        sectors: SECTORS,
        turn: input.u8().into(),
        queues: vec![queue(input, &link, 0), queue(input, &link, 1)],
        requests: (0..input.u8() & 7).map(|_| request(input)).collect(),
        link,
    };
    let mut blk = Blk::new(BlkOptions {
        queues: 2,
        depth: 5,
        seg_max: 8,
        discard: Some(RangeLimits {
            max_sectors: 8,
            alignment: 1,
        }),
        ..BlkOptions::default()
    });
    if blk.restore(&state, memory).is_err() {
        return;
    }
    let saved = blk.save();
    assert_eq!(blk.restore(&saved, memory), Ok(()));
    assert_eq!(blk.save(), saved);
    for _ in 0..8 {
        if let Next::Request(token) = blk.next(memory) {
            if let Some(request) = blk.request(token) {
                let _ = request.write_data(memory, 0, &[0xFF; 700]);
                let _ = request.read_data(memory, 600, &mut [0; 700]);
                let _ = request.pieces(0, u64::MAX).count();
            }
            blk.complete(memory, token, input.pick(&[Status::Ok, Status::IoError]));
        }
    }
    go_on(&mut blk, input, memory);
}

fn net(input: &mut Input<'_>, memory: &FakeMemory) {
    let link = link(input);
    let mut table = || AddressTable {
        addresses: [Address(input.array()); TABLE_SIZE],
        len: usize::from(input.u8()),
        is_overfull: input.bool(),
    };
    let (singles, groups) = (table(), table());
    let state = NetState {
        version: 1,
        address: Address(input.array()),
        is_connected: input.bool(),
        filter: FilterState {
            is_promiscuous: input.bool(),
            has_all_groups: input.bool(),
            has_all_singles: input.bool(),
            has_no_groups: input.bool(),
            has_no_singles: input.bool(),
            has_no_broadcasts: input.bool(),
            singles,
            groups,
        },
        offloads: Features::from_bits_retain(input.u64()),
        queues: [0, 1, 2].map(|place| queue(input, &link, place)),
        link,
    };
    let mut net = Net::new(NetOptions {
        address: Address([2; 6]),
        mtu: None,
        offloads: features::RECEIVE_OFFLOADS,
    });
    if net.restore(&state, memory).is_err() {
        return;
    }
    let saved = net.save();
    assert_eq!(net.restore(&saved, memory), Ok(()));
    assert_eq!(net.save(), saved);
    let _ = net.take_frame(memory, &mut [0; 600]);
    let _ = net.give_frame(memory, Header::from_bytes(input.array()), &[2; 200]);
    go_on(&mut net, input, memory);
}

fn console(input: &mut Input<'_>, memory: &FakeMemory) {
    let link = link(input);
    let size = ConsoleSize {
        columns: input.u16(),
        rows: input.u16(),
    };
    let open = input.bool().then(|| {
        let chain = ChainState {
            head: head(input),
            segments: segments(input),
            readable: input.u8().into(),
        };
        (chain, u64::from(input.u32()))
    });
    let state = ConsoleState {
        version: 1,
        size,
        queues: [0, 1].map(|place| queue(input, &link, place)),
        open,
        link,
    };
    let mut console = Console::new(size);
    if console.restore(&state, memory).is_err() {
        return;
    }
    let saved = console.save();
    assert_eq!(console.restore(&saved, memory), Ok(()));
    assert_eq!(console.save(), saved);
    let _ = console.take_output(memory, &mut [0; 300]);
    let _ = console.push_input(memory, &[b'x'; 300]);
    go_on(&mut console, input, memory);
}

/// What a transport does then.
fn go_on(device: &mut dyn VirtioDevice, input: &mut Input<'_>, memory: &FakeMemory) {
    let _ = device.notify(input.u8().into(), memory);
    let _ = device.work(memory);
    let _ = device.take_interrupts(memory);
    device.read_config(input.u8().into(), &mut [0; 8]);
    device.reset();
    assert!(!device.needs_reset());
}

/// States that are taken: nothing in flight, in rings of either kind, and for a disk a request of each queue.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let start = |kind: u8, choice: u8| {
        let mut seed = vec![kind];
        seed.resize(1 + 64, 0);
        seed.push(choice);
        seed.resize(seed.len() + 9, 0);
        seed
    };
    let mut seeds = Vec::new();
    for choice in 0..4 {
        for kind in 0..3 {
            let mut seed = start(kind, choice);
            seed.resize(200, 0);
            seeds.push(seed);
        }
        let mut busy = start(0, choice);
        busy.extend([1, 0]);
        for _ in 0..2 {
            // A chain popped of the start of the ring.
            match choice & 1 {
                0 => busy.extend([0, 1, 0, 0, 1, 0, 0]),
                _ => busy.extend([0, 1, 1, 0, 1, 1, 0, 0]),
            }
        }
        busy.push(2);
        for queue in 0..2 {
            // A flush: sector, kind, ranges, queue, head, status, and no data.
            busy.extend([0, 2, 0, queue, 0, 0, 1]);
            busy.extend([0, 0x80, 0, 0, 0, 0, 0, 0, 0]);
            busy.extend([0; 5]);
        }
        seeds.push(busy);
    }
    seeds
}
