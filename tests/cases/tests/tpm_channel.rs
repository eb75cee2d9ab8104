//! The TPM's engine as a process that is asked as a module is: over descriptors that keep messages apart (`docs/modules.md`).

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use stockade_devices::tpm::command::{
    self, CommandCode, Locality, ResponseCode, response_code, startup_clear,
};
use stockade_devices::tpm::message::{CANCEL, MAX_MESSAGE_BYTES, Request, read_response};
use stockade_rig::tpm::engine;

const CREATE_PRIMARY: CommandCode = CommandCode(0x131);
const NULL_HIERARCHY: u32 = 0x4000_0007;
const FLUSH_CONTEXT: CommandCode = CommandCode(0x165);
const GET_RANDOM: CommandCode = CommandCode(0x17B);
/// In which a key of 3072 bits has been begun, and hardly ever made.
const MIDWAY: Duration = Duration::from_millis(100);
const ATTEMPTS: u8 = 20;

/// Returns the command that makes an RSA key of 3072 bits, another one by each number.
fn create_rsa_3072(number: u8) -> Vec<u8> {
    // RSA, SHA-256, signs and is used by its empty authorization value; no policy, no scheme, 3072 bits, the usual exponent.
    let mut public = vec![0, 1, 0, 0x0B, 0, 4, 0, 0x72, 0, 0, 0, 0x10, 0, 0x10];
    public.extend_from_slice(&[0x0C, 0, 0, 0, 0, 0, 0, 1, number]);
    let mut parameters = vec![0, 4, 0, 0, 0, 0];
    parameters.extend_from_slice(&u16::try_from(public.len()).unwrap().to_be_bytes());
    parameters.extend_from_slice(&public);
    parameters.extend_from_slice(&[0; 6]);
    command::authorized(CREATE_PRIMARY, &[NULL_HIERARCHY], &parameters)
}

/// Tries until a key is cancelled in the midst of its making: some are made sooner. `execute` executes a command, and cancels it after
/// so long, if that is not zero.
pub(crate) fn is_cancelled_midway(mut execute: impl FnMut(Duration, &[u8]) -> Vec<u8>) -> bool {
    (0..ATTEMPTS).any(|number| {
        let response = execute(MIDWAY, &create_rsa_3072(number));
        match response_code(&response) {
            ResponseCode::CANCELED => true,
            code => {
                assert_eq!(code, ResponseCode::SUCCESS);
                let flush = command::plain(FLUSH_CONTEXT, &response[10..14]);
                let flushed = execute(Duration::ZERO, &flush);
                assert_eq!(response_code(&flushed), ResponseCode::SUCCESS);
                false
            }
        }
    })
}

/// The engine, and the other end of its channel.
struct Module {
    process: Child,
    channel: File,
    /// Whoever reads from it finds its end when this is dropped.
    _reports: OwnedFd,
}

impl Module {
    fn start() -> Self {
        let pair = || {
            let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
            socketpair(AddressFamily::Unix, kind, None, flags).unwrap()
        };
        let ((channel, its_channel), (records, its_records), (reports, its_reports)) =
            (pair(), pair(), pair());
        let process = Command::new("sh")
            .args([
                "-c",
                "exec \"$0\" 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>&1",
            ])
            .arg(&engine().program)
            .stdin(its_channel)
            .stdout(its_records)
            .stderr(its_reports)
            .spawn()
            .unwrap();
        thread::spawn(|| keep_records(records.into()));
        Self {
            process,
            channel: channel.into(),
            _reports: reports,
        }
    }

    fn send(&mut self, request: &Request<'_>) {
        let mut message = [0; MAX_MESSAGE_BYTES];
        self.channel
            .write_all(request.write(&mut message).unwrap())
            .unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut message = [0; MAX_MESSAGE_BYTES];
        let len = self.channel.read(&mut message).unwrap();
        read_response(&message[..len]).unwrap().to_vec()
    }

    fn execute(&mut self, command: &[u8]) -> Vec<u8> {
        let locality = Locality::ZERO;
        self.send(&Request::Execute { locality, command });
        self.receive()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves a record store until its user is gone.
fn keep_records(mut store: File) {
    let mut records = BTreeMap::new();
    let mut message = [0; MAX_MESSAGE_BYTES];
    while let Ok(len @ 2..) = store.read(&mut message) {
        let (name, value) = message[2..len].split_at(message[1].into());
        let answer = match message[0] {
            1 => match records.get(name) {
                Some(value) => [&[0], Vec::as_slice(value)].concat(),
                None => vec![1],
            },
            2 => {
                records.insert(name.to_vec(), value.to_vec());
                vec![0]
            }
            _ => vec![u8::from(records.remove(name).is_none())],
        };
        if store.write_all(&answer).is_err() {
            return;
        }
    }
}

#[test]
fn a_command_is_cancelled_by_its_channel() {
    let mut module = Module::start();
    module.send(&Request::PowerOn { flags: 0 });
    assert!(module.receive().is_empty());
    assert_eq!(
        response_code(&module.execute(&startup_clear())),
        ResponseCode::SUCCESS
    );
    assert!(is_cancelled_midway(|delay, command| {
        let locality = Locality::ZERO;
        module.send(&Request::Execute { locality, command });
        if !delay.is_zero() {
            thread::sleep(delay);
            module.channel.write_all(&CANCEL).unwrap();
        }
        module.receive()
    }));
    // What comes too late is for no other command.
    module.channel.write_all(&CANCEL).unwrap();
    let random = command::plain(GET_RANDOM, &[0, 8]);
    let answer = module.execute(&random);
    assert_eq!(
        (response_code(&answer), answer.len()),
        (ResponseCode::SUCCESS, 20)
    );
}
