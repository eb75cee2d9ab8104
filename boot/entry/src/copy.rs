//! Copies that survive a fault.
//!
//! Guest memory is ours by our own map, but the host can take any page away at any time: the access then raises #VC or #PF.
//! Each routine here names its faulting instructions in a fix-up table; the exception handler looks the address up with
//! [`landing`] and continues where the routine reports failure. The table holds 32-bit distances, so it needs no relocation.

use core::arch::global_asm;
use core::ptr;

/// Part of the memory could not be accessed. How much of it was copied is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

global_asm!(
    ".macro stockade_fixup from, to",
    ".pushsection stockade_fixups, \"aR\"",
    ".balign 4",
    ".long \\from - .",
    ".long \\to - .",
    ".popsection",
    ".endm",
    ".text",
    // rdi: destination, rsi: source, rdx: bytes -> eax: 0 copied, 1 fault. Every byte is read exactly once, and two, four or eight
    // bytes are one access: words of a ring that the guest writes meanwhile must not come in halves.
    ".balign 16",
    ".global stockade_copy",
    ".type stockade_copy, @function",
    "stockade_copy:",
    "cmp rdx, 2",
    "je stockade_copy_2",
    "cmp rdx, 4",
    "je stockade_copy_4",
    // Moves of quadwords keep up with memory on silicon, and cost an emulator a third of what a string instruction does.
    "mov r8, rdx",
    "shr r8, 6",
    "jz 5f",
    ".macro stockade_copy_quad offset",
    "stockade_load_\\@: mov rax, [rsi + \\offset]",
    "stockade_store_\\@: mov [rdi + \\offset], rax",
    "stockade_fixup stockade_load_\\@, stockade_fault",
    "stockade_fixup stockade_store_\\@, stockade_fault",
    ".endm",
    ".balign 16",
    "4:",
    ".irp offset, 0, 8, 16, 24, 32, 40, 48, 56",
    "stockade_copy_quad \\offset",
    ".endr",
    "add rsi, 64",
    "add rdi, 64",
    "dec r8",
    "jnz 4b",
    "and edx, 63",
    "5: mov ecx, edx",
    "shr ecx, 3",
    "2: rep movsq",
    "mov ecx, edx",
    "and ecx, 7",
    "3: rep movsb",
    "xor eax, eax",
    "ret",
    "stockade_fixup 2b, stockade_fault",
    "stockade_fixup 3b, stockade_fault",
    ".macro stockade_copy_word width, register",
    "stockade_copy_\\width:",
    "2: mov \\register, [rsi]",
    "3: mov [rdi], \\register",
    "xor eax, eax",
    "ret",
    "stockade_fixup 2b, stockade_fault",
    "stockade_fixup 3b, stockade_fault",
    ".endm",
    "stockade_copy_word 2, cx",
    "stockade_copy_word 4, ecx",
    // rdi: destination, rsi: bytes -> eax: 0 zeroed, 1 fault.
    ".balign 16",
    ".global stockade_zero",
    ".type stockade_zero, @function",
    "stockade_zero:",
    "xor eax, eax",
    "mov r8, rsi",
    "shr r8, 6",
    "jz 5f",
    ".macro stockade_zero_quad offset",
    "stockade_store_\\@: mov [rdi + \\offset], rax",
    "stockade_fixup stockade_store_\\@, stockade_fault",
    ".endm",
    ".balign 16",
    "4:",
    ".irp offset, 0, 8, 16, 24, 32, 40, 48, 56",
    "stockade_zero_quad \\offset",
    ".endr",
    "add rdi, 64",
    "dec r8",
    "jnz 4b",
    "and esi, 63",
    "5: mov ecx, esi",
    "shr ecx, 3",
    "2: rep stosq",
    "mov ecx, esi",
    "and ecx, 7",
    "3: rep stosb",
    "ret",
    "stockade_fixup 2b, stockade_fault",
    "stockade_fixup 3b, stockade_fault",
    // rdi: destination, rsi: expected, rdx: new -> eax: 0 exchanged, 2 differs, 1 fault.
    ".macro stockade_exchange width, register",
    ".balign 16",
    ".global stockade_exchange_\\width",
    ".type stockade_exchange_\\width, @function",
    "stockade_exchange_\\width:",
    "mov rax, rsi",
    "2: lock cmpxchg [rdi], \\register",
    "mov eax, 0",
    "mov ecx, 2",
    "cmovne eax, ecx",
    "ret",
    "stockade_fixup 2b, stockade_fault",
    ".endm",
    "stockade_exchange 1, dl",
    "stockade_exchange 2, dx",
    "stockade_exchange 4, edx",
    "stockade_exchange 8, rdx",
    // rdi: source -> rax: the quadword there, edx: 0 read, 1 fault.
    ".balign 16",
    ".global stockade_load",
    ".type stockade_load, @function",
    "stockade_load:",
    "xor edx, edx",
    "2: mov rax, [rdi]",
    "ret",
    "stockade_fixup 2b, stockade_fault",
    "stockade_fault:",
    "mov eax, 1",
    "mov edx, eax",
    "ret",
);

unsafe extern "C" {
    fn stockade_copy(destination: *mut u8, source: *const u8, bytes: usize) -> u32;
    fn stockade_zero(destination: *mut u8, bytes: usize) -> u32;
    fn stockade_exchange_1(destination: *mut u8, expected: u64, new: u64) -> u32;
    fn stockade_exchange_2(destination: *mut u8, expected: u64, new: u64) -> u32;
    fn stockade_exchange_4(destination: *mut u8, expected: u64, new: u64) -> u32;
    fn stockade_exchange_8(destination: *mut u8, expected: u64, new: u64) -> u32;
    fn stockade_load(source: *const u8) -> Loaded;
    static __start_stockade_fixups: [i32; 0];
    static __stop_stockade_fixups: [i32; 0];
}

/// Copies `bytes` bytes forward, each read once, and reports a fault instead of taking it. Two, four or eight bytes at their natural
/// alignment are one access.
///
/// # Safety
/// 1. `source` is readable for `bytes` bytes, or lies where a fault reaches a handler that consults [`landing`].
/// 2. `destination` is likewise writable, and no Rust reference covers the bytes of it that others may change.
/// 3. The ranges do not overlap.
pub unsafe fn copy(destination: *mut u8, source: *const u8, bytes: usize) -> Result<(), Fault> {
    // SAFETY: 1.–3. are the caller's promise; the routine reads and writes only these ranges and keeps the C ABI. The
    // adversary may change the bytes while they are copied (any value is a byte) or withdraw the page (fix-up).
    match unsafe { stockade_copy(destination, source, bytes) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// What `stockade_load` returns in RAX and RDX.
#[repr(C)]
struct Loaded {
    value: u64,
    fault: u64,
}

/// Reads the quadword at `source` in one instruction, and reports a fault instead of taking it.
///
/// # Safety
/// 1. `source` is readable for eight bytes, or lies where a fault reaches a handler that consults [`landing`].
pub unsafe fn load(source: *const u8) -> Result<u64, Fault> {
    // SAFETY: 1. is the caller's promise; the routine reads only these bytes and keeps the C ABI. Any bytes are a number.
    let loaded = unsafe { stockade_load(source) };
    if loaded.fault == 0 {
        Ok(loaded.value)
    } else {
        Err(Fault)
    }
}

/// Zeroes `bytes` bytes and reports a fault instead of taking it.
///
/// # Safety
/// 1. `destination` is writable for `bytes` bytes, or lies where a fault reaches a handler that consults [`landing`].
/// 2. No Rust reference covers the range.
pub unsafe fn zero(destination: *mut u8, bytes: usize) -> Result<(), Fault> {
    // SAFETY: 1. and 2. are the caller's promise; a page the adversary withdraws ends in the fix-up.
    match unsafe { stockade_zero(destination, bytes) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// The width of an atomic exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Double,
    /// Eight bytes.
    Quad,
}

impl Width {
    /// Returns the width of `bytes` bytes, if there is one.
    #[must_use]
    pub fn from_bytes(bytes: u8) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Double),
            8 => Some(Self::Quad),
            _ => None,
        }
    }
}

/// Replaces the value at `destination` by `new` in one locked instruction if it is `expected`; returns whether it was.
///
/// # Safety
/// 1. `destination` is aligned to `width` and writable, or lies where a fault reaches a handler that consults [`landing`].
/// 2. No Rust reference covers the value.
pub unsafe fn compare_exchange(
    destination: *mut u8,
    width: Width,
    expected: u64,
    new: u64,
) -> Result<bool, Fault> {
    let exchange = match width {
        Width::Byte => stockade_exchange_1,
        Width::Word => stockade_exchange_2,
        Width::Double => stockade_exchange_4,
        Width::Quad => stockade_exchange_8,
    };
    // SAFETY: 1. and 2. are the caller's promise; the routine touches only `width` bytes and keeps the C ABI.
    match unsafe { exchange(destination, expected, new) } {
        0 => Ok(true),
        2 => Ok(false),
        _ => Err(Fault),
    }
}

/// Returns where to continue when the instruction at `rip` faults, if it is one of the copies.
#[must_use]
pub fn landing(rip: u64) -> Option<u64> {
    let mut entry = &raw const __start_stockade_fixups as *const i32;
    let end = &raw const __stop_stockade_fixups as *const i32;
    while entry < end {
        let target = entry.wrapping_add(1);
        if read_distance(entry) == rip {
            return Some(read_distance(target));
        }
        entry = entry.wrapping_add(2);
    }
    None
}

/// Returns the address a table word stands for: its own plus the distance in it.
fn read_distance(word: *const i32) -> u64 {
    // SAFETY: `word` lies between the table's bounds, which the linker sets around whole, aligned words of read-only data.
    let distance = unsafe { ptr::read(word) };
    (word.addr() as u64).wrapping_add_signed(i64::from(distance))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};
    use std::vec::Vec;

    #[test]
    fn copies_every_length_and_nothing_else() {
        let source: Vec<u8> = (1..=255).collect();
        for len in 0..=200 {
            let mut target = [0; 255];
            // SAFETY: both buffers are 255 bytes, apart, and `len` is less.
            unsafe { copy(target.as_mut_ptr(), source.as_ptr(), len) }.expect("memory is there");
            assert_eq!(target[..len], source[..len]);
            assert!(target[len..].iter().all(|byte| *byte == 0));
        }
    }

    /// An index of a ring that comes in halves looks like a jump.
    #[test]
    fn a_word_that_changes_meanwhile_comes_whole() {
        let word = AtomicU16::new(0);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    word.store(0x00FF, Ordering::Relaxed);
                    word.store(0x0100, Ordering::Relaxed);
                }
            });
            for _ in 0..200_000 {
                let mut seen = [0; 2];
                let source = word.as_ptr().cast_const().cast::<u8>();
                // SAFETY: both are two aligned bytes; the routine is assembly, so the racing read is the processor's.
                unsafe { copy(seen.as_mut_ptr(), source, 2) }.expect("memory is there");
                assert!(matches!(u16::from_le_bytes(seen), 0 | 0x00FF | 0x0100));
            }
            is_done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn loads_a_quadword_from_any_byte() {
        let bytes: Vec<u8> = (1..=16).collect();
        for start in 0..=8 {
            let window = &bytes[start..start + 8];
            let expected = window.try_into().map(u64::from_le_bytes);
            // SAFETY: eight bytes are left of the sixteen.
            let loaded = unsafe { load(window.as_ptr()) };
            assert_eq!(loaded.ok(), expected.ok());
        }
    }

    #[test]
    fn zeroes_every_length_and_nothing_else() {
        for len in 0..=200 {
            let mut target = [0xFF; 255];
            // SAFETY: the buffer is 255 bytes and `len` is less.
            unsafe { zero(target.as_mut_ptr(), len) }.expect("memory is there");
            assert!(target[..len].iter().all(|byte| *byte == 0));
            assert!(target[len..].iter().all(|byte| *byte == 0xFF));
        }
    }

    #[test]
    fn exchange_touches_its_width_only() {
        let widths = [
            (1, Width::Byte),
            (2, Width::Word),
            (4, Width::Double),
            (8, Width::Quad),
        ];
        for (bytes, width) in widths {
            let mut value = [u64::MAX; 2];
            let target = value.as_mut_ptr().cast::<u8>();
            let expected = u64::MAX >> (64 - 8 * bytes);
            // SAFETY: the array is 16 aligned bytes.
            let outcome = unsafe { compare_exchange(target, width, expected, 0) };
            assert_eq!(outcome, Ok(true));
            // SAFETY: as above.
            let outcome = unsafe { compare_exchange(target, width, expected, 1) };
            assert_eq!(outcome, Ok(false));
            let mask = if bytes == 8 {
                0
            } else {
                u64::MAX << (8 * bytes)
            };
            assert_eq!(value, [mask, u64::MAX]);
        }
    }

    #[test]
    fn every_fix_up_lands_in_the_fault_exit() {
        let entries = (&raw const __stop_stockade_fixups as usize
            - &raw const __start_stockade_fixups as usize)
            / 8;
        assert_eq!(entries, 13 + 3 * 8);
        assert_eq!(landing(0), None);
        let first = read_distance(&raw const __start_stockade_fixups as *const i32);
        assert!(landing(first).is_some_and(|address| address > first));
    }
}
