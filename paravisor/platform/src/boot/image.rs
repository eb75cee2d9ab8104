//! Where the linker put the parts of the image (`paravisor/linker.ld`).

use core::ops::Range;

unsafe extern "C" {
    static __text_start: [u8; 0];
    static __text_end: [u8; 0];
    static __gate_start: [u8; 0];
    static __gate_end: [u8; 0];
    static __rodata_start: [u8; 0];
    static __rodata_end: [u8; 0];
    static __data_start: [u8; 0];
    static __image_end: [u8; 0];
}

/// Returns where the code lies.
pub(crate) fn text() -> Range<u64> {
    &raw const __text_start as u64..&raw const __text_end as u64
}

/// Returns where the code lies that modules' page tables have too: whole pages.
pub(crate) fn gate() -> Range<u64> {
    &raw const __gate_start as u64..&raw const __gate_end as u64
}

/// Returns where the constants lie.
pub(crate) fn rodata() -> Range<u64> {
    &raw const __rodata_start as u64..&raw const __rodata_end as u64
}

/// Returns where the data and the `.bss` lie.
pub(crate) fn data() -> Range<u64> {
    &raw const __data_start as u64..end()
}

/// Returns one past the image's last byte.
pub(crate) fn end() -> u64 {
    &raw const __image_end as u64
}

/// Returns the code bytes at `address`, if all of them are code.
pub(crate) fn code_at<const N: usize>(address: u64) -> Option<[u8; N]> {
    let text = text();
    let offset = address.checked_sub(text.start)?;
    let end = address.checked_add(N as u64)?;
    if end > text.end {
        return None;
    }
    let start = (&raw const __text_start).cast::<u8>();
    let bytes = start.wrapping_add(usize::try_from(offset).ok()?);
    // SAFETY: the bytes lie in the text segment, which is mapped readable and never written.
    Some(unsafe { bytes.cast::<[u8; N]>().read() })
}

/// Returns whether `address` is one a call returns to: the bytes before it are a call.
pub(crate) fn is_return_address(address: u64) -> bool {
    let near = address.checked_sub(5).and_then(code_at::<1>);
    if near == Some([0xE8]) {
        return true;
    }
    // FF /2: call through register or memory, 2 to 7 bytes long.
    (2..=7).any(|len| {
        let bytes = address.checked_sub(len).and_then(code_at::<2>);
        bytes.is_some_and(|[opcode, modrm]| opcode == 0xFF && modrm & 0x38 == 0x10)
    })
}
