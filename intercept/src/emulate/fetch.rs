//! Fetching and decoding the instruction at RIP.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, Register};

use super::guest::Guest;
use super::registers::CodeMode;
use super::{Exception, MmioBus, Stop};
use crate::walk::{Access, control};

/// The longest instruction. APM vol. 3, 1.1.
const LENGTH_LIMIT: usize = 15;

/// How many decoded instructions a vCPU keeps.
const CACHE_ENTRIES: usize = 32;

const FAULT: Stop = Stop::Exception(Exception::GENERAL_PROTECTION);

/// Instructions decoded before. An entry counts only if mode, address and every byte are the same, so it can never be stale.
pub(super) struct DecodeCache {
    entries: [Option<Entry>; CACHE_ENTRIES],
}

#[derive(Clone, Copy)]
struct Entry {
    mode: CodeMode,
    bytes: [u8; LENGTH_LIMIT],
    instruction: Instruction,
}

/// What bytes decode to.
enum Decoded {
    Whole(Instruction),
    /// More bytes are needed.
    Short,
    Invalid(Stop),
}

impl DecodeCache {
    pub(super) const fn new() -> Self {
        Self {
            entries: [None; CACHE_ENTRIES],
        }
    }

    /// Returns the instruction at RIP, or the exception its fetch or its bytes deserve.
    pub(super) fn fetch<B: MmioBus + ?Sized>(
        &mut self,
        guest: &mut Guest<'_, B>,
    ) -> Result<Instruction, Stop> {
        let mode = guest.cpu.mode;
        let rip = guest.cpu.vmsa.rip;
        let linear = guest.cpu.linear(Register::CS, rip, 1, Access::Fetch)?;
        let available = match mode {
            CodeMode::Bits64 => LENGTH_LIMIT,
            _ => bytes_to_limit(rip, guest.cpu.vmsa.cs.limit),
        };
        let mut bytes = [0; LENGTH_LIMIT];
        let mut have = guest.fetch(linear, &mut bytes[..available])?;
        if let Some(instruction) = self.find(mode, rip, &bytes[..have]) {
            return Ok(instruction);
        }
        let mut decoded = decode(mode, rip, &bytes[..have]);
        if matches!(decoded, Decoded::Short) && have < available {
            let next = linear.wrapping_add(have as u64);
            let next = match mode {
                CodeMode::Bits64 => next,
                _ => next & 0xFFFF_FFFF,
            };
            have += guest.fetch(next, &mut bytes[have..available])?;
            decoded = decode(mode, rip, &bytes[..have]);
        }
        match decoded {
            Decoded::Whole(instruction) => {
                self.keep(mode, bytes, instruction);
                Ok(instruction)
            }
            Decoded::Short => Err(FAULT),
            Decoded::Invalid(stop) => Err(stop_at_extension(guest, &bytes, stop)),
        }
    }

    fn find(&self, mode: CodeMode, rip: u64, bytes: &[u8]) -> Option<Instruction> {
        let entry = self.entries[slot(rip)].as_ref()?;
        let len = entry.instruction.len();
        let is_same = entry.mode == mode
            && entry.instruction.ip() == rip
            && bytes.get(..len)? == entry.bytes.get(..len)?;
        is_same.then_some(entry.instruction)
    }

    fn keep(&mut self, mode: CodeMode, bytes: [u8; LENGTH_LIMIT], instruction: Instruction) {
        self.entries[slot(instruction.ip())] = Some(Entry {
            mode,
            bytes,
            instruction,
        });
    }
}

#[expect(clippy::cast_possible_truncation, reason = "reduced to the table size")]
fn slot(rip: u64) -> usize {
    (rip ^ (rip >> 5)) as usize % CACHE_ENTRIES
}

/// Returns how many bytes may be fetched before the code segment's limit. `rip` is within it.
fn bytes_to_limit(rip: u64, limit: u32) -> usize {
    let left = u64::from(limit).saturating_sub(rip).saturating_add(1);
    usize::try_from(left).map_or(LENGTH_LIMIT, |left| left.min(LENGTH_LIMIT))
}

fn decode(mode: CodeMode, rip: u64, bytes: &[u8]) -> Decoded {
    let mut decoder = Decoder::with_ip(mode.bitness(), bytes, rip, DecoderOptions::AMD);
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => Decoded::Whole(instruction),
        DecoderError::NoMoreBytes => Decoded::Short,
        // A longer instruction than there can be is #GP, an undefined one #UD. APM vol. 2, 8.2.
        _ if decoder.position() >= LENGTH_LIMIT => Decoded::Invalid(FAULT),
        _ => Decoded::Invalid(Stop::Exception(Exception::INVALID_OPCODE)),
    }
}

/// The decoder is built without the vector encodings; where the guest has them on, they are valid, only not emulated.
fn stop_at_extension<B: ?Sized>(guest: &Guest<'_, B>, bytes: &[u8], stop: Stop) -> Stop {
    const XCR0_AVX: u64 = 1 << 2;
    const PREFIXES: [u8; 7] = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x67];
    const EXTENSIONS: [u8; 3] = [0xC4, 0xC5, 0x62];
    let vmsa = &guest.cpu.vmsa;
    let is_on = vmsa.cr4 & control::CR4_OSXSAVE != 0 && vmsa.xcr0 & XCR0_AVX != 0;
    let first = bytes.iter().find(|byte| !PREFIXES.contains(byte));
    if is_on && first.is_some_and(|byte| EXTENSIONS.contains(byte)) {
        Stop::Unsupported(Code::INVALID)
    } else {
        stop
    }
}

/// Decodes a NOP, so that the decoder builds its tables.
pub(super) fn build_tables() {
    decode(CodeMode::Bits64, 0, &[0x90]);
}
