//! Files of sealed disks: changed anywhere, and with nodes of any content under authentic tags.

use std::sync::LazyLock;

use stockade_storage::disk::check::{ReadBlocks, check};
use stockade_storage::disk::entry::Entry;
use stockade_storage::disk::format::{Header, Superblock};
use stockade_storage::disk::geometry::{Geometry, Home, NodeNumber};
use stockade_storage::disk::seals::Seals;
use stockade_storage::{
    Anchor, BLOCK_BYTES, Config, DiskKey, HostBlock, HostError, Kind, Request, SealedDisk, State,
    Token, Trust, Work,
};

use crate::Input;
use crate::sealed_host::{Block, File, Ram};

const LOGICAL: u64 = 300;
const IDENTITY: [u8; 16] = [7; 16];
/// A disk that is asked for something is done after so many steps.
const MOST_STEPS: usize = 20_000;
const CONFIG: Config = Config {
    requests: 2,
    transfers: 4,
    slots: 8,
    cache_nodes: 24,
    given_up: 64,
    access: stockade_storage::Access::ReadWrite,
    anchoring: stockade_storage::Anchoring::Strict,
};

/// A disk with ones in its first two blocks and twos in block 200, and its anchor.
static DISK: LazyLock<(File, Option<Anchor>)> = LazyLock::new(|| {
    let mut file = File::default();
    file.blocks.insert(0, header().to_block());
    let mut guest = Guest::open(file, Trust::FirstUse, &mut Input::new(&[]));
    guest.request(Kind::Write, 0, vec![1; 2 * BLOCK_BYTES]);
    guest.request(Kind::Write, 1600, vec![2; BLOCK_BYTES]);
    guest.request(Kind::Flush, 0, Vec::new());
    (guest.file, guest.anchor)
});

/// Opens a changed disk, reads and writes it. What is read without an error is what was written.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut file, anchor) = DISK.clone();
    let is_forged = input.bool();
    if is_forged {
        forge(&mut file, &mut input);
    } else {
        change(&mut file, &mut input);
    }
    let total = geometry().total_blocks();
    let _ = check(&mut Reader(&file), &key(), total);
    let trust = match anchor {
        Some(anchor) if !is_forged => Trust::Anchored(anchor),
        _ => Trust::FirstUse,
    };
    let mut guest = Guest::open(file, trust, &mut input);
    let mut expected: Vec<(u64, u8)> = vec![(0, 1), (8, 1), (1600, 2), (80, 0)];
    while !input.is_empty() {
        let (sector, byte) = &mut expected[input.below(4)];
        let new = input.u8();
        match input.below(3) {
            0 => {
                let read = guest.request(Kind::Read, *sector, vec![0xDD; BLOCK_BYTES]);
                assert!(read.is_none_or(|data| is_forged || data == [*byte; BLOCK_BYTES]));
            }
            1 => {
                if guest
                    .request(Kind::Write, *sector, vec![new; BLOCK_BYTES])
                    .is_some()
                {
                    *byte = new;
                }
            }
            _ => {
                guest.request(Kind::Flush, 0, Vec::new());
            }
        }
    }
}

/// Files with nothing changed, a byte of each kind of block, and nodes of ours.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let requests = [0, 9, 0, 1, 9, 1, 2, 9, 2, 2, 9, 0];
    let changed = |block: u8| {
        let mut seed = vec![0, 1, block, 5, 0, 1];
        seed.extend(requests);
        seed
    };
    let leaf = [1, 0, 4, 1, 0, 0, 0, 1, 0, 2, 0, 0, 0];
    (0..8)
        .map(changed)
        .chain([
            leaf.to_vec(),
            vec![0, 0],
            vec![1, 1, 2, 0xFF, 0xFF, 0xFF, 0xFF],
        ])
        .collect()
}

/// Changes some bytes of the file.
fn change(file: &mut File, input: &mut Input<'_>) {
    for _ in 0..input.below(8) {
        let blocks: Vec<u64> = file.blocks.keys().copied().collect();
        let block = input.pick(&blocks);
        let offset = usize::from(input.u16()) % BLOCK_BYTES;
        if let Some(byte) = file.blocks.get_mut(&block).map(|block| &mut block[offset]) {
            *byte ^= input.u8();
        }
    }
}

/// Gives a node any content, and makes it and all above it authentic.
fn forge(file: &mut File, input: &mut Input<'_>) {
    let (header, geometry) = (header(), geometry());
    let mut seals = Seals::new(&key(), &IDENTITY, &[9; 32]);
    let mut number = NodeNumber(input.u32() % (geometry.top().0 + 1));
    let mut node: Block = file.read(geometry.home(number, Home::First).0);
    for _ in 0..input.below(9) {
        let place = input.below(128);
        let mut entry = Entry::read(&node, place);
        entry.location = input.u32().into();
        entry.write(&mut node, place);
    }
    loop {
        let seal = seals.seal_node(&node);
        file.blocks
            .insert(geometry.home(number, Home::First).0, node);
        let entry = Entry::of_node(Home::First, seal);
        let Some(parent) = geometry.parent(number) else {
            let superblock = Superblock::new(&seals, &header, 9, entry, input.u32());
            let mut block = [0; BLOCK_BYTES];
            superblock.write(&mut block);
            file.blocks.insert(superblock.place().0, block);
            return;
        };
        node = file.read(geometry.home(parent, Home::First).0);
        let place = geometry.node(number).index % 128;
        entry.write(&mut node, usize::try_from(place).unwrap_or(0));
        number = parent;
    }
}

fn key() -> DiskKey {
    DiskKey::new([3; 32])
}

fn geometry() -> Geometry {
    Geometry::try_new(LOGICAL).expect("there are disks of this size")
}

fn header() -> Header {
    Header::new(&geometry(), IDENTITY)
}

struct Guest {
    disk: SealedDisk,
    file: File,
    ram: Ram,
    anchor: Option<Anchor>,
    /// One transfer in so many fails; 0: none.
    fails: usize,
    transfers: usize,
}

impl Guest {
    fn open(file: File, trust: Trust, input: &mut Input<'_>) -> Self {
        let total = geometry().total_blocks();
        let disk = SealedDisk::new(key(), [5; 32], trust, total, CONFIG);
        let mut guest = Self {
            disk: disk.expect("the configuration is large enough"),
            file,
            ram: Ram::new(CONFIG.slots),
            anchor: None,
            fails: input.below(32),
            transfers: 0,
        };
        guest.rest();
        guest
    }

    /// Runs until nothing is left to do, which comes.
    fn rest(&mut self) {
        for _ in 0..MOST_STEPS {
            let is_busy = self.disk.work(&mut self.ram) == Work::Again;
            while self.disk.next_event().is_some() {}
            if let Some(anchor) = self.disk.next_anchor() {
                self.anchor = Some(anchor);
                self.disk.anchored(anchor.generation);
                continue;
            }
            let Some(io) = self.disk.next_io() else {
                if is_busy {
                    continue;
                }
                return;
            };
            self.transfers += 1;
            self.file.transfer(&io, &mut self.ram);
            let fails = self.fails > 4 && self.transfers.is_multiple_of(self.fails);
            let result = if fails { Err(HostError) } else { Ok(()) };
            assert!(self.disk.complete(io.id, result));
            assert!(!self.disk.complete(io.id, result), "twice");
        }
        unreachable!("the disk does not come to rest");
    }

    /// Returns the buffer if the request succeeds.
    fn request(&mut self, kind: Kind, sector: u64, buffer: Vec<u8>) -> Option<Vec<u8>> {
        if !matches!(self.disk.state(), State::Open(_) | State::Offline) {
            return None;
        }
        let sectors = buffer.len() as u64 / 512;
        self.ram.buffer = buffer;
        let request = Request {
            token: Token(1),
            kind,
            sector,
            sectors,
        };
        self.disk.submit(request).ok()?;
        self.rest();
        let completion = self.disk.next_completion();
        let completion = completion.expect("every request is completed");
        completion
            .result
            .ok()
            .map(|()| std::mem::take(&mut self.ram.buffer))
    }
}

struct Reader<'a>(&'a File);

impl ReadBlocks for Reader<'_> {
    type Error = ();

    fn read(&mut self, block: HostBlock, into: &mut Block) -> Result<(), ()> {
        *into = self.0.read(block.0);
        Ok(())
    }
}
