//! Runs inside a guest with test devices: sends a module of the paravisor a message and prints what comes back.
//!
//! `module_client NUMBER TEXT [cancel]` prints `guest-check: module NUMBER STATE TEXT`, with the state as the channel has it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The device's first port: data, command and state, which module, what is left of the response.
const PORT: u64 = 0x5A0;
const POST: u8 = 1;
const CANCEL: u8 = 2;
const TAKE: u8 = 4;
const BUSY: u8 = 1;
const ANSWERED: u8 = 2;
const PATIENCE: Duration = Duration::from_secs(90);

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let [_, number, text, rest @ ..] = words.as_slice() else {
        println!("guest-check: usage: module_client NUMBER TEXT [cancel]");
        return Ok(());
    };
    let ports = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/port")?;
    write(&ports, 2, number.parse().unwrap_or(0))?;
    for byte in text.bytes() {
        write(&ports, 0, byte)?;
    }
    write(&ports, 1, POST)?;
    if !rest.is_empty() {
        sleep(Duration::from_millis(50));
        write(&ports, 1, CANCEL)?;
    }
    let began = Instant::now();
    let mut state = read(&ports, 1)?;
    while state == BUSY && began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(1));
        state = read(&ports, 1)?;
    }
    let mut answer = Vec::new();
    if state == ANSWERED {
        write(&ports, 1, TAKE)?;
        while read(&ports, 3)? != 0 {
            answer.push(read(&ports, 0)?);
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    println!("guest-check: module {number} {state} {answer}");
    Ok(())
}

fn read(ports: &File, port: u64) -> std::io::Result<u8> {
    let mut byte = [0];
    ports.read_exact_at(&mut byte, PORT + port)?;
    Ok(byte[0])
}

fn write(ports: &File, port: u64, byte: u8) -> std::io::Result<()> {
    ports.write_all_at(&[byte], PORT + port)
}
