//! A disk with its store: power that goes at any write of either, and a host that brings back older copies of one or both.

use std::collections::HashMap;

use stockade_storage::store::format::Header as StoreHeader;
use stockade_storage::{
    Access, Anchor, Anchoring, BLOCK_BYTES, Config, Fault, Freshness, HostOp, SealedStore, State,
    StoreKey, StoreState, StoreTrust, Ticket, Work,
};

use crate::rig::{Dice, Host, Ram, Rig};

const CONFIG: Config = Config {
    requests: 4,
    transfers: 4,
    slots: 8,
    cache_nodes: 24,
    given_up: 64,
    access: Access::ReadWrite,
    anchoring: Anchoring::Strict,
};
const LOGICAL: u64 = 300;
/// Blocks of an area of the store: small, so that it is compacted often.
const AREA: u32 = 5;
const SLOTS: u16 = 2;
const NAME: &[u8] = b"disk/0";

/// The two files of a host.
#[derive(Clone)]
struct Files {
    disk: Host,
    store: Host,
}

impl Files {
    fn new() -> Self {
        let mut store = Host::default();
        let header = StoreHeader::try_new(AREA, [5; 16]).unwrap();
        store.blocks.insert(0, header.to_block());
        Self {
            disk: Host::new(LOGICAL),
            store,
        }
    }

    fn cut(mut self, dice: &mut Dice) -> Self {
        self.disk.cut(dice);
        self.store.cut(dice);
        self
    }
}

/// A machine that keeps the disk's anchors in the store.
struct Machine {
    rig: Rig,
    store: SealedStore,
    file: Host,
    ram: Ram,
    waiting: Option<(u64, Ticket)>,
    /// Writes to both files after which the power goes.
    power: Option<u64>,
    stores: bool,
}

impl Machine {
    /// Opens the store, then the disk with what the store knows of it.
    fn start(files: Files, power: Option<u64>, seed: u64) -> Self {
        let blocks = 1 + 2 * u64::from(AREA);
        let (key, entropy) = (StoreKey::new([1; 32]), [seed.to_le_bytes()[0]; 32]);
        let store = SealedStore::new(key, entropy, StoreTrust::Nothing, blocks, AREA, SLOTS);
        let mut file = files.store;
        let mut ram = Ram {
            slots: vec![[0xEE; BLOCK_BYTES]; usize::from(SLOTS)],
            ..Ram::default()
        };
        let mut store = store;
        while store.state() == StoreState::Opening {
            store.work(&mut ram);
            if let Some(io) = store.next_io() {
                file.begin(&io, &ram);
                file.end(&io, &mut ram);
                store.complete(io.id, Ok(()));
            }
        }
        assert!(matches!(store.state(), StoreState::Open(_)), "{store:?}");
        let anchor = store.get(NAME).and_then(Anchor::from_bytes);
        Self {
            rig: Rig::open_unstored(files.disk, anchor, CONFIG, seed),
            store,
            file,
            ram,
            waiting: None,
            power,
            stores: true,
        }
    }

    fn has_power(&self) -> bool {
        let writes = self.rig.host.writes + self.file.writes;
        self.power.is_none_or(|most| writes < most)
    }

    /// Does one thing of disk or store, whoever's turn it is. Returns `false` if nothing was to be done.
    fn step(&mut self) -> bool {
        let mut moved = self.rig.step();
        if self.stores && self.rig.dice.below(2) == 0 {
            moved |= self.step_store();
        }
        if self.waiting.is_none()
            && let Some(anchor) = self.rig.disk.next_anchor()
        {
            let ticket = self.store.put(NAME, &anchor.to_bytes()).unwrap();
            self.waiting = Some((anchor.generation, ticket));
            moved = true;
        }
        if let Some((generation, ticket)) = self.waiting
            && ticket <= self.store.durable()
        {
            self.rig.disk.anchored(generation);
            self.waiting = None;
            moved = true;
        }
        moved
    }

    fn step_store(&mut self) -> bool {
        let is_busy = self.store.work(&mut self.ram) == Work::Again;
        let Some(io) = self.store.next_io() else {
            return is_busy;
        };
        self.file.begin(&io, &self.ram);
        if io.op == HostOp::Write && !self.has_power() {
            return false;
        }
        self.file.end(&io, &mut self.ram);
        self.store.complete(io.id, Ok(()))
    }

    /// Works until nothing is left to do or the power goes.
    fn rest(&mut self) {
        let mut idle = 0;
        while idle < 64 && self.has_power() {
            idle = if self.step() { 0 } else { idle + 1 };
        }
    }

    fn files(self) -> Files {
        Files {
            disk: self.rig.host,
            store: self.file,
        }
    }

    /// Writes one byte all over some sectors and flushes; `true` if the flush was acknowledged.
    fn write_and_flush(&mut self, sector: u64, byte: u8) -> bool {
        use stockade_storage::Kind;
        for (kind, data) in [(Kind::Write, vec![byte; 512 * 12]), (Kind::Flush, vec![])] {
            let sectors = data.len() as u64 / 512;
            let token = self.rig.submit(kind, sector, sectors, data);
            self.rest();
            // Without power the request is not over, and waiting for it ends at once.
            self.rig.power = Some(0);
            let result = self.rig.wait(token);
            self.rig.power = None;
            if result != Some(Ok(())) {
                return false;
            }
        }
        true
    }
}

/// What the sectors may hold, the acknowledged first.
type Histories = HashMap<u64, Vec<u8>>;

fn work(machine: &mut Machine, histories: &mut Histories, rounds: u8) {
    for round in 0..rounds {
        let (sector, byte) = (u64::from(round % 3) * 16, round + 1);
        let history = histories.entry(sector).or_insert_with(|| vec![0]);
        history.push(byte);
        if !machine.has_power() || !machine.write_and_flush(sector, byte) {
            return;
        }
        *history = vec![byte];
    }
}

/// Opens both after a cut: the disk is never refused, and holds what was acknowledged.
fn check(files: Files, histories: &Histories, case: &str) {
    let mut machine = Machine::start(files, None, 77);
    let state = machine.rig.disk.state();
    let has_anchor = machine.store.get(NAME).is_some();
    let is_known = matches!(
        state,
        State::Open(Freshness::Newest | Freshness::Ahead | Freshness::Formatted)
    );
    let is_first = !has_anchor && state == State::Open(Freshness::Unknown);
    assert!(is_known || is_first, "{case}: {state:?}");
    machine.rest();
    machine.rig.stores_anchors = true;
    for (sector, history) in histories {
        let data = machine.rig.read(*sector, 1).unwrap();
        assert!(
            history.contains(&data[0]),
            "{case}: {sector} is {}",
            data[0]
        );
    }
    assert_eq!(machine.rig.events, [], "{case}");
}

/// The power goes at the first write of either file, at the second, and so on to the last, several times each.
#[test]
fn a_power_cut_at_any_write_of_disk_or_store_opens_both() {
    let whole = {
        let mut machine = Machine::start(Files::new(), None, 1);
        work(&mut machine, &mut Histories::new(), 6);
        machine.rig.host.writes + machine.file.writes
    };
    assert!(whole > 30, "{whole}");
    for writes in 1..=whole {
        for seed in 0..12 {
            let case = format!("write {writes}, seed {seed}");
            let mut machine = Machine::start(Files::new(), Some(writes), seed);
            let mut histories = Histories::new();
            machine.rest();
            work(&mut machine, &mut histories, 6);
            let mut dice = Dice::new(writes * 100 + seed);
            check(machine.files().cut(&mut dice), &histories, &case);
        }
    }
}

/// Copies of both files after each acknowledged flush, the first before any.
fn history() -> Vec<Files> {
    let mut machine = Machine::start(Files::new(), None, 3);
    machine.rest();
    let mut copies = Vec::new();
    for round in 0..6 {
        let mut files = Files {
            disk: machine.rig.host.clone(),
            store: machine.file.clone(),
        };
        files.disk.settle();
        files.store.settle();
        copies.push(files);
        assert!(machine.write_and_flush(0, round + 1));
    }
    copies
}

fn open(disk: &Files, store: &Files) -> State {
    let files = Files {
        disk: disk.disk.clone(),
        store: store.store.clone(),
    };
    Machine::start(files, None, 9).rig.disk.state()
}

/// Every older disk with every store, every older store with every disk: of all pairs only those of one moment open as the newest.
#[test]
fn of_all_pairs_of_copies_only_those_of_one_moment_are_the_newest() {
    let copies = history();
    for (at, disk) in copies.iter().enumerate() {
        for (when, store) in copies.iter().enumerate() {
            let state = open(disk, store);
            let is_right = match at.cmp(&when) {
                std::cmp::Ordering::Less => {
                    matches!(state, State::Failed(Fault::RolledBack { .. }))
                }
                std::cmp::Ordering::Equal => state == State::Open(Freshness::Newest),
                // One commit ahead is what a power cut leaves.
                std::cmp::Ordering::Greater if at == when + 1 => {
                    state == State::Open(Freshness::Ahead)
                }
                std::cmp::Ordering::Greater => {
                    matches!(state, State::Failed(Fault::StoreRolledBack { .. }))
                }
            };
            assert!(is_right, "disk {at}, store {when}: {state:?}");
        }
    }
}

/// A store made anew would let any older disk pass for a first use.
#[test]
fn a_disk_some_store_has_remembered_is_refused_by_one_that_has_not() {
    let copies = history();
    let emptied = Files::new();
    for disk in &copies[1..] {
        assert_eq!(open(disk, &emptied), State::Failed(Fault::Forgotten));
    }
    // The very first generation may be one whose anchor the power cut took.
    assert_eq!(open(&copies[0], &emptied), State::Open(Freshness::Unknown));
}

/// Nothing is acknowledged that the host could take back.
#[test]
fn a_flush_waits_for_its_anchor() {
    let mut machine = Machine::start(Files::new(), None, 4);
    machine.rest();
    machine.stores = false;
    assert!(!machine.write_and_flush(0, 1));
    machine.stores = true;
    machine.rest();
    assert!(machine.write_and_flush(0, 2));
}

#[test]
fn a_store_that_fails_ends_writing_and_not_reading() {
    let mut machine = Machine::start(Files::new(), None, 5);
    machine.rest();
    assert!(machine.write_and_flush(0, 1));
    machine.stores = false;
    let token = machine
        .rig
        .submit(stockade_storage::Kind::Write, 0, 8, vec![2; 4096]);
    assert_eq!(machine.rig.wait(token), Some(Ok(())));
    let flush = machine
        .rig
        .submit(stockade_storage::Kind::Flush, 0, 0, vec![]);
    machine.rest();
    machine.rig.disk.lose_anchor();
    let offline = Err(stockade_storage::RequestError::Offline);
    assert_eq!(machine.rig.wait(flush), Some(offline));
    assert_eq!(machine.rig.write(0, &[3; 4096]), Some(offline));
    assert_eq!(machine.rig.read(0, 1).unwrap(), [2; 512]);
    assert_eq!(machine.rig.disk.state(), State::Offline);
    assert_eq!(machine.rig.events.len(), 1);
}

/// A flush that waits for the anchor of the commit before would never be answered.
#[test]
fn a_store_that_fails_after_a_commit_did_ends_the_flushes_that_wait() {
    use stockade_storage::Kind;
    let mut machine = Machine::start(Files::new(), None, 6);
    machine.rest();
    machine.stores = false;
    let rig = &mut machine.rig;
    assert_eq!(rig.write(0, &[1; 4096]), Some(Ok(())));
    let first = rig.submit(Kind::Flush, 0, 0, vec![]);
    rig.rest();
    assert_eq!(rig.write(0, &[2; 4096]), Some(Ok(())));
    rig.fails = |io| io.op == HostOp::Write;
    let offline = Some(Err(stockade_storage::RequestError::Offline));
    assert_eq!(rig.flush(), offline);
    assert_eq!(rig.disk.state(), State::Offline);
    assert_eq!(rig.wait(first), None, "its anchor may still be stored");
    rig.disk.lose_anchor();
    assert_eq!(rig.wait(first), offline);
    assert_eq!(rig.events.len(), 1);
}
