//! An engine for the TPM that is none: it answers as one until its TPM has been tested, and then, in each life of the guest, in another
//! way that no TPM answers.
//!
//! Built by the tests with `rustc` alone, as a static program. What it is asked is a message of `devices/src/tpm/message.rs`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

const EXECUTE: u8 = 1;
const POWER_ON: u8 = 2;
const SELF_TEST: [u8; 4] = [0, 0, 1, 0x43];
/// The message's status, and a TPM's response that says no more than that all is well.
const DONE: u8 = 0;
const SUCCESS: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0];
const LONGEST: usize = 8192;

fn main() -> std::io::Result<()> {
    // SAFETY: descriptor 3 is the channel, 4 the record store, and nobody else uses them.
    let (mut channel, mut records) = unsafe { (File::from_raw_fd(3), File::from_raw_fd(4)) };
    let mut message = [0; LONGEST];
    let (mut life, mut is_tested, mut misdeeds) = (0, false, 0);
    loop {
        let len = channel.read(&mut message)?;
        let message = &message[..len];
        let answer = match message[0] {
            POWER_ON => {
                (is_tested, misdeeds) = (false, 0);
                life = next_life(&mut records)?;
                println!("life {life}");
                // No answer at all, and in other lives that all is well.
                if life == 1 { vec![] } else { vec![DONE] }
            }
            EXECUTE if is_tested => {
                misdeeds += 1;
                println!("command {misdeeds} in life {life}");
                misbehave(life, misdeeds - 1)
            }
            EXECUTE => {
                // Behind the message's header and the command's tag and size.
                is_tested = message[10..14] == SELF_TEST;
                [&[DONE], &SUCCESS[..]].concat()
            }
            _ => vec![DONE, 0],
        };
        // Whole, or not at all; an empty one is one, too.
        let _ = channel.write(&answer)?;
    }
}

/// Counts the lives of the guest, where that outlasts a crash.
fn next_life(records: &mut File) -> std::io::Result<u8> {
    let mut answer = [0; 16];
    records.write_all(&[1, 1, b'n'])?;
    let len = records.read(&mut answer)?;
    let life = if len == 2 { answer[1] + 1 } else { 1 };
    records.write_all(&[2, 1, b'n', life])?;
    records.read(&mut answer)?;
    Ok(life)
}

/// What comes in answer to a command of a tested TPM: so many came before it in this life.
fn misbehave(life: u8, before: u32) -> Vec<u8> {
    let garbage = |len: usize| (0..len).map(|at| (at * 37 + 11) as u8);
    match (life, before) {
        // Shorter than a header; none; one that lies about the length; more than the guest's buffer holds.
        (2, 0) => vec![DONE, 0x80, 1],
        (2, _) => std::iter::once(DONE).chain(garbage(300)).collect(),
        (3, 0) => vec![DONE, 0x80, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 1, 2, 3],
        (3, _) => std::iter::once(DONE).chain(garbage(LONGEST - 1)).collect(),
        (4, _) => std::process::abort(),
        (5, _) => loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        },
        _ => vec![DONE, 0x80, 1],
    }
}
