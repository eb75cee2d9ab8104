//! `stockade disk`: files for a guest's disks, and for the store that remembers which of them is the newest.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stockade::disk;

use crate::failure::Failure;
use crate::values;

/// Arguments of `stockade disk`.
#[derive(Debug, Subcommand)]
pub(crate) enum Disk {
    /// Makes an empty disk. It takes no room until it is written.
    Create(Create),
    /// Makes an empty sealed store, which remembers the newest state of sealed disks.
    CreateStore(CreateStore),
    /// Makes a sealed disk usable again after its store (--state) was lost. Whether it is the newest is then for the holder of its key to know.
    Adopt(Adopt),
    /// Checks a disk: what can be seen without a key, or with --disk-key every block.
    Check(Check),
}

/// Arguments of `stockade disk create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The file to make.
    file: PathBuf,
    /// The size the guest sees: bytes, or a number with K, M, G or T
    #[arg(long, value_parser = values::parse_disk_size)]
    size: u64,
    /// Encrypted and authenticated by the paravisor; the guest need not know (default)
    #[arg(long, conflicts_with = "plain")]
    sealed: bool,
    /// As the guest writes it
    #[arg(long, conflicts_with = "disk_key")]
    plain: bool,
    /// A file with the key, 32 bytes or 64 hexadecimal digits; without it the paravisor formats the disk, under a key of its own
    #[arg(long, value_name = "FILE")]
    disk_key: Option<PathBuf>,
}

/// Arguments of `stockade disk create-store`.
#[derive(Debug, Args)]
pub(crate) struct CreateStore {
    /// The file to make.
    file: PathBuf,
}

/// Arguments of `stockade disk adopt`.
#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// The disk.
    file: PathBuf,
    /// A file with its key, 32 bytes or 64 hexadecimal digits. A disk under a key of the machine's own has none, and belongs to its store for good
    #[arg(long, value_name = "FILE")]
    disk_key: PathBuf,
}

/// Arguments of `stockade disk check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The disk.
    file: PathBuf,
    /// A file with the key, 32 bytes or 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    disk_key: Option<PathBuf>,
}

/// Does what was asked, and returns what there is to print.
pub(crate) fn disk(command: &Disk) -> Result<String, Failure> {
    match command {
        Disk::Create(arguments) if arguments.plain && !arguments.sealed => {
            disk::create_plain(&arguments.file, arguments.size)?;
        }
        Disk::Create(arguments) => {
            let key = arguments.disk_key.as_deref().map(disk::read_key);
            let key = key.transpose()?;
            disk::create_sealed(&arguments.file, arguments.size, key.as_ref())?;
        }
        Disk::CreateStore(arguments) => disk::create_store(&arguments.file)?,
        Disk::Adopt(arguments) => {
            let key = disk::read_key(&arguments.disk_key)?;
            return Ok(disk::adopt(&arguments.file, &key)?);
        }
        Disk::Check(arguments) => {
            let key = arguments.disk_key.as_deref().map(disk::read_key);
            return Ok(disk::check(&arguments.file, key.transpose()?.as_ref())?);
        }
    }
    Ok(String::new())
}
