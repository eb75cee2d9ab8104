//! The module's channel: requests in, responses out, until the other side is gone.

use std::io::{self, Read, Write};

use stockade_devices::tpm::message::{CANCEL, MAX_MESSAGE_BYTES, Request, Status};

use crate::{Engine, EngineError, Tpm, TpmError};

/// Answers requests until the channel ends.
pub fn serve<E: Engine>(tpm: &mut Tpm<E>, channel: &mut (impl Read + Write)) -> io::Result<()> {
    let mut message = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let len = channel.read(&mut message)?;
        if len == 0 {
            return Ok(());
        }
        let request = &message[..len];
        // It came too late: its request is answered.
        if request == CANCEL {
            continue;
        }
        let response = answer(tpm, request);
        if channel.write(&response)? != response.len() {
            return Err(io::Error::other("the channel cut a response"));
        }
    }
}

/// Carries out a request and returns the response.
pub fn answer<E: Engine>(tpm: &mut Tpm<E>, message: &[u8]) -> Vec<u8> {
    let Some(request) = Request::read(message) else {
        return vec![Status::REFUSED.0];
    };
    match carry_out(tpm, request) {
        Ok(mut payload) => {
            payload.insert(0, Status::DONE.0);
            payload
        }
        Err(TpmError::Engine(EngineError::Off)) => vec![Status::REFUSED.0],
        Err(error) => {
            eprintln!("{error}");
            vec![Status::FAILED.0]
        }
    }
}

fn carry_out<E: Engine>(tpm: &mut Tpm<E>, request: Request<'_>) -> Result<Vec<u8>, TpmError> {
    let nothing = |()| Vec::new();
    match request {
        Request::Execute { locality, command } => tpm.execute(locality, command),
        Request::PowerOn { flags } => tpm.power_on(flags).map(nothing),
        Request::HashStart => tpm.hash_start().map(nothing),
        Request::HashData(data) => tpm.hash_data(data).map(nothing),
        Request::HashEnd => tpm.hash_end().map(nothing),
        Request::Established { locality, flags } => {
            let is_established = tpm.established(locality, flags)?;
            Ok(vec![u8::from(is_established)])
        }
        Request::PowerOff { flags } => tpm.power_off(flags).map(nothing),
    }
}
