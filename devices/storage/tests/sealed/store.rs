//! The sealed store: records survive, power cuts cost at most what was not durable, and what a host does to the file is noticed.

use std::collections::BTreeMap;

use stockade_storage::store::format::{Header, payload_room};
use stockade_storage::{
    BLOCK_BYTES, HostError, HostOp, SealedStore, StoreError, StoreFault, StoreFreshness, StoreKey,
    StoreState, StoreTrust, Work,
};

use crate::rig::{Dice, Host, Ram};

const AREA: u32 = 6;

struct Rig {
    store: SealedStore,
    host: Host,
    ram: Ram,
    power: Option<u64>,
    fails: bool,
}

fn empty() -> Host {
    let mut host = Host::default();
    let header = Header::try_new(AREA, [5; 16]).unwrap();
    host.blocks.insert(0, header.to_block());
    host
}

impl Rig {
    fn open(host: Host, trust: StoreTrust, seed: u8) -> Self {
        Self::with(host, trust, seed, 1 + 2 * u64::from(AREA), 3)
    }

    fn with(host: Host, trust: StoreTrust, seed: u8, blocks: u64, slots: u16) -> Self {
        let key = StoreKey::new([1; 32]);
        let mut rig = Self {
            store: SealedStore::new(key, [seed; 32], trust, blocks, AREA, slots),
            host,
            ram: Ram {
                slots: vec![[0xEE; BLOCK_BYTES]; usize::from(slots)],
                ..Ram::default()
            },
            power: None,
            fails: false,
        };
        rig.run();
        rig
    }

    /// Runs until nothing is left to do, or the power goes.
    fn run(&mut self) {
        loop {
            let is_busy = self.store.work(&mut self.ram) == Work::Again;
            let Some(io) = self.store.next_io() else {
                if is_busy {
                    continue;
                }
                return;
            };
            let has_power = |power| self.host.writes + io.slots().len() as u64 <= power;
            if io.op == HostOp::Write && !self.power.is_none_or(has_power) {
                // Part of this write may still arrive.
                self.host.begin(&io, &self.ram);
                return;
            }
            self.host.begin(&io, &self.ram);
            self.host.end(&io, &mut self.ram);
            let result = if self.fails { Err(HostError) } else { Ok(()) };
            assert!(self.store.complete(io.id, result));
        }
    }

    fn put(&mut self, name: &[u8], value: &[u8]) {
        self.store.put(name, value).unwrap();
        self.run();
    }

    fn records(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let records = self.store.iter();
        records
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect()
    }
}

#[test]
fn records_are_there_when_the_store_is_opened_again() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    assert_eq!(rig.store.state(), StoreState::Open(StoreFreshness::Created));
    rig.put(b"disk/0", b"generation 1");
    rig.put(b"disk/1", &[7; 5000]);
    rig.put(b"disk/0", b"generation 2");
    rig.store.remove(b"disk/1").unwrap();
    rig.put(b"empty", b"");
    let again = Rig::open(rig.host, StoreTrust::AtLeast(5), 2);
    assert_eq!(
        again.store.state(),
        StoreState::Open(StoreFreshness::Verified)
    );
    assert_eq!(again.store.get(b"disk/0"), Some(&b"generation 2"[..]));
    assert_eq!(again.store.get(b"disk/1"), None);
    assert_eq!(again.store.get(b"empty"), Some(&b""[..]));
}

#[test]
fn a_change_is_durable_after_a_flush_and_changes_that_wait_share_one() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    let first = rig.store.put(b"a", b"1").unwrap();
    let second = rig.store.put(b"b", b"2").unwrap();
    assert!(rig.store.durable() < first);
    rig.run();
    assert!(rig.store.durable() >= second);
    // One for the snapshot of nothing that begins a store.
    assert_eq!(rig.host.flushes, 2);
}

#[test]
fn the_log_can_be_written_for_ever() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    for round in 0..100_u8 {
        rig.put(&[b'a' + round % 7], &vec![round; usize::from(round) * 20]);
    }
    let records = rig.records();
    assert_eq!(records.len(), 7);
    let again = Rig::open(rig.host, StoreTrust::Nothing, 2);
    assert_eq!(again.records(), records);
    assert_eq!(again.store.sequence(), Some(101));
}

#[test]
fn a_full_store_says_so_and_keeps_what_it_has() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    let room = payload_room(AREA as usize);
    rig.put(b"a", &vec![1; room - 6]);
    assert_eq!(rig.store.put(b"b", b""), Err(StoreError::Full));
    assert_eq!(rig.store.put(b"", b""), Err(StoreError::Name));
    rig.put(b"a", b"small");
    rig.put(b"b", b"");
    let again = Rig::open(rig.host, StoreTrust::Nothing, 2);
    assert_eq!(again.records().len(), 2);
}

/// The steps are what a vCPU does in one go: they must not grow with the record.
#[test]
fn a_long_record_goes_in_fragments_and_its_end_after_a_flush_of_the_others() {
    let mut rig = Rig::with(empty(), StoreTrust::Nothing, 1, 1 + 2 * u64::from(AREA), 32);
    rig.store.put(b"a", &[7; 20_000]).unwrap();
    let mut transfers = Vec::new();
    while rig.store.durable().0 == 0 {
        rig.store.work(&mut rig.ram);
        if let Some(io) = rig.store.next_io() {
            transfers.push((io.op, io.slots().len()));
            rig.host.begin(&io, &rig.ram);
            rig.host.end(&io, &mut rig.ram);
            rig.store.complete(io.id, Ok(()));
        }
    }
    let (write, flush) = (HostOp::Write, (HostOp::Flush, 0));
    assert_eq!(transfers, [(write, 4), flush, (write, 1), flush]);
    let again = Rig::open(rig.host, StoreTrust::Nothing, 2);
    assert_eq!(again.store.get(b"a"), Some(&[7; 20_000][..]));
}

#[test]
fn a_failed_write_takes_the_store_offline_and_leaves_it_readable() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    rig.put(b"a", b"1");
    rig.fails = true;
    rig.put(b"a", b"2");
    assert_eq!(rig.store.state(), StoreState::Offline);
    assert_eq!(rig.store.put(b"a", b"3"), Err(StoreError::Closed));
    assert_eq!(rig.store.get(b"a"), Some(&b"2"[..]));
}

#[test]
fn an_older_store_is_noticed_by_its_anchor_and_of_unknown_age_without() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    rig.put(b"a", b"1");
    let old = rig.host.clone();
    rig.put(b"a", b"2");
    let anchor = StoreTrust::AtLeast(rig.store.sequence().unwrap());
    let again = Rig::open(old.clone(), anchor, 2);
    let fault = StoreFault::RolledBack {
        found: 2,
        anchored: 3,
    };
    assert_eq!(again.store.state(), StoreState::Failed(fault));
    assert_eq!(
        Rig::open(old, StoreTrust::Nothing, 2).store.state(),
        StoreState::Open(StoreFreshness::Unknown)
    );
    let emptied = Rig::open(empty(), anchor, 2);
    assert!(matches!(
        emptied.store.state(),
        StoreState::Failed(StoreFault::RolledBack { .. })
    ));
}

#[test]
fn a_truncated_store_and_one_larger_than_memory_are_refused() {
    let rig = Rig::with(empty(), StoreTrust::Nothing, 1, 12, 3);
    let truncated = StoreFault::Truncated {
        found: 12,
        expected: 13,
    };
    assert_eq!(rig.store.state(), StoreState::Failed(truncated));
    let mut host = empty();
    let header = Header::try_new(AREA + 1, [5; 16]).unwrap();
    host.blocks.insert(0, header.to_block());
    let rig = Rig::with(host, StoreTrust::Nothing, 1, 100, 3);
    assert_eq!(
        rig.store.state(),
        StoreState::Failed(StoreFault::TooLarge { found: 7, most: 6 })
    );
}

/// Every bit of every entry but the last: none of the entries after it is lost unnoticed.
#[test]
fn a_changed_bit_is_noticed() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    for value in [b"one", b"two", b"six"] {
        rig.put(b"name", value);
    }
    rig.host.settle();
    for block in 1..=3 {
        let payload = if block == 1 { 0 } else { 12 };
        for bit in 0..8 * (68 + payload) {
            let mut host = rig.host.clone();
            host.blocks.get_mut(&block).unwrap()[bit / 8] ^= 1 << (bit % 8);
            let again = Rig::open(host, StoreTrust::Nothing, 2);
            let state = again.store.state();
            assert!(
                matches!(state, StoreState::Failed(StoreFault::Damaged(_))),
                "bit {bit} of {block}: {state:?}"
            );
        }
    }
}

#[test]
fn entries_swapped_left_out_or_of_another_store_are_noticed() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    for value in [b"one", b"two", b"six", b"ten"] {
        rig.put(b"name", value);
    }
    rig.host.settle();
    let open = |change: fn(&mut BTreeMap<u64, [u8; BLOCK_BYTES]>)| {
        let mut host = rig.host.clone();
        change(&mut host.blocks);
        Rig::open(host, StoreTrust::Nothing, 2).store.state()
    };
    let swapped = open(|blocks| {
        let second = blocks[&2];
        let third = blocks.insert(3, second).unwrap();
        blocks.insert(2, third);
    });
    assert!(matches!(
        swapped,
        StoreState::Failed(StoreFault::Damaged(_))
    ));
    let left_out = open(|blocks| {
        blocks.insert(2, [0; BLOCK_BYTES]);
    });
    assert!(matches!(
        left_out,
        StoreState::Failed(StoreFault::Damaged(_))
    ));
    let renamed = open(|blocks| {
        blocks.insert(0, Header::try_new(AREA, [6; 16]).unwrap().to_block());
    });
    assert_eq!(renamed, StoreState::Failed(StoreFault::NothingAuthentic));
}

/// A hundred histories with four cuts each, at every block of an entry and torn in any way.
#[test]
fn a_power_cut_costs_at_most_what_was_not_durable() {
    for case in 0..400 {
        let mut dice = Dice::new(case);
        let mut host = empty();
        let mut expected = BTreeMap::new();
        for round in 0..4 {
            let mut rig = Rig::open(host, StoreTrust::Nothing, (case * 4 + round) as u8);
            assert!(
                matches!(rig.store.state(), StoreState::Open(_)),
                "case {case}: {:?}",
                rig.store.state()
            );
            if round > 0 {
                let found = rig.records();
                let (old, new): &(BTreeMap<_, _>, BTreeMap<_, _>) = &expected_pair(&expected);
                assert!(found == *old || found == *new, "case {case}");
                expected = BTreeMap::from([(0, found)]);
            } else {
                expected = BTreeMap::from([(0, BTreeMap::new())]);
            }
            rig.power = Some(rig.host.writes + dice.below(12));
            work(&mut rig, &mut dice, &mut expected);
            host = rig.host;
            host.cut(&mut dice);
        }
    }
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// 0: what is durable; 1: with what may be.
fn expected_pair(expected: &BTreeMap<u8, Records>) -> (Records, Records) {
    let old = expected[&0].clone();
    let new = expected.get(&1).unwrap_or(&old).clone();
    (old, new)
}

fn work(rig: &mut Rig, dice: &mut Dice, expected: &mut BTreeMap<u8, Records>) {
    for step in 0..12_u8 {
        let name = vec![b'a' + dice.below(3) as u8];
        let value = vec![step; dice.below(7500) as usize];
        let mut records = expected[&0].clone();
        records.insert(name.clone(), value.clone());
        let ticket = rig.store.put(&name, &value).unwrap();
        expected.insert(1, records.clone());
        rig.run();
        if rig.store.durable() < ticket {
            return;
        }
        *expected = BTreeMap::from([(0, records)]);
    }
}

/// Pieces of one thing that are only right together, long enough for several fragments.
fn group(round: u8) -> [([u8; 1], Option<Vec<u8>>); 4] {
    let value = |len: usize| Some(vec![round; len]);
    let last = (!round.is_multiple_of(3)).then(|| vec![round; 100]);
    [
        (*b"a", value(4000)),
        (*b"b", value(9000)),
        (*b"c", value(usize::from(round))),
        (*b"d", last),
    ]
}

#[test]
fn changes_made_at_once_survive_a_power_cut_together() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
        rig.power = Some(rig.host.writes + dice.below(40));
        for round in 1..12 {
            let pieces = group(round);
            let changes = pieces.iter().map(|(name, value)| (name, value.as_deref()));
            let ticket = rig.store.change_all(changes).unwrap();
            rig.run();
            if rig.store.durable() < ticket {
                break;
            }
        }
        rig.host.cut(&mut dice);
        let again = Rig::open(rig.host, StoreTrust::Nothing, 2);
        let Some(&[round, ..]) = again.store.get(b"a") else {
            assert_eq!(again.records().len(), 0, "seed {seed}");
            continue;
        };
        for (name, value) in group(round) {
            assert_eq!(again.store.get(&name), value.as_deref(), "seed {seed}");
        }
    }
}

#[test]
fn changes_without_room_for_all_of_them_change_nothing() {
    let mut rig = Rig::open(empty(), StoreTrust::Nothing, 1);
    rig.put(b"a", b"1");
    let long = vec![1; payload_room(AREA as usize) - 12];
    let refuse = |rig: &mut Rig, changes: [(&[u8], Option<&[u8]>); 2]| {
        let refused = rig.store.change_all(changes.into_iter());
        assert_eq!(rig.records().len(), 1);
        refused.unwrap_err()
    };
    let full = [(&b"a"[..], Some(&b"2"[..])), (b"b", Some(&long))];
    assert_eq!(refuse(&mut rig, full), StoreError::Full);
    let nameless = [(&b"a"[..], None), (b"", None)];
    assert_eq!(refuse(&mut rig, nameless), StoreError::Name);
    assert_eq!(rig.store.get(b"a"), Some(&b"1"[..]));
    // In the place of what is removed there is room.
    let changes = [(&b"a"[..], None), (b"b", Some(&long[..]))];
    rig.store.change_all(changes.into_iter()).unwrap();
    rig.run();
    let again = Rig::open(rig.host, StoreTrust::Nothing, 2);
    assert_eq!(again.records().len(), 1);
}
