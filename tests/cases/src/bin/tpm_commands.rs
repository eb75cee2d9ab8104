//! Runs inside a guest: gives its TPM commands through the kernel's driver and says how long each took.
//!
//! `tpm_commands time` prints `guest-check: command NUMBER NAME TIMES MEDIAN MEAN` with times in microseconds, between lines `begin NUMBER` and
//! `end NUMBER`, and tells a model that counts exits which command is next. `tpm_commands keys COUNT` makes RSA keys and prints when it is through.

use std::arch::x86_64::__cpuid;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// The driver without the resource manager, so that a command is one command.
const DEVICE: &str = "/dev/tpm0";
/// Where the model counts exits by phase: leaf of CPUID (`stockade-model`, `snp::work`).
const MARK: u32 = 0x5354_4B00;

/// TPM 2.0 Part 2, 6.9 and 6.5.2.
const SESSIONS: u16 = 0x8002;
const NO_SESSIONS: u16 = 0x8001;
const CREATE_PRIMARY: u32 = 0x131;
const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const QUOTE: u32 = 0x158;
const UNSEAL: u32 = 0x15E;
const FLUSH_CONTEXT: u32 = 0x165;
const GET_RANDOM: u32 = 0x17B;
const PCR_EXTEND: u32 = 0x182;
const OWNER: u32 = 0x4000_0001;
const DEBUG_PCR: u32 = 16;

/// Public areas (Part 2, 12.2.4) of SHA-256 name: a storage key, one that signs what the TPM says, one that signs, and sealed data.
const STORAGE: &str = "0023 000b 00030072 0000 0006 0080 0043 0010 0003 0010 0000 0000";
const ATTESTATION: &str = "0023 000b 00050072 0000 0010 0018 000b 0003 0010 0000 0000";
const SIGNING: &str = "0001 000b 00040072 0000 0010 0010 0800 00000000 0000";
const SEALED: &str = "0008 000b 00000052 0000 0010 0000";
/// No password and no data; no password and 32 bytes.
const NOTHING: &str = "0000 0000";
const SECRET: &str = "0000 0020 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
/// A nonce, the key's own scheme, all PCRs of SHA-256.
const WHAT_TO_QUOTE: &str = "0004 11223344 0010 00000001 000b 03 ffffff";

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["time"] => time(&mut Tpm::open()?),
        ["keys", count] => keys(&mut Tpm::open()?, count.parse().unwrap_or(1)),
        _ => {
            println!("guest-check: usage: tpm_commands time | keys COUNT");
            Ok(())
        }
    }
}

fn time(tpm: &mut Tpm) -> io::Result<()> {
    let parent = tpm.primary()?;
    let random = [0, 0x20];
    measure(1, "GetRandom", 200, || {
        tpm.execute(NO_SESSIONS, GET_RANDOM, &random)
    })?;
    let digest = [&bytes("00000001 000b")[..], &[0x11; 32]].concat();
    let extend = with_password(DEBUG_PCR, &digest);
    measure(2, "PCR_Extend", 200, || {
        tpm.execute(SESSIONS, PCR_EXTEND, &extend)
    })?;
    let key = tpm.make(parent, NOTHING, ATTESTATION)?;
    let quote = with_password(key, &bytes(WHAT_TO_QUOTE));
    measure(3, "Quote", 40, || tpm.execute(SESSIONS, QUOTE, &quote))?;
    tpm.flush(key)?;
    let sealed = tpm.make(parent, SECRET, SEALED)?;
    let unseal = with_password(sealed, &[]);
    measure(4, "Unseal", 100, || tpm.execute(SESSIONS, UNSEAL, &unseal))?;
    tpm.flush(sealed)?;
    measure(5, "Create", 6, || tpm.create(parent, NOTHING, SIGNING))?;
    println!("guest-check: done");
    Ok(())
}

fn keys(tpm: &mut Tpm, count: u32) -> io::Result<()> {
    let parent = tpm.primary()?;
    println!("guest-check: begun");
    for _ in 0..count {
        tpm.create(parent, NOTHING, SIGNING)?;
    }
    println!("guest-check: made {count}");
    Ok(())
}

/// Does it once to warm up and then so many times. What is longest stays out of the median, not out of the mean.
fn measure(
    number: u32,
    name: &str,
    times: u32,
    mut command: impl FnMut() -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    command()?;
    println!("guest-check: begin {number}");
    // The console is slow, and none of this.
    std::thread::sleep(Duration::from_millis(200));
    mark(number);
    let mut took = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        command()?;
        took.push(begun.elapsed());
    }
    mark(0);
    took.sort_unstable();
    let median = took[took.len() / 2].as_micros();
    let mean = (took.iter().sum::<Duration>() / times).as_micros();
    println!("guest-check: end {number}");
    println!("guest-check: command {number} {name} {times} {median} {mean}");
    Ok(())
}

fn mark(phase: u32) {
    let _ = __cpuid(MARK + phase);
}

/// The kernel's TPM device.
struct Tpm {
    device: File,
}

impl Tpm {
    fn open() -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        Ok(Self { device })
    }

    /// Returns what comes after the header of a response that is a success.
    fn execute(&mut self, tag: u16, code: u32, rest: &[u8]) -> io::Result<Vec<u8>> {
        let len = u32::try_from(10 + rest.len()).map_err(io::Error::other)?;
        let mut command = tag.to_be_bytes().to_vec();
        command.extend_from_slice(&len.to_be_bytes());
        command.extend_from_slice(&code.to_be_bytes());
        command.extend_from_slice(rest);
        self.device.write_all(&command)?;
        let mut response = vec![0; 4096];
        let len = self.device.read(&mut response)?;
        response.truncate(len);
        match response.get(6..10) {
            Some([0, 0, 0, 0]) => Ok(response.split_off(10)),
            code => Err(io::Error::other(format!("the TPM says {code:02x?}"))),
        }
    }

    fn primary(&mut self) -> io::Result<u32> {
        let template = creation(NOTHING, STORAGE);
        let response = self.execute(SESSIONS, CREATE_PRIMARY, &with_password(OWNER, &template))?;
        handle(&response)
    }

    fn create(&mut self, parent: u32, sensitive: &str, public: &str) -> io::Result<Vec<u8>> {
        let template = creation(sensitive, public);
        self.execute(SESSIONS, CREATE, &with_password(parent, &template))
    }

    /// Creates an object and loads it.
    fn make(&mut self, parent: u32, sensitive: &str, public: &str) -> io::Result<u32> {
        let response = self.create(parent, sensitive, public)?;
        // Behind the parameters' size: the private area, then the public one, each behind a size of its own.
        let parts = response.get(4..).unwrap_or_default();
        let first = sized(parts)?;
        let second = sized(&parts[first..])?;
        let both = with_password(parent, &parts[..first + second]);
        let loaded = self.execute(SESSIONS, LOAD, &both)?;
        handle(&loaded)
    }

    fn flush(&mut self, handle: u32) -> io::Result<()> {
        self.execute(NO_SESSIONS, FLUSH_CONTEXT, &handle.to_be_bytes())?;
        Ok(())
    }
}

/// One handle, authorized by the empty password (Part 1, 18.4), and parameters.
fn with_password(handle: u32, parameters: &[u8]) -> Vec<u8> {
    let password = bytes("00000009 40000009 0000 01 0000");
    [&handle.to_be_bytes()[..], &password, parameters].concat()
}

/// Parameters of a creation: what is to be kept, its public area, nothing else.
fn creation(sensitive: &str, public: &str) -> Vec<u8> {
    let with_size = |words: &str| {
        let bytes = bytes(words);
        let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&size.to_be_bytes()[..], &bytes].concat()
    };
    [with_size(sensitive), with_size(public), vec![0; 6]].concat()
}

/// Returns the bytes of a structure that begins with its size, that included.
fn sized(bytes: &[u8]) -> io::Result<usize> {
    let size = bytes.first_chunk().map(|size| u16::from_be_bytes(*size));
    let whole = size.map(|size| 2 + usize::from(size));
    let fits = whole.filter(|whole| *whole <= bytes.len());
    fits.ok_or_else(|| io::Error::other("the response is cut off"))
}

fn handle(response: &[u8]) -> io::Result<u32> {
    let bytes = response.first_chunk();
    let bytes = bytes.ok_or_else(|| io::Error::other("the response has no handle"))?;
    Ok(u32::from_be_bytes(*bytes))
}

fn bytes(words: &str) -> Vec<u8> {
    let digits: Vec<u8> = words
        .chars()
        .filter_map(|c| u8::try_from(c.to_digit(16)?).ok())
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
