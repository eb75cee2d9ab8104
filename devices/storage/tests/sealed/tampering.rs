//! What a host may do to a disk's file, one test a lie: each is noticed, and the guest never gets other bytes than its own.

use stockade_storage::disk::check::{CheckError, Problem, check, forgotten};
use stockade_storage::disk::format::Header;
use stockade_storage::disk::geometry::Geometry;
use stockade_storage::{
    Anchor, Anchoring, BLOCK_BYTES, Config, DiskKey, Event, Fault, Freshness, RequestError,
    SealedDisk, State, Trust,
};

use crate::rig::{File, Host, Rig, key};

const LOGICAL: u64 = 1000;
/// The block of the data area that was written first.
fn first_data() -> u64 {
    Geometry::try_new(LOGICAL).unwrap().data(0).unwrap().0
}

/// A disk with generations: 2 has ones in blocks 0 and 1, 3 has twos in block 0. Returns the file after each.
fn generations() -> [(Host, Anchor); 2] {
    let mut rig = Rig::open(Host::new(LOGICAL), None, Config::default(), 1);
    rig.write(0, &[1; 8192]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    rig.rest();
    let old = (rig.host.clone(), rig.anchor.unwrap());
    rig.write(0, &[2; 4096]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    rig.rest();
    rig.host.settle();
    [old, (rig.host, rig.anchor.unwrap())]
}

fn newest() -> (Host, Anchor) {
    let [_, newest] = generations();
    newest
}

fn open(host: Host, anchor: Option<Anchor>) -> Rig {
    Rig::open(host, anchor, Config::default(), 99)
}

fn fault(host: Host, anchor: Option<Anchor>) -> Fault {
    match open(host, anchor).disk.state() {
        State::Failed(fault) => fault,
        state => unreachable!("it opens: {state:?}"),
    }
}

/// Opens a disk of which block 0 is forged, and checks that it alone is.
fn assert_block_0_is_refused(host: Host, anchor: Anchor) {
    let mut rig = open(host, Some(anchor));
    assert_eq!(rig.disk.state(), State::Open(Freshness::Newest));
    assert_eq!(rig.read(0, 8), Err(RequestError::Forged));
    assert_eq!(rig.events, [Event::DataForged { block: 0 }]);
    assert_eq!(rig.read(8, 8).unwrap(), [1; 4096]);
    // Nor is a part of it changed on the strength of the rest.
    assert_eq!(rig.write(1, &[9; 512]), Some(Err(RequestError::Forged)));
    // Overwriting all of it mends it.
    rig.write(0, &[3; 4096]).unwrap().unwrap();
    assert_eq!(rig.read(0, 8).unwrap(), [3; 4096]);
}

#[test]
fn a_changed_bit_of_data_is_an_input_output_error() {
    for bit in [0, 7, 12_345, BLOCK_BYTES * 8 - 1] {
        let (mut host, anchor) = newest();
        // Generation 3 wrote to the third block.
        let block = host.blocks.get_mut(&(first_data() + 2)).unwrap();
        block[bit / 8] ^= 1 << (bit % 8);
        assert_block_0_is_refused(host, anchor);
    }
}

#[test]
fn an_older_version_of_a_block_is_an_input_output_error() {
    let (mut host, anchor) = newest();
    let old = host.blocks[&first_data()];
    host.blocks.insert(first_data() + 2, old);
    assert_block_0_is_refused(host, anchor);
}

#[test]
fn a_block_of_another_disk_is_an_input_output_error() {
    let (mut host, anchor) = newest();
    let mut other = Host::new(LOGICAL);
    let geometry = Geometry::try_new(LOGICAL).unwrap();
    let header = Header::new(&geometry, [8; 16]).to_block();
    other.blocks.insert(0, header);
    let mut rig = Rig::open(other, None, Config::default(), 1);
    rig.write(0, &[2; 4096]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    rig.host.settle();
    let block = rig.host.blocks[&first_data()];
    host.blocks.insert(first_data() + 2, block);
    assert_block_0_is_refused(host, anchor);
}

#[test]
fn swapped_blocks_are_input_output_errors() {
    let (mut host, anchor) = newest();
    let (one, two) = (first_data() + 1, first_data() + 2);
    let block = host.blocks[&one];
    let other = host.blocks.insert(two, block).unwrap();
    host.blocks.insert(one, other);
    let mut rig = open(host, Some(anchor));
    assert_eq!(rig.read(0, 8), Err(RequestError::Forged));
    assert_eq!(rig.read(8, 8), Err(RequestError::Forged));
}

/// Every node: whatever bit is changed, either no request needs it, or it is refused.
#[test]
fn a_changed_bit_of_any_node_is_noticed() {
    let mut noticed = 0;
    for node in 3..first_data() {
        let (mut host, anchor) = newest();
        let Some(block) = host.blocks.get_mut(&node) else {
            continue;
        };
        block[40] ^= 4;
        let mut rig = open(host, Some(anchor));
        match rig.read(0, 16) {
            Ok(data) => assert_eq!((data[0], data[8191]), (2, 1)),
            Err(error) => assert_eq!(error, RequestError::Forged),
        }
        let written = rig.write(0, &[4; 4096]).unwrap();
        if !rig.events.is_empty() {
            assert!(matches!(rig.events[0], Event::NodeForged { .. }));
            assert!(written.is_err());
            noticed += 1;
        }
    }
    // Leaf, bitmap and the node above them, as they are now; their older homes do not matter.
    assert_eq!(noticed, 3);
}

/// All nodes as they were at the generation before, below the superblock of today.
#[test]
fn older_nodes_are_noticed() {
    let [(old, _), (mut host, anchor)] = generations();
    for node in 3..first_data() {
        let before = old.read(node);
        host.blocks.insert(node, before);
    }
    let mut rig = open(host, Some(anchor));
    assert_eq!(rig.read(0, 8), Err(RequestError::Forged));
}

#[test]
fn an_older_disk_is_refused() {
    let [(mut old, _), (_, anchor)] = generations();
    old.settle();
    let rolled_back = Fault::RolledBack {
        found: 2,
        anchored: 3,
    };
    assert_eq!(fault(old.clone(), Some(anchor)), rolled_back);
    // Only the superblock of today is lost: the other one is of the older disk.
    let (mut host, anchor) = newest();
    host.blocks.insert(2, [0; BLOCK_BYTES]);
    assert_eq!(fault(host, Some(anchor)), rolled_back);
    // Without an anchor it is told that there was one.
    assert_eq!(fault(old, None), Fault::Forgotten);
}

/// Its store is lost, and who has its key says that this is the disk to go on with. Once more there is nothing to say.
#[test]
fn the_holder_of_its_key_can_have_a_disk_taken_without_its_store() {
    let (mut host, anchor) = newest();
    host.settle();
    assert_eq!(fault(host.clone(), None), Fault::Forgotten);
    let blocks = Geometry::try_new(LOGICAL).unwrap().total_blocks();
    let other = DiskKey::new([99; 32]);
    assert!(forgotten(&mut File(&host), &other, blocks).is_err());
    let superblock = forgotten(&mut File(&host), &key(), blocks).unwrap();
    let superblock = superblock.unwrap();
    assert_eq!(superblock.generation.get(), anchor.generation + 1);
    let mut block = [0; BLOCK_BYTES];
    superblock.write(&mut block);
    host.blocks.insert(superblock.place().0, block);
    let mut before = open(newest().0, Some(anchor));
    let mut after = open(host.clone(), None);
    assert_eq!(after.disk.state(), State::Open(Freshness::Unknown));
    assert_eq!(after.read(0, 8), before.read(0, 8));
    assert!(after.read(0, 8).is_ok());
    assert_eq!(forgotten(&mut File(&host), &key(), blocks), Ok(None));
    // It is remembered from now on.
    after.write(0, &[5; 4096]).unwrap().unwrap();
    after.flush().unwrap().unwrap();
    after.flush().unwrap().unwrap();
    after.host.settle();
    assert_eq!(fault(after.host, None), Fault::Forgotten);
}

/// A disk no store has ever remembered is taken as it is, and its age said to be unknown.
#[test]
fn a_disk_never_anchored_is_of_unknown_age() {
    let config = Config {
        anchoring: Anchoring::Lazy,
        ..Config::default()
    };
    let mut rig = Rig::open(Host::new(LOGICAL), None, config, 1);
    rig.write(0, &[1; 4096]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    rig.host.settle();
    assert_eq!(
        Rig::open(rig.host, None, Config::default(), 2).disk.state(),
        State::Open(Freshness::Unknown)
    );
}

#[test]
fn an_emptied_disk_is_refused() {
    let (mut host, anchor) = newest();
    host.blocks.insert(1, [0; BLOCK_BYTES]);
    host.blocks.insert(2, [0; BLOCK_BYTES]);
    let emptied = Fault::RolledBack {
        found: 0,
        anchored: 3,
    };
    assert_eq!(fault(host, Some(anchor)), emptied);
}

#[test]
fn a_disk_that_went_another_way_is_refused() {
    let [(old, anchor), (_, today)] = generations();
    // The host keeps a copy of generation 2 and has another generation 3 made of it.
    let mut rig = Rig::open(old, Some(anchor), Config::default(), 5);
    rig.write(0, &[6; 4096]).unwrap().unwrap();
    rig.flush().unwrap().unwrap();
    rig.host.settle();
    assert_eq!(fault(rig.host, Some(today)), Fault::Diverged(3));
}

#[test]
fn another_disk_a_wrong_key_and_a_truncated_file_are_told_apart() {
    let (host, anchor) = newest();
    let mut renamed = host.clone();
    let geometry = Geometry::try_new(LOGICAL).unwrap();
    renamed
        .blocks
        .insert(0, Header::new(&geometry, [8; 16]).to_block());
    assert_eq!(fault(renamed, Some(anchor)), Fault::Superblock);
    let another = Anchor {
        disk: [8; 16],
        ..anchor
    };
    assert_eq!(fault(host.clone(), Some(another)), Fault::AnotherDisk);
    let open = |key, blocks| {
        let config = Config::default();
        let disk = SealedDisk::new(key, [0; 32], Trust::Anchored(anchor), blocks, config);
        Rig::with(disk.unwrap(), host.clone(), None, config, 1)
            .disk
            .state()
    };
    let blocks = geometry.total_blocks();
    assert_eq!(
        open(DiskKey::new([1; 32]), blocks),
        State::Failed(Fault::Superblock)
    );
    let truncated = Fault::Truncated {
        found: blocks - 1,
        expected: blocks,
    };
    assert_eq!(open(key(), blocks - 1), State::Failed(truncated));
    assert_eq!(open(key(), blocks), State::Open(Freshness::Newest));
}

#[test]
fn a_store_older_than_the_disk_is_told_if_anchoring_is_strict() {
    let [(_, old), (host, _)] = generations();
    let much_older = Anchor {
        generation: 1,
        ..old
    };
    let rolled_back = Fault::StoreRolledBack {
        found: 3,
        anchored: 1,
    };
    assert_eq!(fault(host.clone(), Some(much_older)), rolled_back);
    let lazy = Config {
        anchoring: Anchoring::Lazy,
        ..Config::default()
    };
    let rig = Rig::open(host, Some(much_older), lazy, 1);
    assert_eq!(rig.disk.state(), State::Open(Freshness::Ahead));
}

/// The power went between disk and store: the next generation, which nobody else can have made, is accepted.
#[test]
fn a_disk_one_ahead_of_the_store_is_accepted_and_anchored_anew() {
    let [(_, old), (host, today)] = generations();
    let mut rig = open(host, Some(old));
    assert_eq!(rig.disk.state(), State::Open(Freshness::Ahead));
    rig.rest();
    assert_eq!(rig.anchor, Some(today));
}

/// The host says a read is done and has written nothing, or another block, into the slot.
#[test]
fn stale_bytes_in_a_slot_are_not_taken_for_the_block() {
    let (host, anchor) = newest();
    let mut rig = open(host, Some(anchor));
    // Brings the nodes into the cache.
    rig.read(0, 16).unwrap();
    let (one, two) = (first_data() + 1, first_data() + 2);
    rig.host.blocks.insert(two, [0xEE; BLOCK_BYTES]);
    assert_eq!(rig.read(0, 8), Err(RequestError::Forged));
    let other = rig.host.blocks[&one];
    rig.host.blocks.insert(two, other);
    assert_eq!(rig.read(0, 8), Err(RequestError::Forged));
}

#[test]
fn the_check_finds_what_is_wrong_and_nothing_else() {
    let (host, _) = newest();
    let blocks = Geometry::try_new(LOGICAL).unwrap().total_blocks();
    let report = check(&mut File(&host), &key(), blocks).unwrap();
    assert_eq!((report.generation, report.blocks, report.nodes), (3, 2, 3));
    assert_eq!((report.leaked, report.problem_count), (0, 0));
    let mut damaged = host.clone();
    damaged.blocks.get_mut(&(first_data() + 2)).unwrap()[9] ^= 1;
    let report = check(&mut File(&damaged), &key(), blocks).unwrap();
    assert_eq!(report.problems, [Problem::Data { block: 0 }]);
    let wrong = check(&mut File(&host), &DiskKey::new([0; 32]), blocks);
    assert_eq!(wrong, Err(CheckError::Fault(Fault::Superblock)));
}
