//! The protocol of the TPM reference simulator ("mssim"), so that `TPM2TOOLS_TCTI=mssim:...` and test suites find this TPM.
//!
//! Two TCP ports: commands, and behind it the platform (power, cancel). Every connection has a thread that reads what its client wants
//! and brings it to the one thread that has the TPM.

mod words;

use std::fmt;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use stockade_devices::tpm::command::{self, Locality, ResponseCode};
use stockade_devices::tpm::message::MAKE_RSA_ENDORSEMENT_KEY;

use crate::{Engine, Tpm, TpmError};
use words::{Port, Request};

/// Whether the command under way shall end.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Returns whether it shall.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, is_asked: bool) {
        self.0.store(is_asked, Ordering::SeqCst);
    }
}

/// Who executes `TPM2_Startup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup {
    /// Whoever uses the TPM, as on a real one.
    ByCommand,
    /// This program, whenever power comes on.
    ByPower,
}

/// What a connection wants of the TPM, and where the answer goes.
struct Job {
    request: Request,
    answer: Sender<Vec<u8>>,
}

/// A TPM's two ports.
#[derive(Debug)]
pub struct Simulator {
    commands: TcpListener,
    platform: TcpListener,
    cancel: Cancel,
    startup: Startup,
}

impl Simulator {
    /// Binds `address` and the port after it.
    pub fn bind(address: &str, cancel: Cancel, startup: Startup) -> io::Result<Self> {
        let commands = TcpListener::bind(address).map_err(|error| named(&address, &error))?;
        let mut next = commands.local_addr()?;
        let port = next
            .port()
            .checked_add(1)
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        next.set_port(port);
        Ok(Self {
            commands,
            platform: TcpListener::bind(next).map_err(|error| named(&next, &error))?,
            cancel,
            startup,
        })
    }

    /// Returns the address of the port for commands.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.commands
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)))
    }

    /// Serves connections until a client asks for the end.
    pub fn serve<E: Engine>(self, tpm: &mut Tpm<E>) {
        let (jobs, work) = channel();
        accept(self.commands, Port::Commands, &self.cancel, &jobs);
        accept(self.platform, Port::Platform, &self.cancel, &jobs);
        drop(jobs);
        work_off(tpm, &work, self.startup);
    }
}

/// Returns the error with the address it is about: of two ports one was not asked for by name.
fn named(address: &impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

/// Gives every connection a thread.
fn accept(listener: TcpListener, port: Port, cancel: &Cancel, jobs: &Sender<Job>) {
    let (cancel, jobs) = (cancel.clone(), jobs.clone());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (cancel, jobs) = (cancel.clone(), jobs.clone());
            thread::spawn(move || {
                // A client that breaks off has its reasons.
                let _ = converse(&stream, port, &cancel, &jobs);
            });
        }
    });
}

fn converse(stream: &TcpStream, port: Port, cancel: &Cancel, jobs: &Sender<Job>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream);
    let mut output = stream;
    loop {
        let request = words::read_request(&mut input, port)?;
        match request {
            Request::EndOfSession => return Ok(()),
            Request::Cancel(is_asked) => {
                cancel.set(is_asked);
                output.write_all(&words::DONE)?;
                continue;
            }
            _ => {}
        }
        let (answer, answered) = channel();
        jobs.send(Job { request, answer }).map_err(|_| gone())?;
        output.write_all(&answered.recv().map_err(|_| gone())?)?;
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

fn work_off<E: Engine>(tpm: &mut Tpm<E>, work: &Receiver<Job>, startup: Startup) {
    for job in work {
        let is_end = matches!(job.request, Request::Stop);
        let answer = carry_out(tpm, job.request, startup).unwrap_or_else(|error| {
            eprintln!("{error}");
            words::FAILED.to_vec()
        });
        // Who has gone gets no answer.
        let _ = job.answer.send(answer);
        if is_end {
            return;
        }
    }
}

fn carry_out<E: Engine>(
    tpm: &mut Tpm<E>,
    request: Request,
    startup: Startup,
) -> Result<Vec<u8>, TpmError> {
    match request {
        Request::Execute { locality, command } => {
            let response = execute(tpm, locality, &command)?;
            return Ok(words::execute_answer(&response));
        }
        Request::Handshake => return Ok(words::HANDSHAKE.to_vec()),
        Request::PowerOn if tpm.is_on() => {}
        Request::PowerOn | Request::Reset => {
            tpm.power_on(MAKE_RSA_ENDORSEMENT_KEY)?;
            if startup == Startup::ByPower {
                tpm.execute(Locality::ZERO, &command::startup_clear())?;
            }
        }
        Request::PowerOff => tpm.power_off(0)?,
        Request::HashStart => tpm.hash_start()?,
        Request::HashData(data) => tpm.hash_data(&data)?,
        Request::HashEnd => tpm.hash_end()?,
        Request::Nothing | Request::Cancel(_) | Request::EndOfSession | Request::Stop => {}
    }
    Ok(words::DONE.to_vec())
}

/// A locality that is none, and a TPM without power, answer as a TPM would.
fn execute<E: Engine>(
    tpm: &mut Tpm<E>,
    locality: Option<Locality>,
    command: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let Some(locality) = locality.filter(|_| tpm.is_on()) else {
        return Ok(command::failed(ResponseCode::INITIALIZE).to_vec());
    };
    tpm.execute(locality, command)
}
