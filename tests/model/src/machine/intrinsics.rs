//! What the compiler expects of a C library: `memcpy` and its kin, and two names of the unwinder.
//!
//! In tests they have no names of their own and are compared with the real ones.
//!
//! By SSE and not by string instructions: TCG runs those one element at a time. Moves of 16 bytes overlap at the end instead of
//! finishing byte by byte.

use core::arch::naked_asm;

/// Copies `n` bytes between areas that do not overlap.
///
/// # Safety
///
/// 1. As C's `memcpy`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 4f",
        "movups xmm0, [rsi + rdx - 16]",
        "lea r8, [rdi + rdx - 16]",
        "2:",
        "cmp rdx, 64",
        "jb 3f",
        "movups xmm1, [rsi]",
        "movups xmm2, [rsi + 16]",
        "movups xmm3, [rsi + 32]",
        "movups xmm4, [rsi + 48]",
        "movups [rdi], xmm1",
        "movups [rdi + 16], xmm2",
        "movups [rdi + 32], xmm3",
        "movups [rdi + 48], xmm4",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "jmp 2b",
        "3:",
        "cmp rdx, 16",
        "jbe 5f",
        "movups xmm1, [rsi]",
        "movups [rdi], xmm1",
        "add rsi, 16",
        "add rdi, 16",
        "sub rdx, 16",
        "jmp 3b",
        "5:",
        "movups [r8], xmm0",
        "ret",
        // Fewer than 16: all is loaded before anything is stored, so `memmove` may come here too.
        "4:",
        "cmp edx, 8",
        "jb 6f",
        "mov r8, [rsi]",
        "mov r9, [rsi + rdx - 8]",
        "mov [rdi], r8",
        "mov [rdi + rdx - 8], r9",
        "ret",
        "6:",
        "cmp edx, 4",
        "jb 7f",
        "mov r8d, [rsi]",
        "mov r9d, [rsi + rdx - 4]",
        "mov [rdi], r8d",
        "mov [rdi + rdx - 4], r9d",
        "ret",
        "7:",
        "test edx, edx",
        "jz 8f",
        "mov ecx, edx",
        "shr ecx, 1",
        "movzx r8d, byte ptr [rsi]",
        "movzx r9d, byte ptr [rsi + rcx]",
        "movzx r10d, byte ptr [rsi + rdx - 1]",
        "mov [rdi], r8b",
        "mov [rdi + rcx], r9b",
        "mov [rdi + rdx - 1], r10b",
        "8:",
        "ret",
    )
}

/// Copies `n` bytes between areas that may overlap.
///
/// # Safety
///
/// 1. As C's `memmove`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "cmp rdx, 16",
        "jb {memcpy}",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jae {memcpy}",
        // The target begins inside the source: from the end, the first 16 bytes kept back.
        "mov rax, rdi",
        "movups xmm0, [rsi]",
        "2:",
        "cmp rdx, 64",
        "jb 3f",
        "movups xmm1, [rsi + rdx - 16]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 48]",
        "movups xmm4, [rsi + rdx - 64]",
        "movups [rdi + rdx - 16], xmm1",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 48], xmm3",
        "movups [rdi + rdx - 64], xmm4",
        "sub rdx, 64",
        "jmp 2b",
        "3:",
        "cmp rdx, 16",
        "jbe 4f",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi + rdx - 16], xmm1",
        "sub rdx, 16",
        "jmp 3b",
        "4:",
        "movups [rax], xmm0",
        "ret",
        memcpy = sym memcpy,
    )
}

/// Fills `n` bytes with the low byte of `value`.
///
/// # Safety
///
/// 1. As C's `memset`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "movzx esi, sil",
        "movabs rcx, 0x0101010101010101",
        "imul rsi, rcx",
        "cmp rdx, 16",
        "jb 4f",
        "movq xmm0, rsi",
        "punpcklqdq xmm0, xmm0",
        "lea r8, [rdi + rdx - 16]",
        "2:",
        "cmp rdx, 64",
        "jb 3f",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm0",
        "movups [rdi + 32], xmm0",
        "movups [rdi + 48], xmm0",
        "add rdi, 64",
        "sub rdx, 64",
        "jmp 2b",
        "3:",
        "cmp rdx, 16",
        "jbe 5f",
        "movups [rdi], xmm0",
        "add rdi, 16",
        "sub rdx, 16",
        "jmp 3b",
        "5:",
        "movups [r8], xmm0",
        "ret",
        "4:",
        "cmp edx, 8",
        "jb 6f",
        "mov [rdi], rsi",
        "mov [rdi + rdx - 8], rsi",
        "ret",
        "6:",
        "cmp edx, 4",
        "jb 7f",
        "mov [rdi], esi",
        "mov [rdi + rdx - 4], esi",
        "ret",
        "7:",
        "test edx, edx",
        "jz 8f",
        "mov ecx, edx",
        "shr ecx, 1",
        "mov [rdi], sil",
        "mov [rdi + rcx], sil",
        "mov [rdi + rdx - 1], sil",
        "8:",
        "ret",
    )
}

/// Compares `n` bytes.
///
/// # Safety
///
/// 1. As C's `memcmp`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, n: usize) -> i32 {
    naked_asm!(
        "xor eax, eax",
        "2:",
        "cmp rdx, 8",
        "jb 3f",
        "mov rcx, [rdi]",
        "mov r8, [rsi]",
        "cmp rcx, r8",
        "jne 5f",
        "add rdi, 8",
        "add rsi, 8",
        "sub rdx, 8",
        "jmp 2b",
        "3:",
        "test rdx, rdx",
        "jz 4f",
        "movzx ecx, byte ptr [rdi]",
        "movzx r8d, byte ptr [rsi]",
        "cmp ecx, r8d",
        "jne 6f",
        "inc rdi",
        "inc rsi",
        "dec rdx",
        "jmp 3b",
        "4:",
        "ret",
        "5:",
        "bswap rcx",
        "bswap r8",
        "cmp rcx, r8",
        "6:",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
    )
}

/// Says whether `n` bytes differ.
///
/// # Safety
///
/// 1. As `memcmp`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, n: usize) -> i32 {
    naked_asm!("jmp {memcmp}", memcmp = sym memcmp)
}

/// Counts the bytes before the first zero.
///
/// # Safety
///
/// 1. As C's `strlen`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn strlen(text: *const u8) -> usize {
    naked_asm!(
        "xor eax, eax",
        "2:",
        "cmp byte ptr [rdi + rax], 0",
        "je 3f",
        "inc rax",
        "jmp 2b",
        "3:",
        "ret",
    )
}

/// Named by the precompiled `core`; nothing unwinds.
#[cfg(not(test))]
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// Named by the precompiled `core`; nothing unwinds.
#[cfg(not(test))]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn _Unwind_Resume() -> ! {
    naked_asm!("ud2")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern() -> Vec<u8> {
        (0_u32..600)
            .map(|index| (index.wrapping_mul(0x9E37_79B1) >> 13).to_le_bytes()[0])
            .collect()
    }

    #[test]
    fn copying_equals_the_slice_method_for_every_length_and_overlap() {
        let original = pattern();
        for length in 0..=200 {
            for (from, to) in [
                (0, 300),
                (300, 7),
                (100, 101),
                (101, 100),
                (100, 116),
                (116, 100),
                (90, 159),
                (159, 90),
                (50, 50),
            ] {
                let mut expected = original.clone();
                expected.copy_within(from..from + length, to);
                let mut seen = original.clone();
                let base = seen.as_mut_ptr();
                // SAFETY: both ranges lie within the 600 bytes.
                let result =
                    unsafe { memmove(base.wrapping_add(to), base.wrapping_add(from), length) };
                assert_eq!(result.addr() - base.addr(), to);
                assert_eq!(seen, expected, "{length} from {from} to {to}");
                if from.abs_diff(to) >= length {
                    let mut seen = original.clone();
                    let base = seen.as_mut_ptr();
                    // SAFETY: both ranges lie within the 600 bytes and do not overlap.
                    unsafe { memcpy(base.wrapping_add(to), base.wrapping_add(from), length) };
                    assert_eq!(seen, expected, "{length} from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn filling_touches_exactly_the_range() {
        for length in 0..=200 {
            let mut seen = pattern();
            let mut expected = seen.clone();
            expected[33..33 + length].fill(0xA5);
            // SAFETY: the range lies within the 600 bytes.
            unsafe { memset(seen.as_mut_ptr().wrapping_add(33), 0x1A5, length) };
            assert_eq!(seen, expected, "{length}");
        }
    }

    #[test]
    fn comparing_orders_by_the_first_difference() {
        let left = pattern();
        for length in 0..=40 {
            // SAFETY: within both.
            assert_eq!(unsafe { memcmp(left.as_ptr(), left.as_ptr(), length) }, 0);
            for at in 0..length {
                let mut right = left.clone();
                right[at] ^= 0x80;
                right[at + 1] ^= 0xFF;
                let expected = left[..length].cmp(&right[..length]) as i32;
                // SAFETY: within both.
                let order = unsafe { memcmp(left.as_ptr(), right.as_ptr(), length) };
                assert_eq!(order, expected, "{length} {at}");
                // SAFETY: within both.
                assert_ne!(unsafe { bcmp(left.as_ptr(), right.as_ptr(), length) }, 0);
            }
        }
        // SAFETY: zero-terminated.
        assert_eq!(unsafe { strlen(c"four".as_ptr().cast()) }, 4);
    }
}
