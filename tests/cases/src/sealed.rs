//! A sealed disk of the model's guests as its owner reads it: with the key the model's secure processor gives them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use stockade_abi::guest_message::GuestFieldSelect;
use stockade_model::psp::chip::Chip;
use stockade_storage::host::MemoryError;
use stockade_storage::{
    Access, BLOCK_BYTES, Config, DiskKey, HostOp, Kind, Memory, Request, RootSecret, SealedDisk,
    Slot, State, Token, Trust, Work,
};

type Block = [u8; BLOCK_BYTES];

/// The policy images have unless they are told another.
const POLICY: u64 = 0x3_0000;
/// The model's chip, unless it is told another.
const SEED: u64 = 0;

/// Returns the key of disk `index` of the image with this launch digest.
#[must_use]
pub fn key(launch_digest: &[u8], index: usize) -> DiskKey {
    let fields = GuestFieldSelect::MEASUREMENT | GuestFieldSelect::POLICY;
    let key = Chip::new(SEED).derived_key(
        0,
        &[
            &fields.bits().to_le_bytes(),
            &0_u32.to_le_bytes(),
            &POLICY.to_le_bytes(),
            launch_digest,
        ],
    );
    RootSecret::new(key).disk_key(&index.to_string())
}

/// A disk that is open for reading.
pub struct Reader {
    disk: SealedDisk,
    file: File,
    ram: Ram,
}

/// The one buffer, and the slots.
struct Ram {
    buffer: Block,
    slots: Vec<Block>,
}

impl Reader {
    /// Opens a disk; its state says if it could not be.
    ///
    /// # Errors
    /// What the disk says of itself.
    #[expect(clippy::missing_panics_doc, reason = "for tests")]
    pub fn open(path: &Path, key: DiskKey) -> Result<Self, State> {
        let file = File::open(path).expect("the file is there");
        let blocks = file.metadata().expect("it is a file").len() / BLOCK_BYTES as u64;
        let config = Config {
            access: Access::ReadOnly,
            slots: 8,
            ..Config::default()
        };
        let disk = SealedDisk::new(key, [0; 32], Trust::FirstUse, blocks, config);
        let mut reader = Self {
            disk: disk.expect("the configuration will do"),
            file,
            ram: Ram {
                buffer: [0; BLOCK_BYTES],
                slots: vec![[0; BLOCK_BYTES]; usize::from(config.slots)],
            },
        };
        reader.rest();
        match reader.disk.state() {
            State::Open(_) => Ok(reader),
            state => Err(state),
        }
    }

    /// Reads a block; `None` if it is not authentic.
    #[expect(clippy::missing_panics_doc, reason = "for tests")]
    pub fn read(&mut self, block: u32) -> Option<Block> {
        let request = Request {
            token: Token(1),
            kind: Kind::Read,
            sector: u64::from(block) * 8,
            sectors: 8,
        };
        self.disk.submit(request).expect("there is room for one");
        self.rest();
        let done = self.disk.next_completion().expect("reads end");
        done.result.ok().map(|()| self.ram.buffer)
    }

    fn rest(&mut self) {
        loop {
            let work = self.disk.work(&mut self.ram);
            while self.disk.next_event().is_some() {}
            while let Some(io) = self.disk.next_io() {
                assert!(io.op == HostOp::Read, "a disk that is only read writes");
                for (block, slot) in (io.block.0..).zip(io.slots()) {
                    let buffer = &mut self.ram.slots[usize::from(slot.0)];
                    let read = self.file.read_exact_at(buffer, block * BLOCK_BYTES as u64);
                    read.expect("the file is long enough");
                }
                self.disk.complete(io.id, Ok(()));
            }
            if work == Work::Idle && self.disk.work(&mut self.ram) == Work::Idle {
                return;
            }
        }
    }
}

impl Memory for Ram {
    fn read_guest(&mut self, _: Token, _: usize, _: &mut [u8]) -> Result<(), MemoryError> {
        Err(MemoryError)
    }

    fn write_guest(&mut self, _: Token, offset: usize, from: &[u8]) -> Result<(), MemoryError> {
        let part = self.buffer.get_mut(offset..offset + from.len());
        part.ok_or(MemoryError)?.copy_from_slice(from);
        Ok(())
    }

    fn read_slot(&mut self, Slot(slot): Slot, into: &mut Block) {
        *into = self.slots[usize::from(slot)];
    }

    fn write_slot(&mut self, Slot(slot): Slot, from: &Block) {
        self.slots[usize::from(slot)] = *from;
    }
}
