//! A module's records in the sealed store, which all clients share: under names of its own, and no more than its share.

use alloc::vec::Vec;

use stockade_storage::Ticket;

use super::{LONGEST_VALUE, MOST_KEPT, RecordRequest, RecordStatus, RecordStore};
use crate::module::channel::Bell;
use crate::records::{Durability, RecordError, Records};

/// What modules' names begin with.
const CLIENT: &[u8] = b"module/";

/// The records of the module with this name.
#[derive(Debug)]
pub struct SealedRecords {
    records: Records,
    bell: Bell,
    /// What every name of this module begins with, and no other module's does.
    prefix: Vec<u8>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Asked, and not yet told to the store.
    Begun(Asked),
    /// On its way to the host.
    Waiting(Ticket),
    Over(RecordStatus),
}

#[derive(Debug)]
enum Asked {
    Get(Vec<u8>),
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

impl SealedRecords {
    /// Returns the records of `module`; `bell` has it asked again when the store was in use.
    #[must_use]
    pub fn new(records: Records, module: &[u8], bell: Bell) -> Self {
        // The length keeps `a` with a record `b/c` and `a/b` with a record `c` apart.
        let len = u8::try_from(module.len()).unwrap_or(u8::MAX);
        let prefix = [CLIENT, &[len], &module[..usize::from(len)], b"/"].concat();
        Self {
            records,
            bell,
            prefix,
            stage: Stage::Over(RecordStatus::Refused),
        }
    }

    fn name(&self, name: &[u8]) -> Vec<u8> {
        [&self.prefix, name].concat()
    }

    /// Tells the store what was asked.
    fn tell(&self, asked: &Asked, found: &mut Vec<u8>) -> Result<Stage, RecordError> {
        match asked {
            Asked::Get(name) => self.get(name, found).map(Stage::Over),
            Asked::Put(name, value) => {
                let share = (self.prefix.as_slice(), MOST_KEPT);
                let ticket = self.records.write_within(share, name, value)?;
                Ok(Stage::Waiting(ticket))
            }
            Asked::Delete(name) => match self.records.read(name, &mut [])? {
                None => Ok(Stage::Over(RecordStatus::Absent)),
                Some(_) => self.records.remove(name).map(Stage::Waiting),
            },
        }
    }

    fn get(&self, name: &[u8], found: &mut Vec<u8>) -> Result<RecordStatus, RecordError> {
        found.resize(LONGEST_VALUE, 0);
        let outcome = self.records.read(name, found);
        let len = outcome.ok().flatten().unwrap_or(0);
        found.truncate(len);
        outcome.map(|len| len.map_or(RecordStatus::Absent, |_| RecordStatus::Ok))
    }
}

impl RecordStore for SealedRecords {
    fn begin(&mut self, request: RecordRequest<'_>) {
        self.stage = Stage::Begun(match request {
            RecordRequest::Get { name } => Asked::Get(self.name(name)),
            RecordRequest::Put { name, value } => Asked::Put(self.name(name), value.to_vec()),
            RecordRequest::Delete { name } => Asked::Delete(self.name(name)),
        });
    }

    fn poll(&mut self, value: &mut Vec<u8>) -> Option<RecordStatus> {
        if let Stage::Begun(asked) = &self.stage {
            self.stage = match self.tell(asked, value) {
                Ok(stage) => stage,
                Err(RecordError::Busy) => {
                    self.bell.ring();
                    return None;
                }
                Err(RecordError::Store(_)) => Stage::Over(RecordStatus::Refused),
            };
        }
        match &self.stage {
            Stage::Begun(_) => None,
            Stage::Over(status) => Some(*status),
            Stage::Waiting(ticket) => match self.records.durability(*ticket) {
                Durability::Waiting => None,
                Durability::Durable => Some(RecordStatus::Ok),
                Durability::Lost => Some(RecordStatus::Refused),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::{empty, open, settle};
    use crate::virtio::{Bays, Moment};
    use stockade_backend::fake::FakeHost;

    struct Fixture {
        host: FakeHost,
        bays: Bays,
        bell: Bell,
        records: Records,
    }

    impl Fixture {
        fn new(file: Vec<u8>) -> Self {
            let (mut bays, bell) = (Bays::default(), Bell::default());
            let (host, records) = open(file, &mut bays);
            bays.ring_for_records(&bell);
            Self {
                host,
                bays,
                bell,
                records,
            }
        }

        fn module(&self, name: &str) -> SealedRecords {
            SealedRecords::new(self.records.clone(), name.as_bytes(), self.bell.clone())
        }

        /// Asks, lets the host work, and returns the answer.
        fn ask(
            &mut self,
            module: &mut SealedRecords,
            request: RecordRequest<'_>,
        ) -> (RecordStatus, Vec<u8>) {
            let mut value = Vec::new();
            module.begin(request);
            if let Some(status) = module.poll(&mut value) {
                return (status, value);
            }
            settle(&mut self.host, &self.bays);
            let status = module.poll(&mut value);
            (status.expect("the host is done"), value)
        }

        fn put(&mut self, module: &mut SealedRecords, name: &str, value: &[u8]) -> RecordStatus {
            let name = name.as_bytes();
            self.ask(module, RecordRequest::Put { name, value }).0
        }

        fn get(&mut self, module: &mut SealedRecords, name: &str) -> Option<Vec<u8>> {
            let name = name.as_bytes();
            let (status, value) = self.ask(module, RecordRequest::Get { name });
            (status == RecordStatus::Ok).then_some(value)
        }
    }

    /// A TPM that answered before would have told its guest of what a power cut undoes.
    #[test]
    fn a_put_is_answered_when_the_host_has_flushed_it_and_not_before() {
        let mut fixture = Fixture::new(empty());
        let mut module = fixture.module("tpm");
        let (name, value) = (b"nv".as_slice(), b"state".as_slice());
        module.begin(RecordRequest::Put { name, value });
        assert_eq!(module.poll(&mut Vec::new()), None);
        fixture.bell.take();
        let _ = fixture
            .bays
            .serve(&mut fixture.host, Moment::default(), |_, _| {});
        assert_eq!(module.poll(&mut Vec::new()), None);
        assert_eq!(fixture.bell.due_ns(), u64::MAX);
        settle(&mut fixture.host, &fixture.bays);
        assert_eq!(fixture.bell.due_ns(), 0);
        assert_eq!(module.poll(&mut Vec::new()), Some(RecordStatus::Ok));

        let mut next = Fixture::new(fixture.host.disk.clone());
        let mut module = next.module("tpm");
        assert_eq!(next.get(&mut module, "nv"), Some(value.to_vec()));
    }

    #[test]
    fn what_was_deleted_is_absent_the_next_time_too() {
        let mut fixture = Fixture::new(empty());
        let mut module = fixture.module("m");
        let delete = RecordRequest::Delete { name: b"a" };
        assert_eq!(fixture.ask(&mut module, delete).0, RecordStatus::Absent);
        fixture.put(&mut module, "a", b"1");
        assert_eq!(fixture.ask(&mut module, delete).0, RecordStatus::Ok);
        assert_eq!(fixture.get(&mut module, "a"), None);
        let mut next = Fixture::new(fixture.host.disk.clone());
        let mut module = next.module("m");
        assert_eq!(next.get(&mut module, "a"), None);
    }

    #[test]
    fn no_module_reaches_the_records_of_another_or_of_a_disk() {
        let mut fixture = Fixture::new(empty());
        let (mut one, mut other) = (fixture.module("a"), fixture.module("a/b"));
        fixture.put(&mut one, "b/c", b"of one");
        assert_eq!(fixture.get(&mut other, "c"), None);
        fixture.records.write(b"disk/00", b"anchor").unwrap();
        for name in ["disk/00", "../disk/00", "/disk/00"] {
            assert_eq!(fixture.get(&mut one, name), None);
        }
        let long = "x".repeat(255);
        assert_eq!(fixture.put(&mut one, &long, b""), RecordStatus::Refused);
    }

    /// What is left of the store is for the disks.
    #[test]
    fn a_module_has_no_more_than_its_share() {
        let fixture = Fixture::new(empty());
        let module = fixture.module("m");
        let share = (module.prefix.as_slice(), 40);
        let name = [module.prefix.as_slice(), b"a"].concat();
        let write = |len| fixture.records.write_within(share, &name, &[0; 100][..len]);
        assert!(write(40 - name.len()).is_ok());
        assert!(write(41 - name.len()).is_err());
        fixture.records.write(b"disk/00", &[0; 100]).unwrap();
        assert!(write(40 - name.len()).is_ok());
        let second = [module.prefix.as_slice(), b"b"].concat();
        assert!(fixture.records.write_within(share, &second, b"").is_err());
    }

    #[test]
    fn a_store_in_use_is_asked_again() {
        let fixture = Fixture::new(empty());
        let mut module = fixture.module("m");
        let held = fixture.records.hold();
        module.begin(RecordRequest::Get { name: b"a" });
        fixture.bell.take();
        assert_eq!(module.poll(&mut Vec::new()), None);
        assert_eq!(fixture.bell.due_ns(), 0);
        drop(held);
        assert_eq!(module.poll(&mut Vec::new()), Some(RecordStatus::Absent));
    }

    #[test]
    fn a_host_that_fails_has_puts_refused() {
        let mut fixture = Fixture::new(empty());
        let mut module = fixture.module("m");
        module.begin(RecordRequest::Put {
            name: b"a",
            value: b"1",
        });
        assert_eq!(module.poll(&mut Vec::new()), None);
        fixture.host.is_gone = true;
        for _ in 0..300 {
            fixture.bays.signal(1 << crate::virtio::DEVICE_VECTORS);
            let _ = fixture
                .bays
                .serve(&mut fixture.host, Moment::default(), |_, _| {});
        }
        assert_eq!(module.poll(&mut Vec::new()), Some(RecordStatus::Refused));
        assert_eq!(fixture.put(&mut module, "a", b"2"), RecordStatus::Refused);
    }
}
