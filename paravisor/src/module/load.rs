//! A module's program on its way from staging into its address space, and the stack it begins with.
//!
//! Staging is the host's: each byte is read once, into a buffer of ours, hashed there and copied from there. Until the digest of the
//! whole file is right, nothing of it runs. Loading is done in steps, so that a module that starts again holds no processor.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use sha2::{Digest, Sha384};
use stockade_boot::manifest::Payload;
use stockade_boot::payload::{PayloadSource, Unreadable};

use super::elf_file::{ElfError, Program, Segment};
use super::memory::{Memory, MemoryError, STACK_BYTES, STACK_TOP};
use super::space::{Access, BadAddress, PAGE, Registers, Space};

/// Bytes read in a step; the program headers of a module are in the first.
const STEP_BYTES: usize = 16 << 10;
/// The longest arguments, all together.
const LONGEST_ARGUMENTS: usize = 2048;

/// Why a module is not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The host took the staged file away.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The host changed the file, or staged another.
    #[error("it does not have the digest in the manifest")]
    Digest,
    /// It is no module.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// It is too big.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A segment is not where it was just mapped.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The arguments are too long.
    #[error("its arguments are too long")]
    Arguments,
    /// There is nothing to make its canary of.
    #[error("the processor gives no random numbers")]
    NoEntropy,
}

/// A file being loaded.
#[derive(Debug)]
pub struct Loader {
    hash: Sha384,
    offset: u64,
    program: Option<Program>,
    buffer: Vec<u8>,
}

impl Default for Loader {
    fn default() -> Self {
        Self {
            hash: Sha384::new(),
            offset: 0,
            program: None,
            buffer: vec![0; STEP_BYTES],
        }
    }
}

impl Loader {
    /// Loads the next part; returns the program once all of it is there and its digest is right.
    pub fn step<S: Space + ?Sized, P: PayloadSource + ?Sized>(
        &mut self,
        file: &Payload,
        source: &mut P,
        space: &mut S,
        memory: &mut Memory,
    ) -> Result<Option<Program>, LoadError> {
        let left = file.len_bytes.get().saturating_sub(self.offset);
        let len = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        let part = &mut self.buffer[..len];
        source.read(file.gpa.get().wrapping_add(self.offset), part)?;
        self.hash.update(&*part);
        let program = match &mut self.program {
            Some(program) => program,
            none => {
                let program = Program::parse(part, file.len_bytes.get())?;
                make_room(&program, space, memory)?;
                none.insert(program)
            }
        };
        for segment in &program.segments {
            copy_part(segment, self.offset, part, space)?;
        }
        self.offset += len as u64;
        if self.offset < file.len_bytes.get() {
            return Ok(None);
        }
        if self.hash.finalize_reset()[..] != file.sha384 {
            return Err(LoadError::Digest);
        }
        Ok(self.program.take())
    }
}

fn make_room<S: Space + ?Sized>(
    program: &Program,
    space: &mut S,
    memory: &mut Memory,
) -> Result<(), LoadError> {
    for segment in &program.segments {
        memory.place(space, segment.pages(), segment.access)?;
    }
    memory.set_heap(program.end());
    let stack = STACK_TOP - STACK_BYTES..STACK_TOP;
    Ok(memory.place(space, stack, Access::Write)?)
}

/// Copies what of `part`, which is at `offset` of the file, belongs to the segment.
fn copy_part<S: Space + ?Sized>(
    segment: &Segment,
    offset: u64,
    part: &[u8],
    space: &mut S,
) -> Result<(), LoadError> {
    let start = segment.offset.max(offset);
    let end = (segment.offset + segment.file_bytes).min(offset + part.len() as u64);
    let range = start.saturating_sub(offset)..end.saturating_sub(offset);
    let range = usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok());
    let Some(bytes) = range.and_then(|(start, end)| part.get(start..end)) else {
        return Ok(());
    };
    let target = segment.place.start + (start - segment.offset);
    Ok(space.load(target, bytes)?)
}

/// Entries of the auxiliary vector (System V ABI, x86-64 supplement, 3.4.3).
mod auxiliary {
    pub(super) const PHDR: u64 = 3;
    pub(super) const PHENT: u64 = 4;
    pub(super) const PHNUM: u64 = 5;
    pub(super) const PAGESZ: u64 = 6;
    pub(super) const ENTRY: u64 = 9;
    pub(super) const SECURE: u64 = 23;
    pub(super) const RANDOM: u64 = 25;
}

/// Writes what a program finds on its stack and returns its first registers.
pub fn enter<S: Space + ?Sized>(
    program: &Program,
    arguments: &[String],
    random: [u8; 16],
    space: &mut S,
) -> Result<Registers, LoadError> {
    let mut strings = Vec::new();
    let mut offsets = Vec::new();
    for argument in arguments {
        offsets.push(strings.len() as u64);
        strings.extend_from_slice(argument.as_bytes());
        strings.push(0);
    }
    let random_at = strings.len() as u64;
    strings.extend_from_slice(&random);
    if strings.len() > LONGEST_ARGUMENTS {
        return Err(LoadError::Arguments);
    }
    let base = (STACK_TOP - strings.len() as u64) & !15;
    let mut words = vec![arguments.len() as u64];
    words.extend(offsets.iter().map(|offset| base + offset));
    words.extend([0, 0]);
    if let Some(headers) = program.headers {
        words.extend([auxiliary::PHDR, headers, auxiliary::PHENT, 56]);
        words.extend([auxiliary::PHNUM, u64::from(program.header_count)]);
    }
    words.extend([auxiliary::PAGESZ, PAGE, auxiliary::ENTRY, program.entry]);
    words.extend([auxiliary::SECURE, 0, auxiliary::RANDOM, base + random_at]);
    words.extend([0, 0]);
    // The stack pointer is a multiple of 16 where a program begins.
    let rsp = (base - 8 * words.len() as u64) & !15;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    space.write(rsp, &bytes)?;
    space.write(base, &strings)?;
    Ok(Registers {
        rip: program.entry,
        rsp,
        ..Registers::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::elf_file::tests::{CODE, DATA, file};
    use crate::module::fake::{FakeSpace, FakeStaging};
    use stockade_boot::layout::STAGING_BASE;
    use stockade_boot::manifest::PayloadKind;

    /// A file of three steps: code from its start, data from the middle of the second.
    fn staged() -> (Payload, FakeStaging) {
        let text = (1, CODE, 0, 0x40_0000, 0x4000, 0x4000);
        let data = (1, DATA, 0x5F00, 0x41_0F00, 0x3000, 0x8000);
        let mut bytes = file(2, 0x40_0100, &[text, data]);
        bytes.resize(0x9000, 0xAA);
        bytes[0x5F00..0x8F00].fill(0xBB);
        let digest = Sha384::digest(&bytes).into();
        let kind = PayloadKind::MODULE;
        let payload = Payload::new(kind, STAGING_BASE, bytes.len() as u64, digest);
        (payload, FakeStaging(bytes))
    }

    fn load(
        payload: &Payload,
        staging: &mut FakeStaging,
        space: &mut FakeSpace,
    ) -> Result<Program, LoadError> {
        let (mut loader, mut memory) = (Loader::default(), Memory::new(1000));
        loop {
            if let Some(program) = loader.step(payload, staging, space, &mut memory)? {
                return Ok(program);
            }
        }
    }

    #[test]
    fn segments_lie_where_they_belong_and_the_rest_is_zero() {
        let (payload, mut staging) = staged();
        let mut space = FakeSpace::default();
        load(&payload, &mut staging, &mut space).unwrap();
        let byte = |at| {
            let mut byte = [0];
            space.read(at, &mut byte).map(|()| byte[0])
        };
        assert_eq!(byte(0x40_0000), Ok(0x7F));
        assert_eq!((byte(0x40_3FFF), byte(0x41_0EFF)), (Ok(0xAA), Ok(0)));
        assert_eq!((byte(0x41_0F00), byte(0x41_3EFF)), (Ok(0xBB), Ok(0xBB)));
        assert_eq!((byte(0x41_3F00), byte(0x41_8EFF)), (Ok(0), Ok(0)));
        assert!(byte(0x41_9000).is_err() && byte(0x40_4000).is_err());
    }

    /// A module that ran before its last byte was hashed would run what the host likes.
    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is() {
        for index in [0x3000, 0x5000, 0x8FFF] {
            let (payload, mut staging) = staged();
            staging.0[index] ^= 1;
            let outcome = load(&payload, &mut staging, &mut FakeSpace::default());
            assert_eq!(outcome, Err(LoadError::Digest));
        }
    }

    #[test]
    fn a_withdrawn_file_is_noticed() {
        let (payload, mut staging) = staged();
        staging.0.truncate(0x5000);
        let outcome = load(&payload, &mut staging, &mut FakeSpace::default());
        assert!(matches!(outcome, Err(LoadError::Unreadable(_))));
    }

    #[test]
    fn the_stack_has_arguments_and_vector_at_its_aligned_top() {
        let (payload, mut staging) = staged();
        let mut space = FakeSpace::default();
        let program = load(&payload, &mut staging, &mut space).unwrap();
        let arguments = [String::from("tpm"), String::from("-x")];
        let registers = enter(&program, &arguments, [7; 16], &mut space).unwrap();
        assert_eq!((registers.rip, registers.rsp % 16), (0x40_0100, 0));
        let word = |index: u64| {
            let mut word = [0; 8];
            space.read(registers.rsp + 8 * index, &mut word).unwrap();
            u64::from_le_bytes(word)
        };
        assert_eq!((word(0), word(3), word(4)), (2, 0, 0));
        let mut text = [0; 6];
        space.read(word(1), &mut text).unwrap();
        assert_eq!((&text, word(2) - word(1)), (b"tpm\0-x", 4));
        assert_eq!((word(5), word(6)), (auxiliary::PHDR, 0x40_0040));
    }

    #[test]
    fn arguments_without_end_are_refused() {
        let (payload, mut staging) = staged();
        let mut space = FakeSpace::default();
        let program = load(&payload, &mut staging, &mut space).unwrap();
        let long = ["x".repeat(3000)];
        let entered = enter(&program, &long, [0; 16], &mut space);
        assert_eq!(entered, Err(LoadError::Arguments));
    }
}
