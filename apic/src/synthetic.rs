//! Hyper-V's synthetic interrupt controller and its four timers, one set a vCPU.
//!
//! References are to Microsoft's Hypervisor Top-Level Functional Specification ("TLFS"), chapters on the SynIC and on timers. [`Synthetic`]
//! has the registers; a [`timer::Timer`] that comes due ([`Synthetic::advance`]) raises a vector of the local APIC, or leaves a message
//! in the guest's message page and raises the vector of that source. Nobody else sends messages and nobody signals events here: there
//! is no bus of Hyper-V's behind it. Interrupts that end by themselves are not offered, and the guest is told so.

mod message;
mod timer;

use bitfield_struct::bitfield;
use stockade_bus::GuestMemory;

use message::Slot;
use timer::{Expiry, Timer};

use crate::local::GeneralProtection;

/// First register: SCONTROL.
pub const FIRST: u32 = 0x4000_0080;
/// Last register: the count of the last timer.
pub const LAST: u32 = 0x4000_00B7;
const CONTROL: u32 = 0x4000_0080;
const VERSION: u32 = 0x4000_0081;
const EVENT_PAGE: u32 = 0x4000_0082;
const MESSAGE_PAGE: u32 = 0x4000_0083;
const END_OF_MESSAGE: u32 = 0x4000_0084;
const SOURCES: u32 = 0x4000_0090;
const TIMERS: u32 = 0x4000_00B0;

/// How many sources of interrupts there are.
const SOURCE_COUNT: usize = 16;
const TIMER_COUNT: usize = 4;
/// Vectors below are the processor's own.
const FIRST_VECTOR: u8 = 16;
/// In SCONTROL, SIEFP and SIMP.
const ENABLE: u64 = 1;

/// A source of interrupts (SINTx).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
struct Source {
    vector: u8,
    #[bits(8)]
    __: u8,
    is_masked: bool,
    ends_itself: bool,
    is_polled: bool,
    #[bits(45)]
    reserved: u64,
}

/// What is left to be done after a register was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing beyond a look at [`Synthetic::advance`].
    Done,
    /// The page in this value is the guest's from now on, empty.
    Page(u64),
}

/// The registers of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synthetic {
    control: u64,
    event_page: u64,
    message_page: u64,
    sources: [Source; SOURCE_COUNT],
    timers: [Timer; TIMER_COUNT],
}

impl Default for Synthetic {
    fn default() -> Self {
        Self::new()
    }
}

impl Synthetic {
    /// Returns the registers as after power-on.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            control: 0,
            event_page: 0,
            message_page: 0,
            sources: [Source::new().with_is_masked(true); SOURCE_COUNT],
            timers: [Timer::new(); TIMER_COUNT],
        }
    }

    /// Puts the registers back to power-on.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Reads a register.
    pub fn read(&self, msr: u32) -> Result<u64, GeneralProtection> {
        Ok(match msr {
            CONTROL => self.control,
            VERSION => 1,
            EVENT_PAGE => self.event_page,
            MESSAGE_PAGE => self.message_page,
            END_OF_MESSAGE => 0,
            _ => match place(msr)? {
                Place::Source(index) => self.sources[index].into_bits(),
                Place::Configuration(index) => self.timers[index].configuration(),
                Place::Count(index) => self.timers[index].count(),
            },
        })
    }

    /// Writes a register when the reference clock shows `now`.
    pub fn write(&mut self, msr: u32, value: u64, now: u64) -> Result<Written, GeneralProtection> {
        match msr {
            CONTROL => self.control = value & ENABLE,
            EVENT_PAGE => {
                self.event_page = value;
                return Ok(new_page(value));
            }
            MESSAGE_PAGE => {
                self.message_page = value;
                return Ok(new_page(value));
            }
            // The guest has emptied a slot; who waits for it is looked after with the next advance.
            END_OF_MESSAGE => {}
            _ => match place(msr)? {
                Place::Source(index) => self.sources[index] = checked_source(value)?,
                Place::Configuration(index) => self.timers[index].configure(value, now)?,
                Place::Count(index) => self.timers[index].set_count(value, now),
            },
        }
        Ok(Written::Done)
    }

    /// Returns when a timer is next due by the reference clock, if one runs. One whose message waits for its slot does not.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.timers.iter().filter_map(Timer::due).min()
    }

    /// Lets timers come due and delivers what waits; `raise` takes the vectors that come of it.
    pub fn advance(&mut self, now: u64, memory: &dyn GuestMemory, mut raise: impl FnMut(u8)) {
        for index in 0..TIMER_COUNT {
            match self.timers[index].advance(now) {
                None => {}
                Some(Expiry::Vector(vector)) => raise(vector),
                Some(Expiry::Message { source, due }) => {
                    let message = message::timer_expired(index, due, now);
                    let Some(slot) = self.slot(source) else {
                        continue;
                    };
                    if slot.put(&message, memory) {
                        self.timers[index].delivered(now);
                        let source = self.sources[usize::from(source)];
                        if !source.is_polled() {
                            raise(source.vector());
                        }
                    }
                }
            }
        }
    }

    /// Returns where messages of a source go, if it has such a place now.
    fn slot(&self, source: u8) -> Option<Slot> {
        let is_open = !self.sources.get(usize::from(source))?.is_masked();
        let is_on = self.control & self.message_page & ENABLE != 0;
        (is_open && is_on).then(|| Slot::new(self.message_page, source))
    }
}

/// What a register belongs to.
enum Place {
    Source(usize),
    Configuration(usize),
    Count(usize),
}

fn place(msr: u32) -> Result<Place, GeneralProtection> {
    let offset = |from: u32| usize::try_from(msr.wrapping_sub(from)).unwrap_or(usize::MAX);
    let (source, timer) = (offset(SOURCES), offset(TIMERS));
    match (source < SOURCE_COUNT, timer < 2 * TIMER_COUNT) {
        (true, _) => Ok(Place::Source(source)),
        (_, true) if timer.is_multiple_of(2) => Ok(Place::Configuration(timer / 2)),
        (_, true) => Ok(Place::Count(timer / 2)),
        _ => Err(GeneralProtection),
    }
}

fn checked_source(value: u64) -> Result<Source, GeneralProtection> {
    let source = Source::from_bits(value);
    let is_vector = source.is_masked() || source.is_polled() || source.vector() >= FIRST_VECTOR;
    if is_vector && !source.ends_itself() {
        Ok(source)
    } else {
        Err(GeneralProtection)
    }
}

const fn new_page(value: u64) -> Written {
    if value & ENABLE == 0 {
        Written::Done
    } else {
        Written::Page(value)
    }
}

#[cfg(test)]
mod tests;
