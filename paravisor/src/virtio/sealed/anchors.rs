//! The newest state of a sealed disk, kept in the sealed store: nothing is acknowledged that a host could take back.

use stockade_storage::{Anchor, Fault, SealedDisk, Ticket, Trust};

use super::Turn;
use crate::records::{Durability, RecordError, Records};

/// Bytes of a record's name.
const NAME_BYTES: usize = 7;

/// A disk's record.
#[derive(Debug)]
pub struct Anchors {
    records: Records,
    name: [u8; NAME_BYTES],

    /// An anchor the store has not taken yet.
    next: Option<Anchor>,
    /// Generation and change the store is making durable.
    queued: Option<(u64, Ticket)>,
}

impl Anchors {
    /// Returns the record of the disk with this number in the manifest: whatever file the host puts in its place has to be that disk.
    #[must_use]
    pub fn new(records: Records, index: u8) -> Self {
        let mut name = *b"disk/00";
        // At most 14 disks.
        name[5] += index / 10 % 10;
        name[6] += index % 10;
        Self {
            records,
            name,
            next: None,
            queued: None,
        }
    }

    /// Returns what the store knows of the disk.
    ///
    /// # Errors
    /// The store is in use, or its record is no anchor.
    pub fn trust(&self) -> Result<Trust, Untold> {
        let mut bytes = [0; stockade_storage::disk::fault::ANCHOR_BYTES];
        match self.records.read(&self.name, &mut bytes)? {
            None => Ok(Trust::FirstUse),
            Some(len) if len == bytes.len() => {
                let anchor = Anchor::from_bytes(&bytes);
                anchor.map(Trust::Anchored).ok_or(Fault::AnotherDisk.into())
            }
            Some(_) => Err(Fault::AnotherDisk.into()),
        }
    }

    /// Carries anchors from the disk to the store, and the news that one is safe back.
    pub(super) fn turn(&mut self, disk: &mut SealedDisk) -> Turn {
        if let Some(anchor) = disk.next_anchor() {
            self.next = Some(anchor);
        }
        let settled = self.settle(disk);
        match self.queue() {
            Ok(()) => settled,
            Err(RecordError::Busy) => Turn::More,
            Err(RecordError::Store(_)) => {
                self.next = None;
                disk.lose_anchor();
                Turn::More
            }
        }
    }

    /// Returns whether nothing is on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.next.is_none() && self.queued.is_none()
    }

    /// Tells the disk what has become of the anchor that was queued. It may go on then.
    fn settle(&mut self, disk: &mut SealedDisk) -> Turn {
        let Some((generation, ticket)) = self.queued else {
            return Turn::Done;
        };
        match self.records.durability(ticket) {
            Durability::Waiting => return Turn::Done,
            Durability::Durable => disk.anchored(generation),
            Durability::Lost => disk.lose_anchor(),
        }
        self.queued = None;
        Turn::More
    }

    fn queue(&mut self) -> Result<(), RecordError> {
        let Some(anchor) = self.next else {
            return Ok(());
        };
        let ticket = self.records.write(&self.name, &anchor.to_bytes())?;
        self.queued = Some((anchor.generation, ticket));
        self.next = None;
        Ok(())
    }
}

/// Why the store cannot say how old a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// The store.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The record.
    #[error(transparent)]
    Fault(#[from] Fault),
}

#[cfg(test)]
mod tests {
    use stockade_storage::{Anchor, Fault, Trust};

    use super::{Anchors, Untold};
    use crate::records::tests::{empty, open};
    use crate::virtio::Bays;

    #[test]
    fn a_disk_is_known_by_its_number_and_its_record_has_to_be_an_anchor() {
        let (_, records) = open(empty(), &mut Bays::default());
        let anchor = Anchor {
            disk: [1; 16],
            generation: 5,
            digest: [2; 32],
        };
        records.write(b"disk/13", &anchor.to_bytes()).unwrap();
        let trust = |index| Anchors::new(records.clone(), index).trust();
        assert_eq!(trust(13), Ok(Trust::Anchored(anchor)));
        assert_eq!(trust(3), Ok(Trust::FirstUse));
        // Authentic and yet no anchor: taken for the record of something else, not for none.
        for odd in [&[][..], &[0; 55], &[0; 57]] {
            records.write(b"disk/03", odd).unwrap();
            assert_eq!(trust(3), Err(Untold::Fault(Fault::AnotherDisk)));
        }
    }
}
