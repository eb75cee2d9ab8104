//! A module's program while it runs: its registers, what it waits for, how it ends.

use alloc::string::String;
use core::fmt;

use super::call::number::Number;
use super::call::{Context, Desk, Leave, Outcome};
use super::channel::Channel;
use super::elf_file::Program;
use super::load::{self, LoadError};
use super::memory::Memory;
use super::output::Output;
use super::outside::Outside;
use super::records::RecordStore;
use super::space::{Exception, Exit, Registers, Space};

/// Exceptions by vector (APM vol. 2, table 8-1).
const UNDEFINED: u8 = 6;
const PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;
const VMM_COMMUNICATION: u8 = 29;
/// The exit code of CPUID, which is the error code of its #VC.
const CPUID_EXIT: u64 = 0x72;
const CPUID_BYTES: [u8; 2] = [0x0F, 0xA2];

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By its own will.
    Left(Leave),
    /// By an exception, at this instruction.
    Failed(Exception, u64),
    /// It took more processor time than it may.
    OverTime,
    /// It did not answer, and who asked has lost patience.
    Dismissed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left(Leave::Exit(status)) => write!(f, "exit status {status}"),
            Self::Left(Leave::Signal(signal)) => write!(f, "signal {signal} to itself"),
            Self::OverTime => f.write_str("more processor time than allowed"),
            Self::Dismissed => f.write_str("no answer"),
            Self::Failed(exception, rip) => {
                let Exception {
                    vector,
                    error,
                    address,
                } = exception;
                match *vector {
                    PAGE_FAULT => write!(f, "page fault (error {error:#x}) for {address:#x}")?,
                    PROTECTION => write!(f, "general protection fault (error {error:#x})")?,
                    UNDEFINED => f.write_str("invalid instruction")?,
                    VMM_COMMUNICATION => write!(f, "intercepted instruction (exit {error:#x})")?,
                    other => write!(f, "exception {other} (error {error:#x})")?,
                }
                write!(f, " at {rip:#x}")
            }
        }
    }
}

/// What a program does after its slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// It goes on.
    More,
    /// It waits for a message, or for this time.
    Wait(u64),
    /// It has ended.
    Ended(End),
}

/// What a program works with that outlives it.
pub struct Tools<'a> {
    /// The module's name.
    pub name: &'a str,
    /// Its channel.
    pub channel: &'a Channel,
    /// Its records.
    pub records: &'a mut dyn RecordStore,
    /// The world outside.
    pub outside: &'a mut dyn Outside,
}

/// A running program; its address space is its own.
#[derive(Debug)]
pub struct Process {
    memory: Memory,
    registers: Registers,
    /// The call in the registers is to be tried again.
    is_waiting: bool,
    until_ns: Option<u64>,
    desk: Desk,
    output: Output,
    /// Unknown calls that were named in the log, a bit a number.
    named: [u64; 8],
    /// How many unknown calls there were.
    unknown_calls: u64,
}

impl Process {
    /// Returns the process of a program that was loaded into `space`, `memory` being the books of it.
    pub fn new<S: Space + ?Sized>(
        program: &Program,
        arguments: &[String],
        memory: Memory,
        space: &mut S,
        random: [u8; 16],
    ) -> Result<Self, LoadError> {
        let registers = load::enter(program, arguments, random, space)?;
        Ok(Self {
            memory,
            registers,
            is_waiting: false,
            until_ns: None,
            desk: Desk::Empty,
            output: Output::default(),
            named: [0; 8],
            unknown_calls: 0,
        })
    }

    /// Returns how many unknown calls the program has made.
    #[must_use]
    pub fn unknown_calls(&self) -> u64 {
        self.unknown_calls
    }

    /// Runs the program until it waits, ends, is interrupted, or this time has come.
    pub fn slice<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        tools: &mut Tools<'_>,
        until_ns: u64,
    ) -> Slice {
        if self.is_waiting
            && let Some(slice) = self.call(space, tools)
        {
            return slice;
        }
        loop {
            let over = match space.run(&mut self.registers) {
                Exit::Interrupted => Some(Slice::More),
                Exit::Call => self.call(space, tools),
                Exit::Exception(exception) => self.except(space, tools, exception),
            };
            if let Some(slice) = over {
                return slice;
            }
            if tools.outside.monotonic_ns() >= until_ns {
                return Slice::More;
            }
        }
    }

    /// Prints what is left of the last line.
    pub fn finish(&mut self, tools: &mut Tools<'_>) {
        self.output.finish(tools.name, tools.outside);
    }

    /// Carries out the call in the registers; `None` if the program goes on.
    fn call<S: Space + ?Sized>(&mut self, space: &mut S, tools: &mut Tools<'_>) -> Option<Slice> {
        let mut fs_base = self.registers.fs_base;
        let outcome = Context {
            name: tools.name,
            space,
            memory: &mut self.memory,
            channel: tools.channel,
            records: tools.records,
            desk: &mut self.desk,
            output: &mut self.output,
            outside: tools.outside,
            until_ns: &mut self.until_ns,
            fs_base: &mut fs_base,
        }
        .perform(&self.registers);
        self.registers.fs_base = fs_base;
        if let Outcome::Unknown(number) = outcome {
            self.name_unknown(number, tools);
        }
        self.is_waiting = matches!(outcome, Outcome::Wait(_));
        if let Some(value) = outcome.value() {
            self.registers.rax = value;
        }
        match outcome {
            Outcome::Wait(until_ns) => Some(Slice::Wait(until_ns)),
            Outcome::Leave(leave) => Some(Slice::Ended(End::Left(leave))),
            Outcome::Done(_) | Outcome::Failed(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Logs an unknown call the first time; those beyond Linux's numbers share a place.
    fn name_unknown(&mut self, number: Number, tools: &mut Tools<'_>) {
        self.unknown_calls = self.unknown_calls.saturating_add(1);
        let place = number.0.min(511);
        let (word, bit) = (usize::try_from(place / 64).unwrap_or(0), 1 << (place % 64));
        if self.named[word] & bit == 0 {
            self.named[word] |= bit;
            let line = alloc::format!("system call {} is not offered", number.0);
            tools.outside.log(tools.name, &line);
        }
    }

    /// Answers CPUID; any other exception ends the program.
    fn except<S: Space + ?Sized>(
        &mut self,
        space: &mut S,
        tools: &mut Tools<'_>,
        exception: Exception,
    ) -> Option<Slice> {
        let registers = &mut self.registers;
        let mut bytes = [0; 2];
        let is_cpuid = (exception.vector, exception.error) == (VMM_COMMUNICATION, CPUID_EXIT)
            && space.read(registers.rip, &mut bytes).is_ok()
            && bytes == CPUID_BYTES;
        if !is_cpuid {
            return Some(Slice::Ended(End::Failed(exception, registers.rip)));
        }
        let (leaf, subleaf) = (low(registers.rax), low(registers.rcx));
        let answer = tools.outside.cpuid(leaf, subleaf).map(u64::from);
        [registers.rax, registers.rbx, registers.rcx, registers.rdx] = answer;
        registers.rip = registers.rip.wrapping_add(CPUID_BYTES.len() as u64);
        None
    }
}

fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::channel::Bell;
    use crate::module::fake::{Act, FakeOutside, FakeSpace};
    use crate::module::records::VolatileRecords;
    use crate::module::space::Access;
    use alloc::boxed::Box;
    use alloc::vec::Vec;

    fn run(acts: Vec<Act>, slices: usize) -> (Vec<Slice>, FakeOutside) {
        let (mut memory, mut space) = (Memory::new(100), FakeSpace::default());
        memory
            .place(&mut space, 0x40_0000..0x40_1000, Access::Write)
            .unwrap();
        space.write(0x40_0000, &CPUID_BYTES).unwrap();
        let mut process = Process {
            memory,
            registers: Registers {
                rip: 0x40_0000,
                ..Registers::default()
            },
            is_waiting: false,
            until_ns: None,
            desk: Desk::Empty,
            output: Output::default(),
            named: [0; 8],
            unknown_calls: 0,
        };
        space.acts = acts.into();
        let mut outside = FakeOutside::default();
        let mut tools = Tools {
            name: "m",
            channel: &Channel::new(Bell::default()),
            records: &mut VolatileRecords::default(),
            outside: &mut outside,
        };
        let slices = (0..slices)
            .map(|_| process.slice(&mut space, &mut tools, u64::MAX))
            .collect();
        (slices, outside)
    }

    fn call(number: u64) -> Act {
        Box::new(move |registers| {
            registers.rax = number;
            registers.rdi = 3;
            Exit::Call
        })
    }

    fn exception(vector: u8, error: u64) -> Act {
        Box::new(move |_| {
            Exit::Exception(Exception {
                vector,
                error,
                address: 0,
            })
        })
    }

    #[test]
    fn cpuid_is_answered_and_stepped_over() {
        let look: Act = Box::new(|registers| {
            assert_eq!((registers.rip, registers.rcx), (0x40_0002, 0x22));
            Exit::Interrupted
        });
        let (slices, _) = run(alloc::vec![exception(29, 0x72), look], 1);
        assert_eq!(slices, [Slice::More]);
    }

    #[test]
    fn every_other_exception_ends_the_program() {
        for (vector, error) in [(0, 0), (1, 0), (6, 0), (13, 0), (14, 5), (29, 0x81)] {
            let (slices, _) = run(alloc::vec![exception(vector, error)], 1);
            let expected = Exception {
                vector,
                error,
                address: 0,
            };
            let end = End::Failed(expected, 0x40_0000);
            assert_eq!(slices, [Slice::Ended(end)]);
        }
    }

    #[test]
    fn a_call_that_waits_is_tried_again_without_running() {
        let (slices, _) = run(alloc::vec![call(0)], 3);
        assert_eq!(slices, [Slice::Wait(u64::MAX); 3]);
    }

    #[test]
    fn an_unknown_call_is_named_once() {
        let calls = alloc::vec![call(57), call(57), call(1 << 40), call(u64::MAX)];
        let (slices, outside) = run(calls, 1);
        assert_eq!(slices, [Slice::More]);
        assert_eq!(outside.lines.len(), 2);
        assert_eq!(outside.lines[0], "system call 57 is not offered");
    }

    #[test]
    fn the_slice_ends_in_time_whatever_is_called() {
        let calls: Vec<Act> = (0..1000).map(|_| call(24)).collect();
        let (mut process_calls, outside) = (0, run(calls, 1).1);
        while outside.now_ns.get() > process_calls * 1000 {
            process_calls += 1;
        }
        assert_eq!(process_calls, 1000);
    }
}
