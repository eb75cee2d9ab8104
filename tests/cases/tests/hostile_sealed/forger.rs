//! The hand of a host on a sealed disk's file: without its key, but with the tree's pointers, which it can read.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use stockade_storage::disk::entry::Entry;
use stockade_storage::disk::format::{Header, Superblock};
use stockade_storage::disk::geometry::{Geometry, NodeNumber};
use stockade_storage::{BLOCK_BYTES, HostBlock};

pub(crate) type Block = [u8; BLOCK_BYTES];

/// A file in the host's hands.
pub(crate) struct Forger {
    file: File,
    geometry: Geometry,
}

impl Forger {
    pub(crate) fn open(path: &Path) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let mut header = [0; BLOCK_BYTES];
        file.read_exact_at(&mut header, 0).unwrap();
        let (_, geometry) = Header::read(&header).unwrap();
        Self { file, geometry }
    }

    pub(crate) fn read(&self, HostBlock(block): HostBlock) -> Block {
        let mut bytes = [0; BLOCK_BYTES];
        let at = block * BLOCK_BYTES as u64;
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub(crate) fn write(&self, HostBlock(block): HostBlock, bytes: &Block) {
        let at = block * BLOCK_BYTES as u64;
        self.file.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn flip(&self, block: HostBlock, offset: usize) {
        let mut bytes = self.read(block);
        bytes[offset] ^= 0x10;
        self.write(block, &bytes);
    }

    /// Cuts the last block off.
    pub(crate) fn truncate(&self) {
        let len = self.file.metadata().unwrap().len();
        self.file.set_len(len - BLOCK_BYTES as u64).unwrap();
    }

    /// Returns where a logical block lies.
    pub(crate) fn data(&self, logical: u64) -> HostBlock {
        let (_, leaf) = self.node(self.geometry.leaf(logical));
        let entry = Entry::read(&leaf, place(logical));
        let number = entry.data().expect("the block was written");
        self.geometry.data(number).expect("it is on the disk")
    }

    /// Returns where a leaf lies.
    pub(crate) fn leaf(&self, logical: u64) -> HostBlock {
        self.node(self.geometry.leaf(logical)).0
    }

    /// Follows the pointers from the newest superblock.
    fn node(&self, number: NodeNumber) -> (HostBlock, Block) {
        let entry = match self.geometry.parent(number) {
            None => self.newest().root,
            Some(parent) => {
                let index = self.geometry.node(number).index;
                Entry::read(&self.node(parent).1, place(u64::from(index)))
            }
        };
        let home = entry.home().expect("the node was written");
        let block = self.geometry.home(number, home);
        (block, self.read(block))
    }

    fn newest(&self) -> Superblock {
        let superblocks = [1, 2].map(|at| Superblock::read_unverified(&self.read(HostBlock(at))));
        let newest = superblocks.into_iter().flatten();
        let newest = newest.max_by_key(|superblock| superblock.generation.get());
        newest.expect("the disk was formatted")
    }
}

fn place(index: u64) -> usize {
    usize::try_from(index % 128).unwrap()
}
