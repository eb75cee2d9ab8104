//! Records on a disk of a fake host.

use alloc::boxed::Box;
use std::vec::Vec;

use stockade_backend::HostBus;
use stockade_backend::block::{Block, MIN_MEMORY};
use stockade_backend::fake::{FakeHost, FakeMemory};
use stockade_backend::transport::Doorbell;
use stockade_storage::store::format::Header;
use stockade_storage::{SealedStore, StoreFreshness, StoreKey, StoreState, StoreTrust};

use super::{Durability, RecordError, Records};
use crate::virtio::{Bays, Moment, Turn};

const AREA: u32 = 4;
const BLOCKS: u64 = 1 + 2 * AREA as u64;

/// The file of a store nothing was ever kept in.
pub(crate) fn empty() -> Vec<u8> {
    let mut file = std::vec![0; usize::try_from(BLOCKS).unwrap() * 4096];
    let header = Header::try_new(AREA, [5; 16]).unwrap();
    file[..4096].copy_from_slice(&header.to_block());
    file
}

/// Opens the store in a file, in the bays.
pub(crate) fn open(file: Vec<u8>, bays: &mut Bays) -> (FakeHost, Records) {
    let memory = FakeMemory::new(MIN_MEMORY);
    let mut host = FakeHost::disk(memory.clone(), BLOCKS * 8);
    host.disk = file;
    let doorbell = Doorbell {
        apic_id: 0,
        vector: 0xEE,
        change_vector: 0xEF,
    };
    let memory = Box::new(memory);
    let block = Block::open(&mut host, FakeHost::function(), memory as _, doorbell).unwrap();
    let key = StoreKey::new([1; 32]);
    let slots = block.slot_count();
    let store = SealedStore::new(key, [2; 32], StoreTrust::Nothing, BLOCKS, AREA, slots);
    let records = Records::new(store, block, bays.attention_of_records());
    bays.keep(&records);
    while records.state() == StoreState::Opening {
        records.work(&mut host);
        host.serve_disk();
    }
    (host, records)
}

/// Serves until the host and the records have nothing to do.
pub(crate) fn settle(host: &mut FakeHost, bays: &Bays) {
    loop {
        let _ = bays.serve(host, Moment::default(), |_, _| {});
        let served = host.serve_disk();
        if served != 0 {
            bays.signal(1 << (crate::virtio::DEVICE_VECTORS - 1));
        } else if !bays.want_attention() {
            return;
        }
    }
}

impl Records {
    /// Keeps everybody from the vault.
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.0.vault.lock()
    }
}

#[test]
fn a_record_is_durable_once_the_host_has_flushed_it_and_there_next_time() {
    let mut bays = Bays::default();
    let (mut host, records) = open(empty(), &mut bays);
    assert_eq!(records.state(), StoreState::Open(StoreFreshness::Created));
    let ticket = records.write(b"tpm/state", b"a secret").unwrap();
    assert!(bays.want_attention());
    assert_eq!(records.durability(ticket), Durability::Waiting);
    settle(&mut host, &bays);
    assert_eq!(records.durability(ticket), Durability::Durable);
    let mut value = [0; 4];
    assert_eq!(records.read(b"tpm/state", &mut value), Ok(Some(8)));
    assert_eq!(&value, b"a se");
    assert!(!host.disk.windows(8).any(|window| window == b"a secret"));

    let (_, again) = open(host.disk, &mut Bays::default());
    let mut value = [0; 8];
    assert_eq!(again.state(), StoreState::Open(StoreFreshness::Unknown));
    assert_eq!(again.read(b"tpm/state", &mut value), Ok(Some(8)));
    assert_eq!(&value, b"a secret");
    assert_eq!(again.read(b"tpm", &mut value), Ok(None));
}

#[test]
fn a_removed_record_is_gone() {
    let mut bays = Bays::default();
    let (mut host, records) = open(empty(), &mut bays);
    records.write(b"a", b"1").unwrap();
    let ticket = records.remove(b"a").unwrap();
    settle(&mut host, &bays);
    assert_eq!(records.durability(ticket), Durability::Durable);
    let (_, again) = open(host.disk, &mut Bays::default());
    assert_eq!(again.read(b"a", &mut []), Ok(None));
}

/// A client holds its own lock while it asks: it may not wait for a vault that seals for another.
#[test]
fn a_vault_in_use_elsewhere_is_busy_and_keeps_its_work() {
    let mut bays = Bays::default();
    let (mut host, records) = open(empty(), &mut bays);
    let vault = records.0.vault.lock();
    assert_eq!(records.read(b"a", &mut []), Err(RecordError::Busy));
    assert_eq!(records.write(b"a", b""), Err(RecordError::Busy));
    assert_eq!(records.work(&mut host), Turn::More);
    drop(vault);
    assert!(records.write(b"a", b"").is_ok());
}

#[test]
fn a_host_that_fails_loses_what_waited_and_is_not_asked_again() {
    let mut bays = Bays::default();
    let (mut host, records) = open(empty(), &mut bays);
    let kept = records.write(b"a", b"1").unwrap();
    settle(&mut host, &bays);
    let lost = records.write(b"a", b"2").unwrap();
    host.is_gone = true;
    bays.signal(1 << crate::virtio::DEVICE_VECTORS);
    for _ in 0..300 {
        bays.signal(1 << crate::virtio::DEVICE_VECTORS);
        let _ = bays.serve(&mut host, Moment::default(), |_, _| {});
    }
    assert_eq!(records.durability(kept), Durability::Durable);
    assert_eq!(records.durability(lost), Durability::Lost);
    assert!(matches!(
        records.write(b"a", b"3"),
        Err(RecordError::Store(_))
    ));
    assert!(!bays.want_attention());
    let _: &dyn HostBus = &host;
}

/// Who waits for a host that was never told waits for ever, whatever it was not told of.
#[test]
fn a_host_that_refuses_to_be_notified_loses_what_waited() {
    let mut outcomes = Vec::new();
    for mut answers in 0..8 {
        let mut bays = Bays::default();
        let (mut host, records) = open(empty(), &mut bays);
        let ticket = records.write(b"a", b"1").unwrap();
        for now_ns in 0..64 {
            bays.call_due(now_ns);
            host.listen(0);
            host.is_refusing = answers == 0;
            let moment = Moment {
                now_ns,
                ..Moment::default()
            };
            let _ = bays.serve(&mut host, moment, |_, _| {});
            if host.serve_disk_requests(answers.min(1)) == 1 {
                answers -= 1;
                bays.signal(1 << (crate::virtio::DEVICE_VECTORS - 1));
            }
        }
        outcomes.push(records.durability(ticket));
        assert!(!bays.want_attention());
    }
    assert!(!outcomes.contains(&Durability::Waiting), "{outcomes:?}");
    let ends = (outcomes.first(), outcomes.last());
    assert_eq!(ends, (Some(&Durability::Lost), Some(&Durability::Durable)));
}
