//! Checking a whole disk that nobody uses: every node, every data block, and that no two of them share a place.

use alloc::vec::Vec;

use super::entry::{Entry, FAN_OUT};
use super::fault::Fault;
use super::format::{Header, History, Superblock};
use super::geometry::{BITMAP_BLOCKS, Geometry, Node};
use super::seals::Seals;
use super::space::{bits_of, is_used};
use crate::host::{BLOCK_BYTES, HostBlock};
use crate::key::DiskKey;

/// Where blocks are read from.
pub trait ReadBlocks {
    /// Why a block cannot be read.
    type Error;

    /// Reads a block.
    ///
    /// # Errors
    /// Whatever the file has.
    fn read(&mut self, block: HostBlock, into: &mut [u8; BLOCK_BYTES]) -> Result<(), Self::Error>;
}

/// Something wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A node is not what was stored; all below it is lost.
    #[error("node {index} of level {level} is not what was stored")]
    Node {
        /// From the leaves.
        level: usize,
        /// From the left.
        index: u32,
    },
    /// A data block is not what was stored.
    #[error("block {block} is not what was stored")]
    Data {
        /// The logical block.
        block: u64,
    },
    /// Two blocks have one place, or a place outside the disk.
    #[error("block {block} has a place that is another's or none")]
    Place {
        /// The logical block.
        block: u64,
    },
    /// A block in use is marked free.
    #[error("the place of {0} blocks in use is marked free")]
    MarkedFree(u64),
}

/// What is on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of the newest superblock; 0: the disk is empty.
    pub generation: u64,
    /// Nodes that are authentic.
    pub nodes: u64,
    /// Logical blocks that hold data and are authentic.
    pub blocks: u64,
    /// Blocks marked as in use that hold nothing: lost room, harmless.
    pub leaked: u64,
    /// What is wrong, as far as it was kept.
    pub problems: Vec<Problem>,
    /// How much is wrong.
    pub problem_count: u64,
}

/// Problems kept in a report.
const MOST_PROBLEMS: usize = 32;

impl Report {
    fn note(&mut self, problem: Problem) {
        self.problem_count += 1;
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Why a disk could not be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckError<E> {
    /// It cannot even be opened.
    Fault(Fault),
    /// The file cannot be read.
    Read(E),
}

/// Checks a disk, with its key. `host_blocks` is the length of the file.
///
/// # Errors
/// It cannot be opened, or the file cannot be read. Whatever is wrong with the disk's contents is in the report.
pub fn check<R: ReadBlocks>(
    source: &mut R,
    key: &DiskKey,
    host_blocks: u64,
) -> Result<Report, CheckError<R::Error>> {
    let opened = open(source, key, host_blocks)?;
    let Opened {
        geometry, seals, ..
    } = &opened;
    let Some(superblock) = opened.superblock.as_ref() else {
        return Ok(Report::default());
    };
    let words = usize::try_from(geometry.data_blocks() / 64 + 1).unwrap_or(0);
    let mut checker = Checker {
        source,
        seals,
        geometry,
        used: alloc::vec![0; words],
        marked: alloc::vec![0; words],
        report: Report {
            generation: superblock.generation.get(),
            ..Report::default()
        },
    };
    let top = geometry.node(geometry.top());
    checker
        .node(top, &superblock.root)
        .map_err(CheckError::Read)?;
    Ok(checker.finish())
}

/// Returns the superblock that makes the disk, as it is, one no store has remembered: who has its key says so when the store is lost. None
/// if it is one already.
///
/// # Errors
/// It cannot be opened, or the file cannot be read.
pub fn forgotten<R: ReadBlocks>(
    source: &mut R,
    key: &DiskKey,
    host_blocks: u64,
) -> Result<Option<Superblock>, CheckError<R::Error>> {
    let Opened {
        header,
        seals,
        superblock,
        ..
    } = open(source, key, host_blocks)?;
    let superblock = superblock.filter(|last| last.history() == History::Anchored);
    Ok(superblock.map(|last| {
        // The next generation, so that it is written over the older of the two.
        let generation = last.generation.get().saturating_add(1);
        Superblock::new(&seals, &header, generation, last.root, last.cursor.get())
    }))
}

/// What a disk says of itself.
struct Opened {
    header: Header,
    geometry: Geometry,
    seals: Seals,
    superblock: Option<Superblock>,
}

fn open<R: ReadBlocks>(
    source: &mut R,
    key: &DiskKey,
    host_blocks: u64,
) -> Result<Opened, CheckError<R::Error>> {
    let mut block = [0; BLOCK_BYTES];
    source
        .read(HostBlock(0), &mut block)
        .map_err(CheckError::Read)?;
    let (header, geometry) = Header::read(&block).map_err(CheckError::Fault)?;
    if geometry.total_blocks() > host_blocks {
        return Err(CheckError::Fault(Fault::Truncated {
            found: host_blocks,
            expected: geometry.total_blocks(),
        }));
    }
    // No nonce is drawn from the entropy: superblocks have none.
    let seals = Seals::new(key, header.disk(), &[0; 32]);
    let superblock = newest(source, &header, &seals)?;
    Ok(Opened {
        header,
        geometry,
        seals,
        superblock,
    })
}

/// Returns the newest authentic superblock; none if both blocks are empty.
fn newest<R: ReadBlocks>(
    source: &mut R,
    header: &Header,
    seals: &Seals,
) -> Result<Option<Superblock>, CheckError<R::Error>> {
    let mut newest: Option<Superblock> = None;
    let mut is_empty = true;
    let mut block = [0; BLOCK_BYTES];
    for at in [HostBlock(1), HostBlock(2)] {
        source.read(at, &mut block).map_err(CheckError::Read)?;
        is_empty &= block.iter().all(|byte| *byte == 0);
        if let Ok(superblock) = Superblock::read(seals, header, at, &block) {
            let generation = superblock.generation.get();
            let is_newer = |newest: &Superblock| newest.generation.get() < generation;
            if newest.as_ref().is_none_or(is_newer) {
                newest = Some(superblock);
            }
        }
    }
    if newest.is_none() && !is_empty {
        return Err(CheckError::Fault(Fault::Superblock));
    }
    Ok(newest)
}

struct Checker<'a, R> {
    source: &'a mut R,
    seals: &'a Seals,
    geometry: &'a Geometry,
    /// Places leaves point to, a bit each.
    used: Vec<u64>,
    /// Places bitmaps mark as in use.
    marked: Vec<u64>,
    report: Report,
}

impl<R: ReadBlocks> Checker<'_, R> {
    /// Checks a node and all below it.
    fn node(&mut self, node: Node, entry: &Entry) -> Result<(), R::Error> {
        if entry.is_absent() {
            return Ok(());
        }
        let number = self.geometry.number(node);
        let mut bytes = alloc::boxed::Box::new([0; BLOCK_BYTES]);
        let is_right = match entry.home() {
            Some(home) => {
                self.source
                    .read(self.geometry.home(number, home), &mut bytes)?;
                self.seals.check_node(&entry.seal(), &bytes).is_ok()
            }
            None => false,
        };
        if !is_right {
            self.report.note(Problem::Node {
                level: node.level,
                index: node.index,
            });
            return Ok(());
        }
        self.report.nodes += 1;
        let leaves = self.geometry.count(0) - self.geometry.bitmaps();
        match node.level.checked_sub(1) {
            Some(level) => self.children(level, node.index, &bytes),
            None if node.index < leaves => self.leaf(node.index, &bytes),
            None => {
                self.bitmap(node.index - leaves, &bytes);
                Ok(())
            }
        }
    }

    fn children(
        &mut self,
        level: usize,
        parent: u32,
        bytes: &[u8; BLOCK_BYTES],
    ) -> Result<(), R::Error> {
        for (place, index) in (parent * FAN_OUT..self.geometry.count(level))
            .take(FAN_OUT as usize)
            .enumerate()
        {
            self.node(Node { level, index }, &Entry::read(bytes, place))?;
        }
        Ok(())
    }

    fn leaf(&mut self, index: u32, bytes: &[u8; BLOCK_BYTES]) -> Result<(), R::Error> {
        let first = u64::from(index) * u64::from(FAN_OUT);
        for (place, block) in (first..self.geometry.logical_blocks())
            .take(FAN_OUT as usize)
            .enumerate()
        {
            let entry = Entry::read(bytes, place);
            let Some(number) = entry.data() else {
                continue;
            };
            match self.geometry.data(number) {
                Some(at) if set(&mut self.used, u64::from(number)) => {
                    self.data(block, at, &entry)?;
                }
                _ => self.report.note(Problem::Place { block }),
            }
        }
        Ok(())
    }

    fn data(&mut self, block: u64, at: HostBlock, entry: &Entry) -> Result<(), R::Error> {
        let mut bytes = [0; BLOCK_BYTES];
        self.source.read(at, &mut bytes)?;
        match self.seals.open_data(block, &entry.seal(), &mut bytes) {
            Ok(()) => self.report.blocks += 1,
            Err(_) => self.report.note(Problem::Data { block }),
        }
        Ok(())
    }

    fn bitmap(&mut self, index: u32, bytes: &[u8; BLOCK_BYTES]) {
        for bit in 0..bits_of(index, self.geometry) {
            if is_used(bytes, bit) {
                set(
                    &mut self.marked,
                    u64::from(index) * BITMAP_BLOCKS + u64::from(bit),
                );
            }
        }
    }

    fn finish(mut self) -> Report {
        let mut free = 0;
        for (used, marked) in self.used.iter().zip(&self.marked) {
            self.report.leaked += u64::from((marked & !used).count_ones());
            free += u64::from((used & !marked).count_ones());
        }
        if free > 0 {
            self.report.note(Problem::MarkedFree(free));
        }
        self.report
    }
}

/// Sets a bit; `false` if it was set.
fn set(bits: &mut [u64], bit: u64) -> bool {
    let word = usize::try_from(bit / 64).unwrap_or(usize::MAX);
    match bits.get_mut(word) {
        Some(word) => {
            let mask = 1 << (bit % 64);
            let was_clear = *word & mask == 0;
            *word |= mask;
            was_clear
        }
        None => false,
    }
}
