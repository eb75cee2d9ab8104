//! What a file is said to be, and whether it is: `stockade disk check`.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use stockade_storage::disk::check::{CheckError, ReadBlocks, Report, check as check_tree};
use stockade_storage::disk::format::{Header, Superblock};
use stockade_storage::disk::geometry::Geometry;
use stockade_storage::store::format::Header as StoreHeader;
use stockade_storage::{BLOCK_BYTES, DiskKey, Fault, HostBlock, StoreFault};

use super::{Blocks, Content, DiskError, Lock, glance, length, open};

/// Checks a disk or a store and says what it is; an error if anything is wrong with it.
pub fn check(path: &Path, key: Option<&DiskKey>) -> Result<String, DiskError> {
    // A disk that is written meanwhile would look damaged.
    let file = open(path, Lock::Shared)?;
    describe(path, &file, key)
}

pub(super) fn describe(
    path: &Path,
    file: &File,
    key: Option<&DiskKey>,
) -> Result<String, DiskError> {
    let failed = |source| DiskError::Read {
        path: path.into(),
        source,
    };
    let length = length(file).map_err(failed)?;
    let mut first = [0; BLOCK_BYTES];
    let mut blocks = Blocks { file };
    if length >= BLOCK_BYTES as u64 {
        blocks.read(HostBlock(0), &mut first).map_err(failed)?;
    }
    match Header::read(&first) {
        Ok((header, geometry)) => describe_sealed(path, file, length, (&header, &geometry), key),
        Err(Fault::NotSealed) => describe_other(path, &first, length, key),
        Err(fault) => Err(DiskError::Fault {
            path: path.into(),
            fault,
        }),
    }
}

fn describe_sealed(
    path: &Path,
    file: &File,
    host_bytes: u64,
    (header, geometry): (&Header, &Geometry),
    key: Option<&DiskKey>,
) -> Result<String, DiskError> {
    let failed = |source| DiskError::Read {
        path: path.into(),
        source,
    };
    let of = |fault| DiskError::Fault {
        path: path.into(),
        fault,
    };
    let metadata = file.metadata().map_err(failed)?;
    let host_blocks = host_bytes / BLOCK_BYTES as u64;
    if host_blocks < geometry.total_blocks() {
        return Err(of(Fault::Truncated {
            found: host_blocks,
            expected: geometry.total_blocks(),
        }));
    }
    let mut text = String::new();
    let identity = hex::encode(header.disk());
    let size = geometry.logical_blocks() * BLOCK_BYTES as u64;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "sealed disk    format 1, identity {identity}");
    let _ = writeln!(
        text,
        "size           {size} bytes; the file takes {}",
        match metadata.is_file() {
            true => metadata.blocks() * 512,
            false => host_bytes,
        }
    );
    let mut blocks = Blocks { file };
    let Some(key) = key else {
        let generation = claimed_generation(&mut blocks).map_err(failed)?;
        let _ = writeln!(
            text,
            "generation     {generation}, as the file claims: without its key nothing else can be checked"
        );
        return Ok(text);
    };
    let report = match check_tree(&mut blocks, key, host_blocks) {
        Ok(report) => report,
        Err(CheckError::Fault(fault)) => return Err(of(fault)),
        Err(CheckError::Read(source)) => return Err(failed(source)),
    };
    write_report(&mut text, &report);
    match report.problems.first() {
        None => Ok(text),
        Some(first) => Err(DiskError::Damaged {
            path: path.into(),
            count: report.problem_count,
            first: *first,
        }),
    }
}

fn write_report(text: &mut String, report: &Report) {
    let Report {
        generation,
        nodes,
        blocks,
        leaked,
        ..
    } = report;
    let _ = if *generation == 0 {
        writeln!(text, "generation     0: never opened, empty")
    } else {
        writeln!(
            text,
            "generation     {generation}, authentic; whether it is the newest only the store knows"
        )
    };
    let _ = writeln!(
        text,
        "contents       {blocks} blocks of data and {nodes} nodes, all authentic; {leaked} blocks lost"
    );
}

fn describe_other(
    path: &Path,
    first: &[u8; BLOCK_BYTES],
    length: u64,
    key: Option<&DiskKey>,
) -> Result<String, DiskError> {
    let fault = |fault| DiskError::Store {
        path: path.into(),
        fault,
    };
    match StoreHeader::read(first) {
        Ok(header) => {
            glance::check_store_length(&header, length).map_err(fault)?;
            Ok(format!(
                "sealed store   format 1, two areas of {} blocks\n",
                header.area_blocks()
            ))
        }
        Err(StoreFault::NotAStore) if key.is_some() => Err(DiskError::Fault {
            path: path.into(),
            fault: Fault::NotSealed,
        }),
        Err(StoreFault::NotAStore) => Ok(describe_unsealed(Content::of_first(first), length)),
        Err(error) => Err(fault(error)),
    }
}

fn describe_unsealed(content: Content, length: u64) -> String {
    let named = |name| {
        let kind = format!("{name} disk");
        format!("{kind:<14} in a file of {length} bytes, which only QEMU can check\n")
    };
    match content {
        Content::Qcow2 => named("qcow2"),
        Content::Foreign(name) => named(name),
        _ => format!("plain disk     {length} bytes, nothing to check\n"),
    }
}

/// Returns the higher generation of the two superblocks, whatever made them.
fn claimed_generation(blocks: &mut Blocks<'_>) -> io::Result<u64> {
    let mut generation = 0;
    let mut bytes = [0; BLOCK_BYTES];
    for at in [1, 2] {
        blocks.read(HostBlock(at), &mut bytes)?;
        let claimed = Superblock::read_unverified(&bytes);
        generation = generation.max(claimed.map_or(0, |superblock| superblock.generation.get()));
    }
    Ok(generation)
}
