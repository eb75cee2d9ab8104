//! Streams of TPM commands through the front-end into the engine itself: libtpms in a process of its own, as it is in a module of its own.
//!
//! The engine must live, and whatever it is given answer in the form of an answer. Commands are those of the library, each of its
//! numbers, mutated; their sizes are mostly put right again, or hardly one would get past the front-end. A new process now and then
//! gives back what a stream has used up. `STOCKADE_TPM_STREAM_SECONDS` says how long; by default it is a few thousand commands.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use stockade_bus::Mmio;
use stockade_devices::tpm::command::{
    HEADER_BYTES, Header, Locality, MAX_BYTES, self_test, startup_clear,
};
use stockade_devices::tpm_crb::{Progress, Reach, TpmCrb, TpmPort};
use stockade_fuzz::mutate::Mutator;
use stockade_rig::tpm::SimulatedTpm;

const COMMANDS_BY_DEFAULT: usize = 3000;
/// After so many there is a new engine.
const COMMANDS_OF_ONE: usize = 2000;
/// The simulator's word for a command.
const SEND_COMMAND: u32 = 8;
/// The first and the last number of a command in TPM 2.0 Library 1.59, part 2, table 12.
const CODES: std::ops::RangeInclusive<u32> = 0x11F..=0x197;

/// Where the TPM is told to be, of the front-end's registers.
const LOC_CTRL: u64 = 0x08;
const CTRL_REQ: u64 = 0x40;
const CTRL_STS: u64 = 0x44;
const CTRL_CANCEL: u64 = 0x48;
const CTRL_START: u64 = 0x4C;
const BUFFER: u64 = 0x80;

/// The way to the process.
struct Port {
    stream: TcpStream,
    command: Vec<u8>,
}

impl Port {
    fn to(tpm: &SimulatedTpm) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", tpm.port())).expect("it listens");
        let limit = Some(Duration::from_secs(120));
        stream.set_read_timeout(limit).expect("it is not zero");
        stream.set_nodelay(true).expect("it is TCP");
        Self {
            stream,
            command: Vec::new(),
        }
    }

    fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        self.read(&mut word);
        u32::from_be_bytes(word)
    }

    fn read(&mut self, bytes: &mut [u8]) {
        let outcome = self.stream.read_exact(bytes);
        let command = hex::encode(&self.command);
        assert!(outcome.is_ok(), "{outcome:?} after {command}");
    }
}

impl TpmPort for Port {
    fn begin(&mut self, locality: Locality, command: &[u8]) {
        self.command = command.to_vec();
        let len = u32::try_from(command.len()).expect("it fits the buffer");
        let message = [
            &SEND_COMMAND.to_be_bytes()[..],
            &[locality.number()],
            &len.to_be_bytes(),
            command,
        ];
        let sent = self.stream.write_all(&message.concat());
        assert!(sent.is_ok(), "the engine is gone");
    }

    fn cancel(&mut self) {}

    fn poll(&mut self, response: &mut [u8; MAX_BYTES]) -> Progress {
        let len = usize::try_from(self.word()).expect("this is a big machine");
        assert!(len <= MAX_BYTES, "a response of {len} bytes");
        self.read(&mut response[..len]);
        assert_eq!(self.word(), 0, "the simulator's last word");
        let header = Header::read(&response[..len]);
        let command = &self.command;
        assert!(
            header.is_some_and(|it| it.size as usize == len),
            "{header:?} of {len} bytes after {command:02x?}"
        );
        Progress::Done(len)
    }

    fn is_established(&self) -> bool {
        false
    }

    fn reset_established(&mut self, _: Locality) {}
}

fn bytes(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b' ').collect();
    digits
        .chunks_exact(2)
        .map(|pair| std::str::from_utf8(pair).expect("they are ASCII"))
        .map(|pair| u8::from_str_radix(pair, 16).expect("they are hexadecimal"))
        .collect()
}

fn command(code: u32, body: &str) -> Vec<u8> {
    let body = bytes(body);
    // What begins with an authorization area has sessions.
    let tag = if body.windows(4).any(|it| it == [0x40, 0, 0, 9]) {
        0x8002_u16
    } else {
        0x8001
    };
    let mut command = tag.to_be_bytes().to_vec();
    command.extend_from_slice(&[0; 4]);
    command.extend_from_slice(&code.to_be_bytes());
    command.extend_from_slice(&body);
    sized(command)
}

/// Puts its size into a command's header.
fn sized(mut command: Vec<u8>) -> Vec<u8> {
    let len = u32::try_from(command.len()).unwrap_or(u32::MAX);
    if let Some(size) = command.get_mut(2..6) {
        size.copy_from_slice(&len.to_be_bytes());
    }
    command
}

/// Commands that are carried out, and one of each number that may or may not be.
fn seeds() -> Vec<Vec<u8>> {
    const PASSWORD: &str = "00000009 40000009 0000 00 0000";
    let with = |handles: &str, rest: &str| format!("{handles} {PASSWORD} {rest}");
    let storage = "0004 0000 0000 001a 0023 000b 00030072 0000 0006 0080 0043 0010 0003 0010 0000 0000 0000 00000000";
    let rsa =
        "0004 0000 0000 0018 0001 000b 00040072 0000 0010 0010 0800 00000000 0000 0000 00000000";
    let nv = "0000 000e 01500001 000b 00060006 0000 0020";
    let mut seeds = vec![startup_clear(), self_test()];
    for (code, body) in [
        (0x17A, "00000006 00000100 0000007f".to_owned()),
        (0x17A, "00000000 00000000 00000040".to_owned()),
        (0x17A, "00000005 00000000 00000001".to_owned()),
        (0x17B, "0020".to_owned()),
        (0x17E, "00000001 000b 03 ff0000".to_owned()),
        (
            0x182,
            with("00000010", &format!("00000001 000b {}", "11".repeat(32))),
        ),
        (0x13C, with("00000010", "0004 61626364")),
        (0x131, with("40000001", storage)),
        (0x131, with("40000007", rsa)),
        (0x153, with("81000003", rsa)),
        (0x173, "81010016".to_owned()),
        (0x173, "80000000".to_owned()),
        (0x15D, with("80000000", "0020").replace(PASSWORD, "")),
        (0x17D, "0003 616263 000b 40000007".to_owned()),
        (0x186, "0000 000b".to_owned()),
        (0x15C, with("80000001", "0003 616263")),
        (0x13E, with("80000001", "0003 616263 40000007")),
        (0x12A, with("40000001", nv)),
        (0x137, with("40000001 01500001", "0003 616263 0000")),
        (0x14E, with("40000001 01500001", "0003 0000")),
        (0x169, "01500001".to_owned()),
        (
            0x176,
            format!(
                "40000007 40000007 0010 {} 0000 01 0010 000b",
                "22".repeat(16)
            ),
        ),
        (0x17F, "03000000 0000 00000001 000b 03 800000".to_owned()),
        (0x16B, "03000000".to_owned()),
        (0x189, "03000000".to_owned()),
        (
            0x171,
            format!("03000000 00000002 0020 {0} 0020 {0}", "33".repeat(32)),
        ),
        (0x162, "80000000".to_owned()),
        (0x165, "80000000".to_owned()),
        (
            0x158,
            with("81000003", "0004 11223344 0010 00000001 000b 03 ffffff"),
        ),
        (0x148, with("81000003 81000003", "0000 0010")),
        (0x120, with("40000001 80000000", "81000010")),
        (0x181, String::new()),
        (0x14C, with("40000001 4000000b", "00000000 0010 000b")),
        (
            0x18A,
            "0001 000b 00040072 0000 0010 0010 0800 00000000 0000".to_owned(),
        ),
        (0x163, "80000000".to_owned()),
        (0x178, "0003".to_owned()),
        (0x139, with("4000000a", "")),
    ] {
        seeds.push(command(code, &body));
    }
    for code in CODES {
        for handles in ["", "80000000", "40000001", "80000000 81000003"] {
            let rest = "0008 0001020304050607 0000 0010 000b 0000 0000";
            seeds.push(command(code, &with(handles, rest)));
        }
        seeds.push(command(code, "03000000 0004 00010203 0000"));
    }
    seeds
}

/// Gives a command as a driver does, or nearly.
fn give(crb: &mut TpmCrb<Port>, command: &[u8], noise: u8) {
    let locality = if noise & 0x70 == 0x70 { 1 } else { 0 };
    let page = locality * 0x1000;
    let mut write = |at: u64, data: &[u8]| {
        let _ = crb.mmio_write(page + at, data);
    };
    write(LOC_CTRL, &[1, 0, 0, 0]);
    if noise & 7 != 7 {
        write(CTRL_REQ, &[1, 0, 0, 0]);
    }
    write(CTRL_CANCEL, &[u8::from(noise == 0x5A), 0, 0, 0]);
    let width = 1 + usize::from(noise & 15);
    for (part, at) in command.chunks(width).zip((BUFFER..).step_by(width)) {
        if at + width as u64 <= 0x1000 {
            write(at, part);
        }
    }
    write(CTRL_START, &[1, 0, 0, 0]);
    let mut response = [0; HEADER_BYTES];
    let _ = crb.mmio_read(page + BUFFER, &mut response);
    let mut status = [0; 4];
    let _ = crb.mmio_read(page + CTRL_STS, &mut status);
    assert_eq!(status[0] & 1, 0, "the front-end gave the engine up");
    let _ = crb.mmio_write(page + CTRL_REQ, &[2, 0, 0, 0]);
    let _ = crb.mmio_write(page + LOC_CTRL, &[2, 0, 0, 0]);
}

#[test]
fn engine_answers_any_stream_of_commands() {
    let seconds = std::env::var("STOCKADE_TPM_STREAM_SECONDS");
    let seconds = seconds.ok().and_then(|text| text.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let is_over = |given: usize| match end {
        Some(end) => Instant::now() >= end,
        None => given >= COMMANDS_BY_DEFAULT,
    };
    let seeds = seeds();
    let mut mutator = Mutator::new("tpm_streams", seeds.clone());
    let mut given = 0;
    while !is_over(given) {
        let tpm = SimulatedTpm::start(None);
        let mut crb = TpmCrb::new(Port::to(&tpm), Reach::Software);
        // What was seen to work does, the first time.
        if given == 0 {
            seeds.iter().for_each(|seed| give(&mut crb, seed, 0));
        }
        for _ in 0..COMMANDS_OF_ONE {
            let input = mutator.input();
            let noise = input
                .iter()
                .fold(0_u8, |sum, byte| sum.wrapping_mul(31) ^ byte);
            let input = if noise & 7 == 0 { input } else { sized(input) };
            give(&mut crb, &input, noise);
            given += 1;
            if is_over(given) {
                break;
            }
        }
    }
    eprintln!("{given} commands");
}
