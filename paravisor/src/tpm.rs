//! The TPM: its front-end, which the guest sees, on the module that is its engine.
//!
//! [`EnginePort`] is the way between them, a channel; nobody waits on it. Before the guest starts, and again after each of its resets,
//! [`Tpm::start`] powers the engine on, extends the PCRs by what was measured and, where no firmware does it, closes the platform's hierarchy.
//! An engine that fails costs the guest its TPM until the next reset: the interface answers, with failures.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use spin::Mutex;
use stockade_boot::layout::{TPM_CRB_BASE, TPM_PPI_BASE};
use stockade_boot::measured::Measurement;
use stockade_bus::{AccessError, Gpa, Mmio};
use stockade_devices::tpm::command::{
    self, Locality, MAX_BYTES, ResponseCode, close_platform, pcr_event, self_test, startup_clear,
};
use stockade_devices::tpm::message::{
    MAKE_RSA_ENDORSEMENT_KEY, MAX_MESSAGE_BYTES, Request, Status, read_response,
};
use stockade_devices::tpm_crb::{Progress, Reach, TPM_CRB_BYTES, TpmCrb, TpmPort};
use stockade_devices::tpm_ppi::{TPM_PPI_BYTES, TpmPpi};

use crate::module::outside::NoEntropy;
use crate::module::{Channel, ChannelError, ChannelState};

/// The name of the module that is the engine.
pub const ENGINE: &str = "tpm";

/// How long a start waits for the end of what the system before it asked for, before it has the engine started again.
const PATIENCE_NS: u64 = 5_000_000_000;

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
    /// There is nothing to make the platform's authorization value of.
    #[error("the processor gives no random numbers")]
    NoEntropy,
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
    /// Who takes requests that need somebody present.
    pub presence: Presence,
    /// Where random numbers come from.
    pub random: fn(&mut [u8; 32]) -> Result<(), NoEntropy>,
}

/// Who takes requests that need somebody present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nobody.
    Absent,
    /// The guest's firmware.
    Firmware,
}

/// What a start took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartTimes {
    /// Until the engine had power: a new TPM is made then.
    pub power_ns: u64,
    /// Until it had started up and its PCRs were extended.
    pub measure_ns: u64,
    /// For the test of its algorithms.
    pub test_ns: u64,
}

/// Where an access goes, and to which place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Crb(u64),
    Ppi(u64),
}

/// The front-end and the memory of requests, each behind a lock of its own.
pub(crate) struct Tpm {
    crb: Mutex<TpmCrb<EnginePort>>,
    ppi: Option<Mutex<TpmPpi>>,
    fitting: TpmFitting,
}

impl Tpm {
    pub(crate) fn new(fitting: TpmFitting) -> Self {
        let port = EnginePort::new(Arc::clone(&fitting.channel));
        Self {
            crb: Mutex::new(TpmCrb::new(port, Reach::Software)),
            ppi: (fitting.presence == Presence::Firmware).then(Mutex::default),
            fitting,
        }
    }

    /// Returns where in the TPM's memory `gpa` is.
    pub(crate) fn place(gpa: Gpa) -> Option<Place> {
        let offset = gpa.0.checked_sub(TPM_CRB_BASE)?;
        match gpa.0.checked_sub(TPM_PPI_BASE) {
            None => (offset < TPM_CRB_BYTES).then_some(Place::Crb(offset)),
            Some(offset) => (offset < TPM_PPI_BYTES).then_some(Place::Ppi(offset)),
        }
    }

    pub(crate) fn read(&self, place: Place, data: &mut [u8]) {
        let outcome = match (place, &self.ppi) {
            (Place::Crb(offset), _) => self.crb.lock().mmio_read(offset, data),
            (Place::Ppi(offset), Some(ppi)) => ppi.lock().mmio_read(offset, data),
            (Place::Ppi(_), None) => Err(AccessError::NoRegister),
        };
        if outcome.is_err() {
            data.fill(0xFF);
        }
    }

    pub(crate) fn write(&self, place: Place, data: &[u8]) {
        // A write nobody takes is lost, as on a PC.
        let _ = match (place, &self.ppi) {
            (Place::Crb(offset), _) => self.crb.lock().mmio_write(offset, data),
            (Place::Ppi(offset), Some(ppi)) => ppi.lock().mmio_write(offset, data),
            (Place::Ppi(_), None) => Err(AccessError::NoRegister),
        };
    }

    /// Returns whether the system asked, where firmware's memory keeps it, for its memory to be cleared; forgets it.
    pub(crate) fn take_clear_request(&self) -> bool {
        let ppi = self.ppi.as_ref();
        ppi.is_some_and(|ppi| ppi.lock().take_clear_request())
    }

    pub(crate) fn reset(&self) {
        self.crb.lock().reset();
    }

    /// Powers the engine on, has the TPM start up and extends its PCRs. `serve` lets the engine work, and says whether there is time left;
    /// `now_ns` is the time.
    pub(crate) fn start(
        &self,
        serve: &mut dyn FnMut() -> bool,
        now_ns: &dyn Fn() -> u64,
    ) -> Result<StartTimes, TpmError> {
        let outcome = self
            .wait_until_free(serve, now_ns)
            .and_then(|()| Session::new(&self.fitting.channel, serve).start(&self.fitting, now_ns));
        if outcome.is_err() {
            self.crb.lock().fail();
        }
        outcome
    }

    /// Waits for the end of what the system before this one has left. An engine that sleeps on it is not waited for.
    fn wait_until_free(
        &self,
        serve: &mut dyn FnMut() -> bool,
        now_ns: &dyn Fn() -> u64,
    ) -> Result<(), TpmError> {
        let mut since = now_ns();
        while !self.is_free() {
            if now_ns().saturating_sub(since) > PATIENCE_NS {
                self.fitting.channel.dismiss();
                since = now_ns();
            }
            if !serve() {
                return Err(TpmError::Silent);
            }
        }
        // How it ended is of no concern to the next.
        self.crb.lock().reset();
        Ok(())
    }

    fn is_free(&self) -> bool {
        let mut crb = self.crb.lock();
        crb.poll();
        !crb.is_executing() && self.fitting.channel.state() != ChannelState::Busy
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

    fn start(
        &mut self,
        fitting: &TpmFitting,
        now_ns: &dyn Fn() -> u64,
    ) -> Result<StartTimes, TpmError> {
        let begun = now_ns();
        let flags = fitting.lasting.flags();
        self.ask(&Request::PowerOn { flags })?;
        let on = now_ns();
        self.execute(&startup_clear())?;
        for measurement in &fitting.measurements {
            let pcr = u8::try_from(measurement.pcr).unwrap_or(u8::MAX);
            // A bank left out would be the guest's to fill with what it likes.
            self.execute(&pcr_event(pcr, &measurement.data))?;
        }
        if fitting.presence == Presence::Absent {
            self.close_platform(fitting)?;
        }
        let measured = now_ns();
        // A driver has two seconds of patience for this, which an emulated processor may not keep.
        self.execute(&self_test())?;
        Ok(StartTimes {
            power_ns: on.saturating_sub(begun),
            measure_ns: measured.saturating_sub(on),
            test_ns: now_ns().saturating_sub(measured),
        })
    }

    /// Gives the platform's hierarchy an authorization value nobody keeps, as firmware does: banks of PCRs and the evidence's indexes are the
    /// platform's.
    fn close_platform(&mut self, fitting: &TpmFitting) -> Result<(), TpmError> {
        let mut value = [0; 32];
        (fitting.random)(&mut value).map_err(|_| TpmError::NoEntropy)?;
        self.execute(&close_platform(&value))
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
                self.channel.dismiss();
                return Err(TpmError::Silent);
            }
        };
        read_response(&self.message[..len]).map_err(TpmError::Engine)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
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
        tpm_with(Presence::Absent, answers)
    }

    fn tpm_with(presence: Presence, answers: &[Vec<u8>]) -> (Tpm, Engine) {
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
            presence,
            random: |value| {
                *value = [7; 32];
                Ok(())
            },
        };
        (Tpm::new(fitting), engine)
    }

    fn success() -> Vec<u8> {
        let mut answer = vec![0];
        answer.extend(command::failed(ResponseCode::SUCCESS));
        answer
    }

    /// Answers to a start, each the best there is.
    fn started() -> Vec<Vec<u8>> {
        let mut answers = vec![success(); 5];
        answers[0] = vec![0];
        answers
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
        tpm.read(Place::Crb(offset), &mut word);
        u32::from_le_bytes(word)
    }

    /// Requests locality 0, and starts `TPM2_Startup`.
    fn command(tpm: &Tpm) {
        tpm.write(Place::Crb(0x08), &[1, 0, 0, 0]);
        tpm.write(Place::Crb(0x40), &[1, 0, 0, 0]);
        tpm.write(Place::Crb(0x80), &startup_clear());
        tpm.write(Place::Crb(0x4C), &[1, 0, 0, 0]);
    }

    #[test]
    fn start_powers_on_starts_up_extends_closes_the_platform_and_tests() {
        let (tpm, mut engine) = tpm(&started());
        tpm.start(&mut || engine.turn(), &|| 0).unwrap();
        assert_eq!(engine.asked[0], [2, 0, 1, 0]);
        assert_eq!(engine.asked[1][4..], startup_clear());
        // In all banks the TPM has, whichever these are.
        assert_eq!(engine.asked[2][4..], pcr_event(4, &[1]));
        assert_eq!(engine.asked[3][4..], close_platform(&[7; 32]));
        assert_eq!(engine.asked[4][4..], self_test());
        assert_eq!(registers(&tpm, 0x44), 2);
    }

    /// Firmware has to find the hierarchy open: it closes it when it has done with it.
    #[test]
    fn platform_stays_open_for_firmware() {
        let answers = &started()[..4];
        let (tpm, mut engine) = tpm_with(Presence::Firmware, answers);
        tpm.start(&mut || engine.turn(), &|| 0).unwrap();
        assert_eq!(engine.asked[3][4..], self_test());
        assert_eq!(engine.asked.len(), 4);
    }

    /// An empty value would be as good as a known one.
    #[test]
    fn without_random_numbers_the_tpm_fails() {
        let (mut tpm, mut engine) = tpm(&started());
        tpm.fitting.random = |_| Err(NoEntropy);
        let outcome = tpm.start(&mut || engine.turn(), &|| 0);
        assert!(matches!(outcome, Err(TpmError::NoEntropy)));
        assert_eq!(registers(&tpm, 0x44) & 1, 1);
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
            assert!(tpm.start(&mut || engine.turn(), &|| 0).is_err());
            assert_eq!(registers(&tpm, 0x44) & 1, 1);
            command(&tpm);
            let mut response = [0; 10];
            tpm.read(Place::Crb(0x80), &mut response);
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
        tpm.read(Place::Crb(0x80), &mut response);
        assert_eq!(response, command::failed(ResponseCode::SUCCESS));
    }

    #[test]
    fn reset_during_a_command_waits_for_its_end_before_power_comes_on() {
        let (tpm, mut engine) = tpm(&[vec![success()], started()].concat());
        command(&tpm);
        assert!(engine.channel.receive(|_| None::<()>).is_none());
        tpm.reset();
        tpm.start(&mut || engine.turn(), &|| 0).unwrap();
        assert_eq!(engine.asked.len(), 6);
        assert_eq!(engine.asked[1][0], 2);
        assert_eq!(registers(&tpm, 0x44), 2);
    }

    /// One that slept on it would hold each reset up, and one that answered late the TPM up for good.
    #[test]
    fn engine_that_does_not_end_a_command_is_started_again_before_power_comes_on() {
        let (tpm, mut engine) = tpm(&started());
        command(&tpm);
        assert!(engine.channel.receive(|_| Some(())).is_some());
        tpm.reset();
        let now = Cell::new(0);
        let outcome = tpm.start(
            &mut || {
                now.set(now.get() + PATIENCE_NS / 4);
                if engine.channel.take_dismissal() {
                    engine.channel.fail();
                }
                engine.turn()
            },
            &|| now.get(),
        );
        assert!(outcome.unwrap().power_ns < PATIENCE_NS);
        assert_eq!(engine.asked.len(), 5);
        assert_eq!(registers(&tpm, 0x44), 2);
    }

    #[test]
    fn answer_that_comes_too_late_leaves_the_next_start_its_engine() {
        let (tpm, mut engine) = tpm(&started());
        let received = || engine.channel.receive(|_| Some(())).is_none();
        assert!(tpm.start(&mut || received(), &|| 0).is_err());
        assert!(engine.channel.take_dismissal());
        assert!(engine.channel.answer(|_| true));
        tpm.reset();
        tpm.start(&mut || engine.turn(), &|| 0).unwrap();
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
            tpm.read(Place::Crb(0x80), &mut response);
            assert_eq!(response, command::failed(ResponseCode::FAILURE));
        }
    }

    #[test]
    fn interface_is_five_pages() {
        assert_eq!(Tpm::place(Gpa(0xFED3_FFFF)), None);
        assert_eq!(Tpm::place(Gpa(0xFED4_0000)), Some(Place::Crb(0)));
        assert_eq!(Tpm::place(Gpa(0xFED4_4FFF)), Some(Place::Crb(0x4FFF)));
        assert_eq!(Tpm::place(Gpa(0xFED4_5000)), Some(Place::Ppi(0)));
        assert_eq!(Tpm::place(Gpa(0xFED4_53FF)), Some(Place::Ppi(0x3FF)));
        assert_eq!(Tpm::place(Gpa(0xFED4_5400)), None);
    }

    #[test]
    fn requests_to_firmware_outlast_a_reset_and_are_not_there_without_firmware() {
        for (presence, kept) in [(Presence::Firmware, 5), (Presence::Absent, 0xFF)] {
            let (tpm, _) = tpm_with(presence, &[]);
            tpm.write(Place::Ppi(0x109), &[5]);
            tpm.write(Place::Ppi(0x15A), &[1]);
            tpm.reset();
            let mut byte = [0];
            tpm.read(Place::Ppi(0x109), &mut byte);
            assert_eq!(byte, [kept]);
            assert_eq!(tpm.take_clear_request(), presence == Presence::Firmware);
            assert!(!tpm.take_clear_request());
        }
    }
}
