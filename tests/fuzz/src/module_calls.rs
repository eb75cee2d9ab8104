//! Modules of the paravisor: their ELF files, and their system calls with any registers and any memory.

use std::collections::BTreeMap;
use std::ops::Range;

use stockade_paravisor::module::call::{Context, Desk, Outcome};
use stockade_paravisor::module::channel::{Bell, Channel};
use stockade_paravisor::module::elf_file::Program;
use stockade_paravisor::module::memory::{Memory, Place};
use stockade_paravisor::module::output::Output;
use stockade_paravisor::module::outside::{NoEntropy, NoReport, Outside};
use stockade_paravisor::module::records::VolatileRecords;
use stockade_paravisor::module::space::{
    Access, BadAddress, Exit, OutOfMemory, PAGE, Registers, Space, USER_END, USER_START,
};

use crate::Input;

/// Where the module has memory from the start.
const DATA: u64 = 0x30_0000_0000;
/// The most pages it may have.
const LIMIT: usize = 64;
/// Calls of one input.
const CALLS: usize = 200;

/// Parses the input as a file, then takes it for calls.
pub fn run(data: &[u8]) {
    if let Ok(program) = Program::parse(data, data.len() as u64) {
        check_program(&program, data.len() as u64);
    }
    let mut input = Input::new(data);
    let (mut space, mut memory) = (Pages::default(), Memory::new(LIMIT));
    memory.set_heap(0x50_0000);
    let place = Place::Free(DATA);
    let placed = memory.map(&mut space, place, 4 * PAGE, Access::Write);
    assert_eq!(placed, Ok(DATA));
    let channel = Channel::new(Bell::default());
    let (mut records, mut desk) = (VolatileRecords::default(), Desk::Empty);
    let (mut output, mut outside) = (Output::default(), World::default());
    let (mut until_ns, mut fs_base) = (None, 0);
    for _ in 0..CALLS {
        if input.is_empty() {
            break;
        }
        if input.u8() & 3 == 0 {
            // A busy channel refuses, which is no matter here.
            let _ = channel.post(b"request");
            channel.cancel();
        }
        let outcome = Context {
            name: "fuzz",
            space: &mut space,
            memory: &mut memory,
            channel: &channel,
            records: &mut records,
            desk: &mut desk,
            output: &mut output,
            outside: &mut outside,
            until_ns: &mut until_ns,
            fs_base: &mut fs_base,
        }
        .perform(&registers(&mut input));
        assert!(space.pages() <= LIMIT, "more memory than the limit");
        assert!(fs_base < USER_END);
        let _ = channel.take(&mut [0; 16]);
        if let Outcome::Leave(_) = outcome {
            break;
        }
    }
}

/// What is accepted lies among a module's addresses and in the file, and nothing is writable and executable.
fn check_program(program: &Program, file_bytes: u64) {
    let mut end = USER_START;
    for segment in &program.segments {
        let pages = segment.pages();
        assert!(pages.start >= end && pages.end <= USER_END);
        assert!(segment.offset + segment.file_bytes <= file_bytes);
        end = pages.end;
    }
    let entry = |segment: &stockade_paravisor::module::elf_file::Segment| {
        segment.access == Access::Execute && segment.place.contains(&program.entry)
    };
    assert!(program.segments.iter().any(entry));
}

/// Registers that are sometimes sensible: a known call, addresses near memory, short lengths.
fn registers(input: &mut Input<'_>) -> Registers {
    let mut argument = || match input.u8() % 4 {
        0 => u64::from(input.u8()),
        1 => DATA + u64::from(input.u16()) % (5 * PAGE),
        2 => u64::from(input.u16()) * PAGE,
        _ => input.u64(),
    };
    Registers {
        rdi: argument(),
        rsi: argument(),
        rdx: argument(),
        r10: argument(),
        r8: argument(),
        rax: u64::from(input.u16() % 340),
        ..Registers::default()
    }
}

/// Nothing, and calls that reach every kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let calls = |numbers: Range<u16>| {
        numbers
            .flat_map(|number| {
                let mut call = vec![1, 1, 0, 0, 1, 8, 0, 0, 4, 0, 3, 0, 0x22, 0, 0];
                call.extend(number.to_le_bytes());
                call
            })
            .collect()
    };
    vec![Vec::new(), calls(0..35), calls(35..120), calls(200..340)]
}

/// An address space in a map.
#[derive(Default)]
struct Pages(BTreeMap<u64, (Access, Vec<u8>)>);

impl Pages {
    fn bytes(&self, address: u64, len: usize) -> impl Iterator<Item = (u64, usize)> + use<> {
        (0..len as u64).map(move |index| {
            let at = address.wrapping_add(index);
            (at / PAGE * PAGE, usize::try_from(at % PAGE).unwrap_or(0))
        })
    }
}

impl Space for Pages {
    fn map(&mut self, page: u64, access: Access, limit: usize) -> Result<(), OutOfMemory> {
        assert!(page.is_multiple_of(PAGE) && (USER_START..USER_END).contains(&page));
        let is_full = self.0.len() >= limit;
        match self.0.get_mut(&page) {
            Some((old, _)) => *old = access,
            None if access == Access::None => {}
            None if is_full => return Err(OutOfMemory),
            None => drop(self.0.insert(page, (access, vec![0; 4096]))),
        }
        Ok(())
    }

    fn unmap(&mut self, pages: Range<u64>) {
        self.0.retain(|page, _| !pages.contains(page));
    }

    fn shift(&mut self, from: u64, to: u64, _: usize) -> Result<(), OutOfMemory> {
        if let Some(page) = self.0.remove(&from) {
            assert!(self.0.insert(to, page).is_none(), "a page is lost");
        }
        Ok(())
    }

    fn pages(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let places = self.bytes(address, buffer.len());
        for (byte, (page, offset)) in buffer.iter_mut().zip(places) {
            match self.0.get(&page) {
                Some((access, bytes)) if *access != Access::None => *byte = bytes[offset],
                _ => return Err(BadAddress(address)),
            }
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        for (page, _) in self.bytes(address, bytes.len()) {
            if self.0.get(&page).map(|(access, _)| *access) != Some(Access::Write) {
                return Err(BadAddress(address));
            }
        }
        self.load(address, bytes)
    }

    fn load(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let places = self.bytes(address, bytes.len());
        for (byte, (page, offset)) in bytes.iter().zip(places) {
            let (_, target) = self.0.get_mut(&page).ok_or(BadAddress(address))?;
            target[offset] = *byte;
        }
        Ok(())
    }

    fn run(&mut self, _: &mut Registers) -> Exit {
        Exit::Interrupted
    }
}

/// A world in which time passes.
#[derive(Default)]
struct World(std::cell::Cell<u64>);

impl Outside for World {
    fn monotonic_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1_000_000);
        self.0.get()
    }

    fn realtime_ns(&self) -> u64 {
        self.monotonic_ns()
    }

    fn random(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        buffer.fill(5);
        Ok(())
    }

    fn cpuid(&self, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }

    fn report(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, NoReport> {
        Ok(report_data.repeat(20))
    }

    fn log(&mut self, _: &str, line: &str) {
        assert!(line.chars().all(|letter| (' '..='~').contains(&letter)));
    }
}
