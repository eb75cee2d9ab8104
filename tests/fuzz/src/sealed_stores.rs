//! Files of sealed stores: changed anywhere, and with payloads of any content under authentic tags.

use std::sync::LazyLock;

use stockade_storage::store::format::{Area, EntryKind, Header, Part, Sealer};
use stockade_storage::{BLOCK_BYTES, SealedStore, StoreKey, StoreState, StoreTrust, Work};
use zerocopy::IntoBytes;

use crate::Input;
use crate::sealed_host::{File, Ram};

const AREA: u32 = 4;
const IDENTITY: [u8; 16] = [7; 16];
const SLOTS: u16 = 2;
/// A store is at rest after so many steps.
const MOST_STEPS: usize = 1000;
const VALUES: [&[u8]; 3] = [b"", b"one", b"two"];

/// A store with a record that was changed twice.
static STORE: LazyLock<File> = LazyLock::new(|| {
    let mut file = File::default();
    file.blocks.insert(0, header().to_block());
    let mut ram = Ram::new(SLOTS);
    let mut store = open(&mut file, &mut ram, StoreTrust::Nothing);
    for value in VALUES {
        let _ = store.put(b"name", value);
        rest(&mut store, &mut file, &mut ram);
    }
    file
});

/// Opens a changed store. Its record has a value it once had; what is put is there when the store is opened again.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut file = STORE.clone();
    let is_forged = input.bool();
    if is_forged {
        forge(&mut file, &mut input);
    } else {
        change(&mut file, &mut input);
    }
    let trust = if input.bool() {
        StoreTrust::AtLeast(4)
    } else {
        StoreTrust::Nothing
    };
    let mut ram = Ram::new(SLOTS);
    let mut store = open(&mut file, &mut ram, trust);
    let is_open = matches!(store.state(), StoreState::Open(_));
    let value = store.get(b"name");
    if is_open && !is_forged {
        let last = trust == StoreTrust::AtLeast(4);
        assert!(value.is_none_or(|value| VALUES.contains(&value)));
        assert!(!last || value == Some(b"two"));
    }
    let new = input.rest();
    if store.put(b"new", new).is_err() {
        return;
    }
    rest(&mut store, &mut file, &mut ram);
    let again = open(&mut file, &mut ram, StoreTrust::Nothing);
    assert_eq!(again.get(b"new"), Some(new));
}

/// Nothing changed, a byte of each block, payloads that are lists and that are none.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let changed = |block: u8| vec![0, 1, block, 20, 0, 1, 1, 9, 9];
    let list = [
        1, 12, 1, b'a', 1, 0, 0, 0, b'x', 1, b'a', 0xFF, 0xFF, 0xFF, 0xFF,
    ];
    (0..5)
        .map(changed)
        .chain([list.to_vec(), vec![0, 0, 0, 5], vec![1, 3, 1, 2, 3]])
        .collect()
}

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

/// Begins the second area with a snapshot of any content.
fn forge(file: &mut File, input: &mut Input<'_>) {
    let mut sealer = Sealer::new(&StoreKey::new([3; 32]), &IDENTITY, &[9; 32]);
    let length = usize::from(input.u8());
    let mut payload = input.bytes(length).to_vec();
    let entry = sealer.seal(
        (EntryKind::Snapshot, Part::Last),
        100,
        [0; 16],
        &mut payload,
    );
    let mut block = [0; BLOCK_BYTES];
    let bytes = entry.as_bytes();
    block[..bytes.len()].copy_from_slice(bytes);
    block[bytes.len()..bytes.len() + payload.len()].copy_from_slice(&payload);
    file.blocks.insert(header().block(Area::Second, 0).0, block);
}

fn header() -> Header {
    Header::try_new(AREA, IDENTITY).expect("there are stores of this size")
}

fn open(file: &mut File, ram: &mut Ram, trust: StoreTrust) -> SealedStore {
    let key = StoreKey::new([3; 32]);
    let total = header().total_blocks();
    let mut store = SealedStore::new(key, [5; 32], trust, total, AREA, SLOTS);
    rest(&mut store, file, ram);
    store
}

fn rest(store: &mut SealedStore, file: &mut File, ram: &mut Ram) {
    for _ in 0..MOST_STEPS {
        let is_busy = store.work(ram) == Work::Again;
        let Some(io) = store.next_io() else {
            if is_busy {
                continue;
            }
            return;
        };
        file.transfer(&io, ram);
        assert!(store.complete(io.id, Ok(())));
        assert!(!store.complete(io.id, Ok(())), "twice");
    }
    unreachable!("the store does not come to rest");
}
