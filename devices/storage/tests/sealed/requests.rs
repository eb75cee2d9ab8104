//! Sealed disks as a guest sees them: what was written is read, whatever the order of the host's answers.

use proptest::prelude::{Strategy, any, prop, proptest};
use proptest::test_runner::Config as Effort;
use stockade_storage::{
    Access, Config, Event, Fault, Freshness, HostOp, Kind, RequestError, State,
};

use crate::rig::{Host, Rig};

const SMALL: Config = Config {
    requests: 8,
    transfers: 6,
    slots: 24,
    cache_nodes: 24,
    given_up: 64,
    access: Access::ReadWrite,
    anchoring: stockade_storage::Anchoring::Strict,
};

fn fresh(logical_blocks: u64) -> Rig {
    let rig = Rig::open(Host::new(logical_blocks), None, SMALL, 1);
    assert_eq!(rig.disk.state(), State::Open(Freshness::Formatted));
    rig
}

#[test]
fn an_empty_disk_reads_as_zeros_and_has_its_size() {
    let mut rig = fresh(1000);
    assert_eq!(rig.disk.sectors(), Some(8000));
    assert_eq!(rig.read(0, 80).unwrap(), vec![0; 80 * 512]);
    assert_eq!(rig.read(7999, 1).unwrap(), vec![0; 512]);
    assert_eq!(
        rig.disk.submit(stockade_storage::Request {
            token: stockade_storage::Token(99),
            kind: Kind::Read,
            sector: 7999,
            sectors: 2,
        }),
        Err(RequestError::OutOfRange)
    );
}

#[test]
fn what_was_written_and_flushed_is_there_when_the_disk_is_opened_again() {
    let mut rig = fresh(1000);
    let data: Vec<u8> = (0..512 * 300).map(|i| (i / 512) as u8 ^ i as u8).collect();
    rig.write(13, &data).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    let mut again = Rig::open(rig.host.clone(), rig.anchor, SMALL, 2);
    assert_eq!(again.disk.state(), State::Open(Freshness::Newest));
    assert_eq!(again.read(13, 300).unwrap(), data);
    assert_eq!(again.read(0, 13).unwrap(), vec![0; 13 * 512]);
}

#[test]
fn nothing_of_the_guest_is_in_the_hosts_file() {
    let mut rig = fresh(1000);
    rig.write(0, &[b'S'; 40960]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    rig.host.settle();
    let found = |byte: u8| {
        let blocks = rig.host.blocks.values();
        blocks
            .filter(|block| block.windows(8).any(|bytes| bytes == [byte; 8]))
            .count()
    };
    assert_eq!(found(b'S'), 0);
    assert_ne!(found(0), 0, "the search finds what is there");
}

#[test]
fn a_flush_of_an_unchanged_disk_costs_nothing() {
    let mut rig = fresh(1000);
    rig.write(0, &[1; 512]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    let (writes, flushes) = (rig.host.writes, rig.host.flushes);
    rig.flush().unwrap().unwrap();
    assert_eq!((rig.host.writes, rig.host.flushes), (writes, flushes));
}

#[test]
fn many_requests_for_parts_of_one_block_lose_nothing() {
    let mut rig = fresh(1000);
    let tokens: Vec<_> = (0..8_u8)
        .map(|i| rig.submit(Kind::Write, u64::from(i), 1, vec![i + 1; 512]))
        .collect();
    for token in tokens {
        // Others may be done before.
        let _ = rig.wait(token);
    }
    let data = rig.read(0, 8).unwrap();
    for (i, sector) in (1..).zip(data.chunks(512)) {
        assert_eq!(sector, [i; 512]);
    }
}

/// A flush begins a commit while writes are in progress: the next one has them.
#[test]
fn writes_that_meet_a_commit_are_in_the_next_one() {
    for seed in 0..40 {
        let mut rig = Rig::open(Host::new(1000), None, SMALL, seed);
        rig.write(0, &[1; 4096]).unwrap().unwrap();
        let tokens = [
            rig.submit(Kind::Write, 0, 40, vec![2; 40 * 512]),
            rig.submit(Kind::Write, 4000, 8, vec![3; 8 * 512]),
            rig.submit(Kind::Flush, 0, 0, Vec::new()),
            rig.submit(Kind::Write, 4, 8, vec![4; 8 * 512]),
        ];
        for token in tokens {
            assert_eq!(rig.wait(token), Some(Ok(())));
        }
        rig.flush().unwrap().unwrap();
        let mut again = Rig::open(rig.host.clone(), rig.anchor, SMALL, seed + 100);
        assert_eq!(again.read(4, 8).unwrap(), [4; 4096], "seed {seed}");
        assert_eq!(again.read(12, 28).unwrap(), [2; 28 * 512], "seed {seed}");
        assert_eq!(again.read(4000, 8).unwrap(), [3; 4096], "seed {seed}");
    }
}

#[test]
fn a_failed_read_or_write_fails_its_request_and_nothing_else() {
    let mut rig = fresh(1000);
    rig.write(0, &[1; 8192]).unwrap().unwrap();
    rig.fails = |io| io.op == HostOp::Write;
    assert_eq!(rig.write(0, &[2; 8192]), Some(Err(RequestError::Host)));
    rig.fails = |io| io.op == HostOp::Read;
    assert_eq!(rig.read(0, 16), Err(RequestError::Host));
    rig.fails = |_| false;
    assert_eq!(rig.read(0, 16).unwrap(), [1; 8192]);
    rig.write(0, &[3; 8192]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    assert_eq!(rig.read(0, 16).unwrap(), [3; 8192]);
    assert_eq!(
        rig.events,
        [
            Event::TransferFailed { block: 0 },
            Event::TransferFailed { block: 0 }
        ]
    );
}

#[test]
fn a_failed_commit_leaves_the_disk_readable_and_the_old_state_on_the_file() {
    let mut rig = fresh(1000);
    rig.write(0, &[1; 4096]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    rig.write(0, &[2; 4096]).unwrap().unwrap();
    rig.fails = |io| io.op == HostOp::Flush;
    assert_eq!(rig.flush(), Some(Err(RequestError::Offline)));
    assert_eq!(rig.disk.state(), State::Offline);
    rig.fails = |_| false;
    assert_eq!(rig.write(0, &[3; 4096]), Some(Err(RequestError::Offline)));
    assert_eq!(rig.flush(), Some(Err(RequestError::Offline)));
    assert_eq!(rig.read(0, 8).unwrap(), [2; 4096]);
    assert_eq!(rig.events, [Event::CommitFailed { generation: 3 }]);
    let mut again = Rig::open(rig.host.clone(), rig.anchor, SMALL, 2);
    assert_eq!(again.read(0, 8).unwrap(), [1; 4096]);
}

#[test]
fn a_disk_that_may_only_be_read_is_only_read() {
    let mut rig = fresh(1000);
    rig.write(0, &[1; 4096]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    let read_only = Config {
        access: Access::ReadOnly,
        ..SMALL
    };
    let mut again = Rig::open(rig.host.clone(), rig.anchor, read_only, 2);
    assert_eq!(again.read(0, 8).unwrap(), [1; 4096]);
    let request = stockade_storage::Request {
        token: stockade_storage::Token(99),
        kind: Kind::WriteZeroes,
        sector: 0,
        sectors: 1,
    };
    assert_eq!(again.disk.submit(request), Err(RequestError::ReadOnly));
    again.flush().unwrap().unwrap();
    let empty = Rig::open(Host::new(1000), None, read_only, 1);
    assert_eq!(empty.disk.state(), State::Failed(Fault::Empty));
}

#[test]
fn a_flush_waits_for_its_anchor_if_anchoring_is_strict() {
    let mut rig = fresh(1000);
    rig.rest();
    rig.stores_anchors = false;
    rig.write(0, &[1; 4096]).unwrap().unwrap();
    assert_eq!(rig.flush(), None);
    rig.stores_anchors = true;
    rig.rest();
    assert!(rig.disk.next_completion().is_some());
}

#[test]
fn a_guest_that_takes_its_buffer_away_gets_an_error_and_the_disk_stays_whole() {
    let mut rig = fresh(1000);
    rig.write(0, &[1; 16384]).unwrap().unwrap();
    let token = rig.submit(Kind::Write, 0, 32, vec![2; 6000]);
    assert_eq!(rig.wait(token), Some(Err(RequestError::Memory)));
    let token = rig.submit(Kind::Read, 0, 32, vec![2; 6000]);
    assert_eq!(rig.wait(token), Some(Err(RequestError::Memory)));
    rig.flush().unwrap().unwrap();
    assert_eq!(rig.read(0, 32).unwrap(), [1; 16384]);
}

/// Far more is overwritten between two flushes than there are spare blocks, or room for what is given up.
#[test]
fn a_full_disk_can_be_overwritten_again_and_again() {
    let mut rig = fresh(512);
    for round in 1..=6 {
        for sector in (0..4096).step_by(256) {
            rig.write(sector, &[round; 256 * 512]).unwrap().unwrap();
        }
    }
    for sector in (0..4096).step_by(256) {
        assert_eq!(rig.read(sector, 256).unwrap(), [6; 256 * 512]);
    }
    let mut again = {
        rig.flush().unwrap().unwrap();
        Rig::open(rig.host.clone(), rig.anchor, SMALL, 2)
    };
    assert_eq!(again.read(4088, 8).unwrap(), [6; 4096]);
}

/// What a guest may do.
#[derive(Clone, Debug)]
enum Operation {
    Write(u64, u64, u8),
    Clear(Kind, u64, u64),
    Read(u64, u64),
    Flush,
    Reopen,
}

const SECTORS: u64 = 20_000 * 8;

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    // Most in two small places, so that they meet.
    let place = prop::sample::select(vec![0, 1016, 8 * 16_384 - 40, SECTORS - 400]);
    let range = (place, 0..300_u64, 1..100_u64)
        .prop_map(|(place, offset, sectors)| (place + offset, sectors));
    let clear = prop::sample::select(vec![Kind::Discard, Kind::WriteZeroes]);
    let operation =
        (0..10_u8, range, any::<u8>(), clear).prop_map(|(choice, (at, count), byte, clear)| {
            match choice {
                0..4 => Operation::Write(at, count, byte),
                4 | 5 => Operation::Clear(clear, at, count),
                6 | 7 => Operation::Read(at, count),
                8 => Operation::Flush,
                _ => Operation::Reopen,
            }
        });
    prop::collection::vec(operation, 1..60)
}

/// Does the operations on a disk and on plain bytes, several at a time, and compares.
fn compare(operations: &[Operation], seed: u64) {
    let mut plain = vec![0; SECTORS as usize * 512];
    let mut rig = Rig::open(Host::new(20_000), None, SMALL, seed);
    for (index, operation) in operations.iter().enumerate() {
        let bytes = |at: u64, count: u64| at as usize * 512..(at + count) as usize * 512;
        match *operation {
            Operation::Write(at, count, byte) => {
                let data: Vec<u8> = (0..count * 512)
                    .map(|i| byte ^ (i / 512) as u8 ^ index as u8)
                    .collect();
                plain[bytes(at, count)].copy_from_slice(&data);
                rig.write(at, &data).unwrap().unwrap();
            }
            Operation::Clear(kind, at, count) => {
                let token = rig.submit(kind, at, count, Vec::new());
                let range = if kind == Kind::Discard {
                    let (start, end) = (at.div_ceil(8) * 8, (at + count) / 8 * 8);
                    bytes(start, end.saturating_sub(start))
                } else {
                    bytes(at, count)
                };
                plain[range].fill(0);
                rig.wait(token).unwrap().unwrap();
            }
            Operation::Read(at, count) => {
                assert_eq!(rig.read(at, count).unwrap(), plain[bytes(at, count)])
            }
            Operation::Flush => rig.flush().unwrap().unwrap(),
            Operation::Reopen => {
                rig.flush().unwrap().unwrap();
                rig = Rig::open(rig.host.clone(), rig.anchor, SMALL, seed + index as u64);
                assert_eq!(rig.disk.state(), State::Open(Freshness::Newest));
            }
        }
    }
    for at in [0, 1000, 8 * 16_384 - 40, SECTORS - 400] {
        assert_eq!(
            rig.read(at, 400).unwrap(),
            plain[at as usize * 512..(at as usize + 400) * 512]
        );
    }
    assert_eq!(rig.events, []);
}

proptest! {
    #![proptest_config(Effort { cases: 100, ..Effort::default() })]

    #[test]
    fn a_sealed_disk_is_a_disk(operations in operations(), seed in any::<u32>()) {
        compare(&operations, u64::from(seed));
    }
}

#[test]
fn a_lost_store_is_told() {
    let mut rig = fresh(1000);
    rig.flush().unwrap().unwrap();
    let again = Rig::open(rig.host.clone(), None, SMALL, 2);
    assert_eq!(again.disk.state(), State::Open(Freshness::Unknown));
}
