//! Power cuts: whatever part of the unflushed writes the host's file kept, the disk opens, every acknowledged flush is there, and no
//! block is anything but what was written to it.

use std::collections::HashMap;

use stockade_storage::disk::check::{CheckError, check as check_disk};
use stockade_storage::disk::geometry::Geometry;
use stockade_storage::{Access, Anchoring, Config, Fault, Freshness, Kind, State, Token};

use crate::rig::{Dice, File, Host, Rig, key};

const CONFIG: Config = Config {
    requests: 6,
    transfers: 5,
    slots: 12,
    cache_nodes: 24,
    given_up: 64,
    access: Access::ReadWrite,
    anchoring: Anchoring::Strict,
};
const LOGICAL: u64 = 700;
/// Sectors the guest works on: few, so that they are overwritten often.
const SECTORS: u64 = 240;

/// What a sector may hold: what the last acknowledged flush covers, then everything written since.
type Histories = HashMap<u64, Vec<u8>>;

/// A guest that writes one byte all over a sector, and knows what it wrote.
struct Guest {
    rig: Rig,
    histories: Histories,
    /// Writes nobody has waited for.
    pending: Vec<Token>,
    next: u8,
}

impl Guest {
    fn write(&mut self) {
        if self.rig.dice.below(3) == 0 {
            self.rig.step();
        }
        let (sector, sectors) = (
            self.rig.dice.below(SECTORS - 40),
            1 + self.rig.dice.below(40),
        );
        self.next = self.next.wrapping_add(1);
        let clears = self.rig.dice.below(8) == 0;
        let (kind, byte) = if clears {
            (Kind::WriteZeroes, 0)
        } else {
            (Kind::Write, self.next)
        };
        for at in sector..sector + sectors {
            self.histories
                .entry(at)
                .or_insert_with(|| vec![0])
                .push(byte);
        }
        let data = vec![byte; sectors as usize * 512];
        let token = self.rig.submit(kind, sector, sectors, data);
        self.pending.push(token);
    }

    fn flush(&mut self) {
        // A flush covers what was completed before it.
        for token in std::mem::take(&mut self.pending) {
            if self.rig.wait(token) != Some(Ok(())) {
                return;
            }
        }
        if self.rig.flush() == Some(Ok(())) {
            for history in self.histories.values_mut() {
                history.drain(..history.len() - 1);
            }
        }
    }

    /// Works until the power goes.
    fn work(&mut self) {
        while self.rig.has_power() {
            if self.rig.dice.below(6) == 0 {
                self.flush();
            } else {
                self.write();
            }
        }
    }
}

/// Opens the disk after a cut and compares every sector with what it may hold; what it holds is what it must hold from now on.
fn check(rig: &mut Rig, histories: &mut Histories, case: u64) {
    let state = rig.disk.state();
    let is_known = matches!(state, State::Open(freshness) if freshness != Freshness::Unknown);
    let is_open = matches!(state, State::Open(_)) && rig.anchor.is_none();
    assert!(is_known || is_open, "case {case}: {state:?}");
    for sector in 0..SECTORS {
        let data = rig.read(sector, 1).unwrap();
        assert!(
            data.iter().all(|byte| *byte == data[0]),
            "case {case}: sector {sector} is torn"
        );
        let history = histories.entry(sector).or_insert_with(|| vec![0]);
        assert!(
            history.contains(&data[0]),
            "case {case}: sector {sector} is {}, not one of {history:?}",
            data[0]
        );
        *history = vec![data[0]];
    }
    assert_eq!(rig.events, [], "case {case}");
}

/// Nothing on the disk is damaged, doubly used, or lost.
fn check_tree(host: &Host, case: u64) {
    let blocks = Geometry::try_new(LOGICAL).unwrap().total_blocks();
    match check_disk(&mut File(host), &key(), blocks) {
        Ok(report) => assert_eq!(
            (report.problem_count, report.leaked),
            (0, 0),
            "case {case}: {report:?}"
        ),
        // The very first superblock was torn.
        Err(error) => assert_eq!(error, CheckError::Fault(Fault::Superblock)),
    }
}

/// Three cuts in a row on the same disk.
fn crash(case: u64) {
    let mut dice = Dice::new(case);
    let mut host = Host::new(LOGICAL);
    let mut anchor = None;
    let mut histories = Histories::new();
    for round in 0..3 {
        let mut rig = Rig::open(host, anchor, CONFIG, case * 10 + round);
        if round > 0 {
            check(&mut rig, &mut histories, case);
        }
        rig.power = Some(rig.host.writes + 1 + dice.below(60));
        let mut guest = Guest {
            rig,
            histories,
            pending: Vec::new(),
            next: dice.below(250) as u8,
        };
        guest.work();
        host = guest.rig.host;
        host.cut(&mut dice);
        check_tree(&host, case);
        anchor = guest.rig.anchor;
        histories = guest.histories;
    }
    check(
        &mut Rig::open(host, anchor, CONFIG, case * 10 + 9),
        &mut histories,
        case,
    );
}

#[test]
fn a_power_cut_leaves_the_old_or_the_new() {
    for case in 0..400 {
        crash(case);
    }
}

/// The cut comes while the first superblock is written, at any byte of it.
#[test]
fn a_power_cut_during_formatting_leaves_an_empty_disk() {
    let mut rig = Rig::open(Host::new(LOGICAL), None, CONFIG, 1);
    rig.rest();
    rig.host.settle();
    let superblock = rig.host.blocks[&2];
    for written in 0..=88 {
        let mut host = Host::new(LOGICAL);
        let mut torn = [0; 4096];
        torn[..written].copy_from_slice(&superblock[..written]);
        host.blocks.insert(2, torn);
        let mut again = Rig::open(host, None, CONFIG, 2);
        assert!(matches!(again.disk.state(), State::Open(_)), "{written}");
        assert_eq!(again.read(0, 8).unwrap(), [0; 4096]);
    }
}
