//! Runs inside a guest: writes rounds of blocks to every disk named on its command line, flushes each round, and says so.
//!
//! `guest-check: flushed DISK ROUND`, in any order of disks; a round that is said is durable, or the disk lies. It ends with the guest.
//! With `--look` before the disks it first says of which round each block is that it finds: `guest-check: found DISK ROUND ROUND …`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;

use stockade_cases::flushes::{BLOCK_BYTES, BLOCKS, fill, round_of, runs};

fn main() {
    let (options, paths): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    if options.iter().any(|option| option == "--look") {
        for (disk, path) in (0..).zip(&paths) {
            match look(disk, path) {
                Ok(rounds) => println!("guest-check: found {disk}{rounds}"),
                Err(error) => println!("guest-check: failed {disk} {error}"),
            }
        }
    }
    let disks: Vec<_> = (0..)
        .zip(paths)
        .map(|(disk, path)| {
            thread::spawn(move || {
                if let Err(error) = work(disk, &path) {
                    println!("guest-check: failed {disk} {error}");
                }
            })
        })
        .collect();
    for disk in disks {
        // One that failed has said so.
        let _ = disk.join();
    }
}

/// Returns the rounds of all blocks, a blank before each; a block that is of none is `torn`.
fn look(disk: u32, path: &str) -> io::Result<String> {
    let file = File::open(path)?;
    let mut rounds = String::new();
    for block in 0..BLOCKS {
        let mut bytes = [0; BLOCK_BYTES];
        file.read_exact_at(&mut bytes, u64::from(block) * BLOCK_BYTES as u64)?;
        rounds += &match round_of(&bytes, disk, block) {
            Some(round) => format!(" {round}"),
            None => " torn".to_owned(),
        };
    }
    Ok(rounds)
}

fn work(disk: u32, path: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    for round in 1.. {
        write(&file, disk, round)?;
        file.sync_data()?;
        println!("guest-check: flushed {disk} {round}");
    }
    Ok(())
}

fn write(file: &File, disk: u32, round: u32) -> io::Result<()> {
    for run in runs(disk, round) {
        let mut bytes = vec![0; run.count as usize * BLOCK_BYTES];
        for (block, bytes) in (run.first..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            fill(bytes, disk, round, block);
        }
        file.write_all_at(&bytes, u64::from(run.first) * BLOCK_BYTES as u64)?;
    }
    Ok(())
}
