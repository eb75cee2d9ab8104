//! The TPM's command-response buffer (TCG PC Client Platform TPM Profile 1.05, 6.5.3): what stock drivers find at `FED4_0000`.
//!
//! Five pages, one a locality, each a door to the same registers and the same buffer. The interface is in one of five states:
//!
//! ```text
//!        cmdReady         write          start           done
//!  Idle ─────────► Ready ───────► Reception ──► Execution ──► Completion ──cmdReady──► Ready
//!   ▲  goIdle from each but Execution       ▲                 │              (buffer cleared)
//!                                           └──────write──────┘
//! ```
//!
//! The engine is behind [`TpmPort`] and works for itself: `start` returns at once, and who polls sees the end. A command whose locality
//! was taken away is cancelled and its response belongs to nobody. What only drivers of the profile's FIFO or of later
//! versions use is not here: checksums, chunks and interrupts read as absent.

mod localities;
mod port;
mod registers;
mod saved;

use alloc::boxed::Box;

use stockade_bus::{AccessError, Mmio};

use crate::tpm::command::{HEADER_BYTES, Header, Locality, MAX_BYTES, ResponseCode, failed};
use localities::{Localities, Passed};
use registers::{CtrlReq, CtrlSts, IntfId, LocCtrl, LocState, LocSts, OneBit, at};

pub use port::{Progress, TpmPort};
pub use saved::TpmCrbState;

/// Where PCs have the interface (PC Client PTP 1.05, 6.5.3.1).
const BASE: u64 = 0xFED4_0000;
/// Bytes of a locality's page.
const PAGE_BYTES: u64 = 0x1000;
/// Bytes of the whole interface.
pub const TPM_CRB_BYTES: u64 = PAGE_BYTES * Locality::COUNT as u64;
/// The buffer as registers have it.
const BUFFER_BYTES: u32 = 0xF80;
const _: () = assert!(BUFFER_BYTES as usize == MAX_BYTES);

/// Which localities answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// 0 to 3, what a chipset lets software reach: the fourth belongs to the processor's dynamic launch.
    Software,
    /// All five.
    All,
}

/// What the interface is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Ready,
    Reception,
    Execution(Fate),
    Completion,
}

/// Whom a response is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The locality that asked.
    Wanted,
    /// Nobody: the locality has changed.
    Abandoned,
    /// Nobody; and the next has asked for readiness already.
    AbandonedFor,
}

/// The interface.
#[derive(Debug)]
pub struct TpmCrb<P> {
    port: P,
    reach: Reach,

    localities: Localities,
    state: State,
    is_cancel_set: bool,
    is_failed: bool,
    buffer: Box<[u8; MAX_BYTES]>,
}

impl<P: TpmPort> TpmCrb<P> {
    /// Returns the interface after power-on.
    pub fn new(port: P, reach: Reach) -> Self {
        Self {
            port,
            reach,
            localities: Localities::default(),
            state: State::Idle,
            is_cancel_set: false,
            is_failed: false,
            buffer: Box::new([0; MAX_BYTES]),
        }
    }

    /// Returns the way to the engine.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Puts the interface back to power-on. What the engine is at is cancelled, and its response dropped when it comes.
    pub fn reset(&mut self) {
        self.localities = Localities::default();
        self.is_cancel_set = false;
        self.is_failed = false;
        self.drop_command();
    }

    /// Notes that the engine is gone: until a reset there are failures only. No command is at it.
    pub fn fail(&mut self) {
        self.is_failed = true;
    }

    /// Returns whether the engine is at a command, wanted or not.
    #[must_use]
    pub fn is_executing(&self) -> bool {
        matches!(self.state, State::Execution(_))
    }

    /// Looks for a response; the machine calls this when the engine has said something.
    pub fn poll(&mut self) {
        let State::Execution(fate) = self.state else {
            return;
        };
        let progress = self.port.poll(&mut self.buffer);
        if progress == Progress::Running {
            return;
        }
        self.state = match fate {
            Fate::Wanted => {
                self.take_response(progress);
                State::Completion
            }
            Fate::Abandoned => State::Idle,
            Fate::AbandonedFor => State::Ready,
        };
        if fate != Fate::Wanted {
            self.is_failed |= progress == Progress::Failed;
            self.buffer.fill(0);
        }
    }

    /// A response that is none is replaced by a failure; behind it nothing of another is left.
    fn take_response(&mut self, progress: Progress) {
        let len = match progress {
            Progress::Done(len) => len.min(MAX_BYTES),
            Progress::Running | Progress::Failed => {
                self.is_failed = true;
                0
            }
        };
        let (response, rest) = self.buffer.split_at_mut(len);
        rest.fill(0);
        let is_response = Header::read(response).is_some_and(|it| it.size as usize == len);
        if !is_response {
            self.answer(ResponseCode::FAILURE);
        }
    }

    /// Puts a response of our own into the buffer.
    fn answer(&mut self, code: ResponseCode) {
        self.buffer.fill(0);
        self.buffer[..HEADER_BYTES].copy_from_slice(&failed(code));
    }

    /// The locality changed, or the machine was reset: what is here is for nobody.
    fn drop_command(&mut self) {
        self.state = match self.state {
            State::Execution(_) => {
                self.port.cancel();
                State::Execution(Fate::Abandoned)
            }
            _ => State::Idle,
        };
        self.buffer.fill(0);
    }

    fn locality_control(&mut self, locality: Locality, asked: LocCtrl) {
        let mut passed = false;
        if asked.relinquish() {
            passed |= self.localities.relinquish(locality) == Passed::Yes;
        }
        if asked.request_access() {
            passed |= self.localities.request(locality) == Passed::Yes;
        }
        if asked.seize() {
            passed |= self.localities.seize(locality) == Passed::Yes;
        }
        if passed {
            self.is_cancel_set = false;
            self.drop_command();
        }
        if asked.reset_establishment() && locality.number() >= 3 {
            self.port.reset_established(locality);
        }
    }

    fn control_request(&mut self, asked: CtrlReq) {
        self.state = match self.state {
            State::Execution(Fate::Wanted) => self.state,
            State::Execution(_) if asked.go_idle() => State::Execution(Fate::Abandoned),
            State::Execution(_) if asked.cmd_ready() => State::Execution(Fate::AbandonedFor),
            State::Execution(_) => self.state,
            _ if asked.go_idle() => {
                self.buffer.fill(0);
                State::Idle
            }
            State::Completion if asked.cmd_ready() => {
                self.buffer.fill(0);
                State::Ready
            }
            State::Idle | State::Ready | State::Reception if asked.cmd_ready() => State::Ready,
            state => state,
        };
    }

    /// Only what is complete by its own header goes to the engine.
    fn start(&mut self, locality: Locality) {
        if !matches!(self.state, State::Ready | State::Reception) {
            return;
        }
        self.state = State::Completion;
        if self.is_failed {
            return self.answer(ResponseCode::FAILURE);
        }
        if self.is_cancel_set {
            return self.answer(ResponseCode::CANCELED);
        }
        let size = Header::read(&*self.buffer).map_or(0, |header| header.size as usize);
        match self.buffer.get(..size) {
            Some(command) if size >= HEADER_BYTES => {
                self.port.begin(locality, command);
                self.state = State::Execution(Fate::Wanted);
            }
            _ => self.answer(ResponseCode::COMMAND_SIZE),
        }
    }

    fn cancel(&mut self, is_set: bool) {
        self.is_cancel_set = is_set;
        if is_set && self.state == State::Execution(Fate::Wanted) {
            self.port.cancel();
        }
    }

    /// Returns the registers as `locality` sees them.
    fn registers(&self, locality: Locality) -> [u8; at::DATA_BUFFER] {
        let mut page = [0; at::DATA_BUFFER];
        let mut put = |offset: usize, bytes: &[u8]| {
            page[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        let active = self.localities.active();
        let state = LocState::new()
            .with_is_not_established(!self.port.is_established())
            .with_is_assigned(active.is_some())
            .with_active(active.map_or(0, Locality::number))
            .with_is_valid(true);
        put(at::LOC_STATE, &u32::from(state).to_le_bytes());
        let status = LocSts::new()
            .with_granted(active == Some(locality))
            .with_been_seized(self.localities.is_seized(locality));
        put(at::LOC_STS, &u32::from(status).to_le_bytes());
        put(at::DATA_CSUM_ENABLE, &[0xFF; 8]);
        put(at::INTF_ID, &u64::from(IntfId::OURS).to_le_bytes());
        let is_waiting = self.state == State::Execution(Fate::AbandonedFor);
        let request = CtrlReq::new().with_cmd_ready(is_waiting);
        put(at::CTRL_REQ, &u32::from(request).to_le_bytes());
        let is_idle = matches!(self.state, State::Idle | State::Execution(Fate::Abandoned));
        let control = CtrlSts::new()
            .with_is_failed(self.is_failed)
            .with_is_idle(is_idle);
        put(at::CTRL_STS, &u32::from(control).to_le_bytes());
        put(at::CTRL_CANCEL, &[u8::from(self.is_cancel_set)]);
        let is_running = self.state == State::Execution(Fate::Wanted);
        put(at::CTRL_START, &[u8::from(is_running)]);
        let buffer = self.buffer_address(locality);
        put(at::CMD_SIZE, &BUFFER_BYTES.to_le_bytes());
        put(at::CMD_ADDRESS, &buffer.to_le_bytes());
        put(at::RSP_SIZE, &BUFFER_BYTES.to_le_bytes());
        put(at::RSP_ADDRESS, &buffer.to_le_bytes());
        page
    }

    /// The buffer is in the same page as the registers, wherever the machine has put that.
    fn buffer_address(&self, locality: Locality) -> u64 {
        BASE + u64::from(locality.number()) * PAGE_BYTES + at::DATA_BUFFER as u64
    }

    fn write_register(&mut self, locality: Locality, register: usize, value: u32, is_first: bool) {
        match register {
            at::LOC_CTRL => self.locality_control(locality, LocCtrl::from(value)),
            // All others are the active locality's.
            _ if self.localities.active() != Some(locality) => {}
            at::CTRL_REQ => self.control_request(CtrlReq::from(value)),
            at::CTRL_CANCEL if is_first => self.cancel(OneBit::from(value).is_set()),
            at::CTRL_START if OneBit::from(value).is_set() => self.start(locality),
            // Sizes and addresses are written by some drivers, and do not change.
            _ => {}
        }
    }

    fn write_buffer(&mut self, locality: Locality, at: usize, byte: u8) {
        if self.localities.active() != Some(locality) {
            return;
        }
        // Before it is ready the buffer is memory and no more.
        self.state = match self.state {
            State::Idle => State::Idle,
            State::Ready | State::Reception => State::Reception,
            // Linux asks for readiness once for a series of commands.
            State::Completion => {
                self.buffer.fill(0);
                State::Reception
            }
            State::Execution(_) => return,
        };
        if let Some(place) = self.buffer.get_mut(at) {
            *place = byte;
        }
    }

    fn read_buffer(&self, locality: Locality, at: usize) -> u8 {
        let is_open = self.localities.active() == Some(locality)
            && !matches!(self.state, State::Execution(_));
        match self.buffer.get(at) {
            Some(byte) if is_open => *byte,
            _ => 0xFF,
        }
    }

    /// Returns whose page `offset` is in, and where in it.
    fn place(&self, offset: u64) -> Result<(Locality, usize), AccessError> {
        let number = u8::try_from(offset / PAGE_BYTES).map_err(|_| AccessError::NoRegister)?;
        let locality = Locality::try_new(number).ok_or(AccessError::NoRegister)?;
        if locality == Locality::FOUR && self.reach == Reach::Software {
            return Err(AccessError::NoRegister);
        }
        let at = usize::try_from(offset % PAGE_BYTES).map_err(|_| AccessError::NoRegister)?;
        Ok((locality, at))
    }
}

impl<P: TpmPort> Mmio for TpmCrb<P> {
    /// Any width at any offset: some systems read byte by byte.
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let (locality, start) = self.place(offset)?;
        self.poll();
        let (registers, buffer) =
            data.split_at_mut(at::DATA_BUFFER.saturating_sub(start).min(data.len()));
        if !registers.is_empty() {
            let page = self.registers(locality);
            registers.copy_from_slice(&page[start..start + registers.len()]);
        }
        for (byte, at) in buffer.iter_mut().zip(start.max(at::DATA_BUFFER)..) {
            *byte = self.read_buffer(locality, at - at::DATA_BUFFER);
        }
        Ok(())
    }

    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let (locality, start) = self.place(offset)?;
        self.poll();
        let mut written = data;
        let mut at = start;
        // Register by register, then the buffer byte by byte.
        while at < at::DATA_BUFFER && !written.is_empty() {
            let lane = at % 4;
            let (part, rest) = written.split_at(written.len().min(4 - lane));
            let mut value = [0; 4];
            value[lane..lane + part.len()].copy_from_slice(part);
            self.write_register(locality, at - lane, u32::from_le_bytes(value), lane == 0);
            at += part.len();
            written = rest;
        }
        for (byte, at) in written.iter().zip(at..) {
            self.write_buffer(locality, at - at::DATA_BUFFER, *byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
