//! A holder of keys, and a host between it and the machine that does something else each time.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stockade::attest::{Certificates, RootChoice};
use stockade::keys::Holder;
use stockade_rig::Stockade;
use stockade_storage::DiskKey;
use stockade_storage::release::Evidence;
use stockade_storage::release::envelope::seal;
use stockade_storage::release::message::{HEADER_BYTES, Kind, frame, read_header};

/// What becomes of one machine's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The holder answers it, and the answer is kept.
    Honest,
    /// The answer is the one that was kept.
    Replayed,
    /// A bit of the answer is changed.
    Tampered,
    /// The host seals a key of its own.
    OwnKey,
    /// The host answers with bytes of its own.
    Nonsense,
    /// Nobody says anything.
    Silent,
    /// The connection ends after the question.
    HangUp,
    /// The holder is shown evidence that was kept.
    OldEvidence,
}

/// What the host keeps from one machine to the next.
#[derive(Default)]
struct Kept {
    way: Option<Way>,
    evidence: Vec<u8>,
    answer: Vec<u8>,
    heard: Vec<u8>,
}

/// The place machines connect to.
pub(crate) struct Holders {
    socket: PathBuf,
    kept: Arc<Mutex<Kept>>,
}

impl Holders {
    /// A holder of the first key, for machines with this launch digest.
    pub(crate) fn new(folder: &Path, digest: &str, keys: [[u8; 32]; 2]) -> Self {
        let certificates = folder.join("certificates");
        let seen = Stockade::guest("stockade.mode=check")
            .arg("--certificates")
            .arg(&certificates);
        seen.finish().assert_code(0);
        let chip = Certificates::open(&certificates).unwrap();
        let holder = Holder {
            keys: Arc::new(vec![DiskKey::new(keys[0])]),
            measurements: vec![bytes(digest)],
            certificates: Box::new(move || Ok(vec![chip.clone()])),
            root: RootChoice::AmdOrModel,
            ledger: None,
        };
        let socket = folder.join("holders");
        // One of an earlier test would be in the way.
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let host = Host {
            holder,
            own: DiskKey::new(keys[1]),
            kept: Arc::clone(&kept),
        };
        std::thread::spawn(move || {
            for machine in listener.incoming().flatten() {
                // Machines end as they like.
                let _ = host.serve(machine);
            }
        });
        Self { socket, kept }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Says what becomes of the next question.
    pub(crate) fn take(&self, way: Way) {
        self.kept.lock().unwrap().way = Some(way);
    }

    /// Everything the host has heard.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.kept.lock().unwrap().heard.clone()
    }
}

struct Host {
    holder: Holder,
    own: DiskKey,
    kept: Arc<Mutex<Kept>>,
}

impl Host {
    fn serve(&self, mut machine: UnixStream) -> io::Result<()> {
        let way = self.kept.lock().unwrap().way.unwrap_or(Way::Silent);
        match way {
            Way::Silent => std::thread::sleep(Duration::from_secs(45)),
            Way::Nonsense => machine.write_all(&[b'x'; 4096])?,
            Way::HangUp => machine.read_exact(&mut [0; HEADER_BYTES])?,
            Way::OwnKey => self.give_own(&mut machine)?,
            _ => {
                let mut between = Between {
                    machine,
                    way,
                    kept: &self.kept,
                    incoming: Vec::new(),
                };
                let _ = self.holder.answer(&mut between);
                // The machine may still read what was written.
                between.machine.shutdown(std::net::Shutdown::Write)?;
            }
        }
        Ok(())
    }

    /// The host plays the holder, with a key of its own.
    fn give_own(&self, machine: &mut UnixStream) -> io::Result<()> {
        receive(machine)?;
        machine.write_all(&frame(Kind::CHALLENGE, &[1; 32]))?;
        let message = receive(machine)?;
        let evidence = &message[HEADER_BYTES..];
        let public = Evidence::parse(evidence).unwrap().document.public;
        let sealed = seal([&self.own], &public, evidence, &mut rand::rng()).unwrap();
        machine.write_all(&frame(Kind::ANSWER, &sealed))
    }
}

/// The host between machine and holder, as the holder sees it: it reads and writes whole messages.
struct Between<'a> {
    machine: UnixStream,
    way: Way,
    kept: &'a Mutex<Kept>,
    incoming: Vec<u8>,
}

impl Read for Between<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            let mut message = receive(&mut self.machine)?;
            let mut kept = self.kept.lock().unwrap();
            kept.heard.extend(&message);
            if message[5] == Kind::EVIDENCE.0 {
                match self.way {
                    Way::Honest => kept.evidence.clone_from(&message),
                    Way::OldEvidence => message.clone_from(&kept.evidence),
                    _ => {}
                }
            }
            self.incoming = message;
        }
        let len = buffer.len().min(self.incoming.len());
        buffer[..len].copy_from_slice(&self.incoming[..len]);
        self.incoming.drain(..len);
        Ok(len)
    }
}

impl Write for Between<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut message = bytes.to_vec();
        let mut kept = self.kept.lock().unwrap();
        if message[5] == Kind::ANSWER.0 {
            match self.way {
                Way::Honest => kept.answer.clone_from(&message),
                Way::Replayed => message.clone_from(&kept.answer),
                Way::Tampered => message[HEADER_BYTES + 40] ^= 1,
                _ => {}
            }
        }
        kept.heard.extend(&message);
        drop(kept);
        self.machine.write_all(&message)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.machine.flush()
    }
}

/// Reads one message, header and all.
fn receive(machine: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER_BYTES];
    machine.read_exact(&mut header)?;
    let (_, len) = read_header(&header).unwrap();
    let mut message = header.to_vec();
    message.resize(HEADER_BYTES + len, 0);
    machine.read_exact(&mut message[HEADER_BYTES..])?;
    Ok(message)
}

fn bytes(digits: &str) -> [u8; 48] {
    std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
}
