//! Calls to the host through the GHCB page, each answer checked (GHCB specification, sections 2.6 and 4.1).
//!
//! [`Ghcb`] is a handle: copies of it are the same page. A call writes the fields the event needs, leaves, and copies back
//! what the host marked valid; nothing on the page means anything between two calls, so a call never nests in another.
//! The calls themselves are in `io` (ports, MSRs, MMIO), `machine` (pages, processors, doorbell, interrupts).
//! [`Gate`] is the processor's side, so that tests can be the host.

mod gate;
mod io;
mod machine;

pub use gate::{Gate, Processor};
pub use io::IoWidth;
pub use machine::{CONSOLE_VECTOR, DEVICE_VECTOR, KICK_VECTOR, LAST_DEVICE_VECTOR, TIMER_VECTOR};

use stockade_abi::ghcb::{
    self, ExitResult, GhcbField, NaeExit, PROTOCOL_VERSION_2, SHARED_BUFFER_SIZE, USAGE_GHCB,
};

use crate::doorbell::Doorbell;
use crate::error::HostError;
use crate::shared::SharedPage;

const BUFFER_OFFSET: usize = core::mem::offset_of!(ghcb::Ghcb, shared_buffer);
const VERSION_OFFSET: usize = core::mem::offset_of!(ghcb::Ghcb, protocol_version);
const USAGE_OFFSET: usize = core::mem::offset_of!(ghcb::Ghcb, usage);
const BITMAP_OFFSET: usize = core::mem::offset_of!(ghcb::Ghcb, valid_bitmap);

/// The GHCB of one processor.
#[derive(Clone, Copy, Debug)]
pub struct Ghcb<G: Gate = Processor> {
    page: SharedPage,
    gpa: u64,
    gate: G,
}

/// What is asked of the host.
#[derive(Clone, Copy, Debug)]
struct Request {
    event: NaeExit,
    info1: u64,
    info2: u64,
    rax: Option<u64>,
    rcx: Option<u64>,
    rdx: Option<u64>,
    uses_buffer: bool,
}

impl Request {
    fn new(event: NaeExit, info1: u64, info2: u64) -> Self {
        Self {
            event,
            info1,
            info2,
            rax: None,
            rcx: None,
            rdx: None,
            uses_buffer: false,
        }
    }
}

/// What the host answered, copied once.
#[derive(Clone, Copy, Debug)]
struct Answer {
    event: NaeExit,
    valid: [u64; 2],
    rax: u64,
    rdx: u64,
    info2: u64,
}

impl Answer {
    /// Returns RAX if the host marked it valid.
    fn rax(&self) -> Result<u64, HostError> {
        self.checked(GhcbField::RAX, self.rax, "RAX is not valid")
    }

    /// Returns RDX if the host marked it valid.
    fn rdx(&self) -> Result<u64, HostError> {
        self.checked(GhcbField::RDX, self.rdx, "RDX is not valid")
    }

    /// Returns SW_EXITINFO2 if the host marked it valid.
    fn info2(&self) -> Result<u64, HostError> {
        let what = "SW_EXITINFO2 is not valid";
        self.checked(GhcbField::SW_EXIT_INFO2, self.info2, what)
    }

    fn checked(&self, field: GhcbField, value: u64, what: &'static str) -> Result<u64, HostError> {
        let event = self.event;
        if !is_valid(&self.valid, field) {
            return Err(HostError::Lied { event, what });
        }
        Ok(value)
    }
}

fn is_valid(bitmap: &[u64; 2], field: GhcbField) -> bool {
    let (word, mask) = field.valid_mask();
    bitmap[word] & mask != 0
}

impl<G: Gate> Ghcb<G> {
    /// Returns the GHCB in `page`, which the host knows as `gpa`.
    pub fn new(page: SharedPage, gpa: u64, gate: G) -> Self {
        Self { page, gpa, gate }
    }

    /// Returns the guest-physical address of the page.
    #[must_use]
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Leaves no request on the page, so that an exit nobody asked for asks the host for nothing: a module can execute VMGEXIT.
    pub(crate) fn invalidate(&self) {
        self.page.write_u64(GhcbField::SW_EXIT_CODE.offset(), 0);
        self.page.write_u64(BITMAP_OFFSET, 0);
        self.page.write_u64(BITMAP_OFFSET + 8, 0);
    }

    fn call(&self, request: &Request) -> Result<Answer, HostError> {
        self.write_request(request);
        self.gate.exit();
        self.read_answer(request.event)
    }

    /// Makes a call unless the host has signalled an event; `false` if it was cancelled.
    #[inline]
    fn call_unless_signalled(
        &self,
        request: &Request,
        doorbell: &Doorbell,
    ) -> Result<bool, HostError> {
        self.write_request(request);
        if !self.gate.exit_unless_signalled(doorbell) {
            return Ok(false);
        }
        // The guest's entries and exits: of the answer only the result is read, at two places.
        let (word, mask) = GhcbField::SW_EXIT_INFO1.valid_mask();
        let is_valid = self.page.read_u64(BITMAP_OFFSET + 8 * word) & mask != 0;
        let result = self.page.read_u64(GhcbField::SW_EXIT_INFO1.offset());
        if is_valid && result == u64::from(ExitResult::OK.0) {
            return Ok(true);
        }
        self.read_answer(request.event).map(|_| true)
    }

    fn write_request(&self, request: &Request) {
        let scratch = request.uses_buffer.then(|| self.gpa + BUFFER_OFFSET as u64);
        let fields = [
            (GhcbField::SW_EXIT_CODE, Some(request.event.0)),
            (GhcbField::SW_EXIT_INFO1, Some(request.info1)),
            (GhcbField::SW_EXIT_INFO2, Some(request.info2)),
            (GhcbField::RAX, request.rax),
            (GhcbField::RCX, request.rcx),
            (GhcbField::RDX, request.rdx),
            (GhcbField::SW_SCRATCH, scratch),
        ];
        let mut bitmap = [0; 2];
        for (field, value) in fields {
            if let Some(value) = value {
                let (word, mask) = field.valid_mask();
                bitmap[word] |= mask;
                self.page.write_u64(field.offset(), value);
            }
        }
        self.page.write_u64(BITMAP_OFFSET, bitmap[0]);
        self.page.write_u64(BITMAP_OFFSET + 8, bitmap[1]);
        self.page.write_u16(VERSION_OFFSET, PROTOCOL_VERSION_2);
        self.page.write_u32(USAGE_OFFSET, USAGE_GHCB);
    }

    fn read_answer(&self, event: NaeExit) -> Result<Answer, HostError> {
        let answer = Answer {
            event,
            valid: [
                self.page.read_u64(BITMAP_OFFSET),
                self.page.read_u64(BITMAP_OFFSET + 8),
            ],
            rax: self.page.read_u64(GhcbField::RAX.offset()),
            rdx: self.page.read_u64(GhcbField::RDX.offset()),
            info2: self.page.read_u64(GhcbField::SW_EXIT_INFO2.offset()),
        };
        let info1 = self.page.read_u64(GhcbField::SW_EXIT_INFO1.offset());
        let what = "SW_EXITINFO1 is not valid";
        let info1 = answer.checked(GhcbField::SW_EXIT_INFO1, info1, what)?;
        let what = "SW_EXITINFO1 is no result";
        match u32::try_from(info1).map(ExitResult) {
            Ok(ExitResult::OK) => Ok(answer),
            Ok(result @ (ExitResult::EXCEPTION | ExitResult::MALFORMED)) => {
                Err(HostError::Refused {
                    event,
                    result: result.0,
                    detail: answer.info2,
                })
            }
            _ => Err(HostError::Lied { event, what }),
        }
    }

    /// Copies `bytes` into the shared buffer.
    fn fill_buffer(&self, event: NaeExit, bytes: &[u8]) -> Result<(), HostError> {
        if bytes.len() > SHARED_BUFFER_SIZE || !self.page.write(BUFFER_OFFSET, bytes) {
            let what = "more than the shared buffer holds";
            return Err(HostError::Malformed { event, what });
        }
        Ok(())
    }

    /// Copies the start of the shared buffer into `bytes`.
    fn read_buffer(&self, event: NaeExit, bytes: &mut [u8]) -> Result<(), HostError> {
        if bytes.len() > SHARED_BUFFER_SIZE || !self.page.read(BUFFER_OFFSET, bytes) {
            let what = "more than the shared buffer holds";
            return Err(HostError::Malformed { event, what });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
