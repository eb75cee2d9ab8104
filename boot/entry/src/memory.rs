//! The functions the compiler expects a libc to have, by string instructions.
//!
//! Whole quadwords first: under emulation each iteration costs the same however wide it is, and on silicon the microcode
//! takes either form. The unwinder's two entry points are referred to by the precompiled core library and never reached.

use core::arch::global_asm;

macro_rules! memory_functions {
    ($prefix:literal) => {
        global_asm!(
            ".text",
            ".balign 16",
            concat!(".global ", $prefix, "memcpy"),
            concat!(".type ", $prefix, "memcpy, @function"),
            concat!($prefix, "memcpy:"),
            "mov rax, rdi",
            "mov rcx, rdx",
            "shr rcx, 3",
            "rep movsq",
            "mov ecx, edx",
            "and ecx, 7",
            "rep movsb",
            "ret",
            ".balign 16",
            concat!(".global ", $prefix, "memmove"),
            concat!(".type ", $prefix, "memmove, @function"),
            concat!($prefix, "memmove:"),
            "mov rcx, rdi",
            "sub rcx, rsi",
            "cmp rcx, rdx", // unsigned: a destination below the source wraps to a huge distance
            concat!("jae ", $prefix, "memcpy"),
            "mov rax, rdi",
            "lea rdi, [rdi + rdx - 1]",
            "lea rsi, [rsi + rdx - 1]",
            "mov ecx, edx",
            "and ecx, 7",
            "std",
            "rep movsb",
            "sub rdi, 7",
            "sub rsi, 7",
            "mov rcx, rdx",
            "shr rcx, 3",
            "rep movsq",
            "cld",
            "ret",
            ".balign 16",
            concat!(".global ", $prefix, "memset"),
            concat!(".type ", $prefix, "memset, @function"),
            concat!($prefix, "memset:"),
            "mov r8, rdi",
            "movzx eax, sil",
            "mov rcx, 0x0101010101010101",
            "imul rax, rcx",
            "mov rcx, rdx",
            "shr rcx, 3",
            "rep stosq",
            "mov ecx, edx",
            "and ecx, 7",
            "rep stosb",
            "mov rax, r8",
            "ret",
            ".balign 16",
            concat!(".global ", $prefix, "memcmp"),
            concat!(".type ", $prefix, "memcmp, @function"),
            concat!(".global ", $prefix, "bcmp"),
            concat!($prefix, "memcmp:"),
            concat!($prefix, "bcmp:"),
            "2: cmp rdx, 8",
            "jb 3f",
            "mov rax, [rdi]",
            "mov rcx, [rsi]",
            "cmp rax, rcx",
            "jne 4f",
            "add rdi, 8",
            "add rsi, 8",
            "sub rdx, 8",
            "jmp 2b",
            "3: test rdx, rdx",
            "jz 5f",
            "movzx eax, byte ptr [rdi]",
            "movzx ecx, byte ptr [rsi]",
            "sub eax, ecx",
            "jne 6f",
            "inc rdi",
            "inc rsi",
            "dec rdx",
            "jmp 3b",
            "4: bswap rax", // the first byte in memory decides
            "bswap rcx",
            "cmp rax, rcx",
            "sbb eax, eax",
            "or eax, 1",
            "ret",
            "5: xor eax, eax",
            "6: ret",
            ".balign 16",
            concat!(".global ", $prefix, "strlen"),
            concat!(".type ", $prefix, "strlen, @function"),
            concat!($prefix, "strlen:"),
            "xor eax, eax",
            "2: cmp byte ptr [rdi + rax], 0",
            "je 3f",
            "inc rax",
            "jmp 2b",
            "3: ret",
        );
    };
}

#[cfg(all(feature = "image", not(test)))]
memory_functions!("");

#[cfg(all(feature = "image", not(test)))]
global_asm!(
    ".global rust_eh_personality",
    ".global _Unwind_Resume",
    "rust_eh_personality:",
    "_Unwind_Resume:",
    "ud2",
);

#[cfg(test)]
memory_functions!("stockade_test_");

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    unsafe extern "C" {
        fn stockade_test_memcpy(target: *mut u8, source: *const u8, len: usize) -> *mut u8;
        fn stockade_test_memmove(target: *mut u8, source: *const u8, len: usize) -> *mut u8;
        fn stockade_test_memset(target: *mut u8, value: i32, len: usize) -> *mut u8;
        fn stockade_test_memcmp(left: *const u8, right: *const u8, len: usize) -> i32;
        fn stockade_test_strlen(text: *const u8) -> usize;
    }

    fn pattern() -> Vec<u8> {
        (0..64).collect()
    }

    #[test]
    fn memcpy_copies_every_length() {
        for len in 0..40 {
            let (source, mut target) = (pattern(), [0xFF; 64]);
            let start = target.as_mut_ptr();
            // SAFETY: both buffers are 64 bytes and apart.
            let answer = unsafe { stockade_test_memcpy(start, source.as_ptr(), len) };
            assert_eq!(answer, start);
            assert_eq!(target[..len], source[..len]);
            assert!(target[len..].iter().all(|byte| *byte == 0xFF));
        }
    }

    #[test]
    fn memmove_agrees_with_copy_within_for_every_overlap() {
        for (from, to) in [
            (0, 0),
            (0, 1),
            (1, 0),
            (0, 7),
            (0, 8),
            (0, 9),
            (9, 0),
            (8, 0),
            (0, 24),
            (24, 0),
        ] {
            for len in 0..40 {
                let (mut moved, mut expected) = (pattern(), pattern());
                expected.copy_within(from..from + len, to);
                let start = moved.as_mut_ptr();
                let (target, source) = (start.wrapping_add(to), start.wrapping_add(from));
                // SAFETY: 24 + 39 bytes are within the 64 of the buffer.
                let answer = unsafe { stockade_test_memmove(target, source, len) };
                assert_eq!(answer, target);
                assert_eq!(moved, expected, "{len} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn memset_fills_every_length_with_the_low_byte() {
        for len in 0..40 {
            let mut target = [0; 64];
            // SAFETY: the buffer is 64 bytes.
            unsafe { stockade_test_memset(target.as_mut_ptr(), 0x1A5, len) };
            assert!(target[..len].iter().all(|byte| *byte == 0xA5));
            assert!(target[len..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn memcmp_orders_by_the_first_differing_byte() {
        for len in 0..24 {
            let left = pattern();
            for position in 0..len {
                let mut right = pattern();
                right[position] = 0xFF;
                right[position + 1] = 0;
                // SAFETY: both buffers are 64 bytes.
                let less = unsafe { stockade_test_memcmp(left.as_ptr(), right.as_ptr(), len) };
                // SAFETY: as above.
                let more = unsafe { stockade_test_memcmp(right.as_ptr(), left.as_ptr(), len) };
                assert!(
                    less < 0 && more > 0,
                    "{len} bytes, difference at {position}"
                );
            }
            // SAFETY: as above.
            let same = unsafe { stockade_test_memcmp(left.as_ptr(), left.as_ptr(), len) };
            assert_eq!(same, 0);
        }
    }

    #[test]
    fn strlen_stops_at_the_zero() {
        // SAFETY: the literal ends in a zero.
        let length = unsafe { stockade_test_strlen(c"stockade".as_ptr().cast()) };
        assert_eq!(length, 8);
    }
}
