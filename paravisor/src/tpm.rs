//! The TPM: its front-end, which the guest sees, on the module that is its engine.
//!
//! [`EnginePort`] is the way between them, a channel; nobody waits on it. Before the guest starts, and again after each of its resets,
//! [`Tpm::start`] powers the engine on and extends the PCRs by what was measured. An engine that fails costs the guest its TPM until the next
//! reset: the interface answers, with failures.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use spin::Mutex;
use stockade_boot::layout::TPM_CRB_BASE;
use stockade_boot::measured::{BANKS, Measurement};
use stockade_bus::{Gpa, Mmio};
use stockade_devices::tpm::command::{
    self, HashAlgorithm, Locality, MAX_BYTES, ResponseCode, pcr_extend, self_test, startup_clear,
};
use stockade_devices::tpm::message::{
    MAKE_RSA_ENDORSEMENT_KEY, MAX_MESSAGE_BYTES, Request, Status, read_response,
};
use stockade_devices::tpm_crb::{Progress, Reach, TPM_CRB_BYTES, TpmCrb, TpmPort};

use crate::module::{Channel, ChannelError};

/// The name of the module that is the engine.
pub const ENGINE: &str = "tpm";

/// Why there is no TPM.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// No module, or none any more.
    #[error("the engine is lost: {0}")]
    Channel(#[from] ChannelError),
    /// It did not do as asked.
    #[error("the engine answers with status {}", .0.0)]
    Engine(Status),
    /// The TPM did not.
    #[error("the TPM answers with code {:#x}", .0.0)]
    Tpm(ResponseCode),
    /// It takes too long.
    #[error("the engine does not answer")]
    Silent,
}

/// Whether a TPM is the same the next time the machine is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// It is: what it keeps is in the sealed store. It is given an RSA endorsement key, too, which takes long to make, once.
    Kept,
    /// It is a new one each time.
    Ephemeral,
}

impl Lasting {
    fn flags(self) -> u16 {
        match self {
            Self::Kept => MAKE_RSA_ENDORSEMENT_KEY,
            Self::Ephemeral => 0,
        }
    }
}

/// What a TPM is put together from.
#[derive(Clone, Debug)]
pub struct TpmFitting {
    /// The channel of the module that is the engine.
    pub channel: Arc<Channel>,
    /// How long it lasts.
    pub lasting: Lasting,
    /// What its PCRs are extended by before each start of the guest.
    pub measurements: Vec<Measurement>,
}

/// The front-end, behind a lock of its own.
pub(crate) struct Tpm {
    crb: Mutex<TpmCrb<EnginePort>>,
    fitting: TpmFitting,
}

impl Tpm {
    pub(crate) fn new(fitting: TpmFitting) -> Self {
        let port = EnginePort::new(Arc::clone(&fitting.channel));
        Self {
            crb: Mutex::new(TpmCrb::new(port, Reach::Software)),
            fitting,
        }
    }

    /// Returns where in the interface `gpa` is.
    pub(crate) fn place(gpa: Gpa) -> Option<u64> {
        let offset = gpa.0.checked_sub(TPM_CRB_BASE)?;
        (offset < TPM_CRB_BYTES).then_some(offset)
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        if self.crb.lock().mmio_read(offset, data).is_err() {
            data.fill(0xFF);
        }
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        // A write nobody takes is lost, as on a PC.
        let _ = self.crb.lock().mmio_write(offset, data);
    }

    pub(crate) fn reset(&self) {
        self.crb.lock().reset();
    }

    /// Powers the engine on, has the TPM start up and extends its PCRs. `serve` lets the engine work, and says whether there is time left.
    pub(crate) fn start(&self, serve: &mut dyn FnMut() -> bool) -> Result<(), TpmError> {
        let channel = &self.fitting.channel;
        // What the system before this one has left is over first.
        while !self.is_free() {
            if !serve() {
                self.crb.lock().fail();
                return Err(TpmError::Silent);
            }
        }
        let outcome = Session::new(channel, serve).start(&self.fitting);
        if outcome.is_err() {
            self.crb.lock().fail();
        }
        outcome
    }

    fn is_free(&self) -> bool {
        let mut crb = self.crb.lock();
        crb.poll();
        !crb.is_executing()
    }
}

/// The way to the engine.
#[derive(Debug)]
pub(crate) struct EnginePort {
    channel: Arc<Channel>,
    message: Box<[u8]>,
    /// The command never went out.
    is_unsent: bool,
}

impl EnginePort {
    fn new(channel: Arc<Channel>) -> Self {
        Self {
            channel,
            message: vec![0; MAX_MESSAGE_BYTES].into_boxed_slice(),
            is_unsent: false,
        }
    }
}

impl TpmPort for EnginePort {
    fn begin(&mut self, locality: Locality, command: &[u8]) {
        let request = Request::Execute { locality, command };
        let message = request.write(&mut self.message);
        let posted = message.map(|message| self.channel.post(message));
        self.is_unsent = posted != Some(Ok(()));
    }

    fn cancel(&mut self) {
        self.channel.cancel();
    }

    fn poll(&mut self, response: &mut [u8; MAX_BYTES]) -> Progress {
        if core::mem::take(&mut self.is_unsent) {
            return Progress::Failed;
        }
        let len = match self.channel.take(&mut self.message) {
            None => return Progress::Running,
            Some(Err(_)) => return Progress::Failed,
            Some(Ok(len)) => len.min(self.message.len()),
        };
        let Ok(payload) = read_response(&self.message[..len]) else {
            return Progress::Failed;
        };
        match response.get_mut(..payload.len()) {
            Some(place) => place.copy_from_slice(payload),
            None => return Progress::Failed,
        }
        Progress::Done(payload.len())
    }

    /// Nobody begins dynamic launches here: there is nothing that could be established.
    fn is_established(&self) -> bool {
        false
    }

    fn reset_established(&mut self, _locality: Locality) {}
}

/// Requests one after the other, each to its end.
struct Session<'a> {
    channel: &'a Channel,
    serve: &'a mut dyn FnMut() -> bool,
    message: Box<[u8]>,
}

impl<'a> Session<'a> {
    fn new(channel: &'a Channel, serve: &'a mut dyn FnMut() -> bool) -> Self {
        Self {
            channel,
            serve,
            message: vec![0; MAX_MESSAGE_BYTES].into_boxed_slice(),
        }
    }

    fn start(&mut self, fitting: &TpmFitting) -> Result<(), TpmError> {
        let flags = fitting.lasting.flags();
        self.ask(&Request::PowerOn { flags })?;
        self.execute(&startup_clear())?;
        for measurement in &fitting.measurements {
            let (short, long) = (measurement.sha256(), measurement.sha384());
            let [first, second] = BANKS.map(|(algorithm, _)| HashAlgorithm(algorithm));
            let pcr = u8::try_from(measurement.pcr).unwrap_or(u8::MAX);
            self.execute(&pcr_extend(pcr, &[(first, &short), (second, &long)]))?;
        }
        // A driver has two seconds of patience for this, which an emulated processor may not keep.
        self.execute(&self_test())
    }

    fn execute(&mut self, command: &[u8]) -> Result<(), TpmError> {
        let locality = Locality::ZERO;
        let response = self.ask(&Request::Execute { locality, command })?;
        match command::response_code(response) {
            ResponseCode::SUCCESS => Ok(()),
            code => Err(TpmError::Tpm(code)),
        }
    }

    fn ask(&mut self, request: &Request<'_>) -> Result<&[u8], TpmError> {
        let message = request.write(&mut self.message);
        let message = message.ok_or(ChannelError::TooLong(MAX_MESSAGE_BYTES))?;
        self.channel.post(message)?;
        let len = loop {
            if let Some(taken) = self.channel.take(&mut self.message) {
                break taken?.min(self.message.len());
            }
            if !(self.serve)() {
                self.channel.abandon();
                return Err(TpmError::Silent);
            }
        };
        read_response(&self.message[..len]).map_err(TpmError::Engine)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use stockade_boot::measured::EventType;

    use super::*;
    use crate::module::channel::Bell;

    /// The module's side: answers each request, and keeps it.
    struct Engine {
        channel: Arc<Channel>,
        asked: Vec<Vec<u8>>,
        answers: VecDeque<Vec<u8>>,
    }

    impl Engine {
        fn turn(&mut self) -> bool {
            let Some(request) = self.channel.receive(|request| Some(request.to_vec())) else {
                return true;
            };
            self.asked.push(request);
            let answer = self.answers.pop_front();
            if let Some(bytes) = &answer {
                self.channel.answer(|response| {
                    response.extend_from_slice(bytes);
                    true
                });
            }
            answer.is_some()
        }
    }

    fn tpm(answers: &[Vec<u8>]) -> (Tpm, Engine) {
        let channel = Arc::new(Channel::new(Bell::default()));
        let engine = Engine {
            channel: Arc::clone(&channel),
            asked: Vec::new(),
            answers: answers.iter().cloned().collect(),
        };
        let fitting = TpmFitting {
            channel,
            lasting: Lasting::Kept,
            measurements: vec![measurement()],
        };
        (Tpm::new(fitting), engine)
    }

    fn success() -> Vec<u8> {
        let mut answer = vec![0];
        answer.extend(command::failed(ResponseCode::SUCCESS));
        answer
    }

    fn measurement() -> Measurement {
        Measurement {
            pcr: 4,
            kind: EventType::IPL,
            data: vec![1],
        }
    }

    fn registers(tpm: &Tpm, offset: u64) -> u32 {
        let mut word = [0; 4];
        tpm.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// Requests locality 0, and starts `TPM2_Startup`.
    fn command(tpm: &Tpm) {
        tpm.write(0x08, &[1, 0, 0, 0]);
        tpm.write(0x40, &[1, 0, 0, 0]);
        tpm.write(0x80, &startup_clear());
        tpm.write(0x4C, &[1, 0, 0, 0]);
    }

    #[test]
    fn start_powers_on_starts_up_and_extends() {
        let (tpm, mut engine) = tpm(&[vec![0], success(), success(), success()]);
        tpm.start(&mut || engine.turn()).unwrap();
        assert_eq!(engine.asked[0], [2, 0, 1, 0]);
        assert_eq!(engine.asked[1][4..], startup_clear());
        assert_eq!(
            command::Header::read(&engine.asked[2][4..]).unwrap().code,
            0x182
        );
        assert_eq!(registers(&tpm, 0x44), 2);
    }

    #[test]
    fn engine_that_fails_or_is_silent_leaves_a_failed_tpm() {
        let refusal = [&[0][..], &command::failed(ResponseCode::INITIALIZE)].concat();
        for answers in [
            vec![],
            vec![vec![2]],
            vec![vec![0], refusal],
            vec![vec![0], vec![]],
        ] {
            let (tpm, mut engine) = tpm(&answers);
            assert!(tpm.start(&mut || engine.turn()).is_err());
            assert_eq!(registers(&tpm, 0x44) & 1, 1);
            command(&tpm);
            let mut response = [0; 10];
            tpm.read(0x80, &mut response);
            assert_eq!(response, command::failed(ResponseCode::FAILURE));
        }
    }

    #[test]
    fn guest_s_command_goes_to_the_engine_and_back() {
        let (tpm, mut engine) = tpm(&[success()]);
        command(&tpm);
        assert_eq!(registers(&tpm, 0x4C), 1);
        engine.turn();
        assert_eq!(registers(&tpm, 0x4C), 0);
        assert_eq!(engine.asked[0][4..], startup_clear());
        let mut response = [0; 10];
        tpm.read(0x80, &mut response);
        assert_eq!(response, command::failed(ResponseCode::SUCCESS));
    }

    #[test]
    fn reset_during_a_command_waits_for_its_end_before_power_comes_on() {
        let (tpm, mut engine) = tpm(&[success(), vec![0], success(), success(), success()]);
        command(&tpm);
        assert!(engine.channel.receive(|_| None::<()>).is_none());
        tpm.reset();
        tpm.start(&mut || engine.turn()).unwrap();
        assert_eq!(engine.asked.len(), 5);
        assert_eq!(engine.asked[1][0], 2);
        assert_eq!(registers(&tpm, 0x44), 2);
    }

    #[test]
    fn nonsense_of_the_engine_becomes_a_failure() {
        for answer in [
            vec![],
            vec![7],
            [&[0][..], &[0; 5000]].concat(),
            vec![0, 1, 2, 3],
        ] {
            let (tpm, mut engine) = tpm(&[answer]);
            command(&tpm);
            engine.turn();
            let mut response = [0; 10];
            tpm.read(0x80, &mut response);
            assert_eq!(response, command::failed(ResponseCode::FAILURE));
        }
    }

    #[test]
    fn interface_is_five_pages() {
        assert_eq!(Tpm::place(Gpa(0xFED3_FFFF)), None);
        assert_eq!(Tpm::place(Gpa(0xFED4_0000)), Some(0));
        assert_eq!(Tpm::place(Gpa(0xFED4_4FFF)), Some(0x4FFF));
        assert_eq!(Tpm::place(Gpa(0xFED4_5000)), None);
    }
}
