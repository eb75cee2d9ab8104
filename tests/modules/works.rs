//! A module of the paravisor that works as long as it is told: a request is a number of rounds, the answer what came of them.
//!
//! Built by the tests with `rustc` alone, as a static program.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

fn main() -> std::io::Result<()> {
    // SAFETY: descriptor 3 is the channel, and nobody else uses it.
    let mut channel = unsafe { File::from_raw_fd(3) };
    let mut message = [0; 64];
    loop {
        let len = channel.read(&mut message)?;
        let text = String::from_utf8_lossy(&message[..len]);
        let rounds: u64 = text.trim().parse().unwrap_or(0);
        let mut sum = 0_u64;
        for round in 0..rounds {
            sum = black_box(sum.wrapping_mul(3).wrapping_add(round));
        }
        channel.write_all(format!("{sum:x}").as_bytes())?;
    }
}
