//! What the probe found, as text in its own memory, which the model reads when the guest has ended.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Bytes of the report.
pub(super) const SIZE: usize = 0x4000;

static TEXT: [AtomicU8; SIZE] = [const { AtomicU8::new(0) }; SIZE];
static LENGTH: AtomicUsize = AtomicUsize::new(0);

struct Writer;

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let at = LENGTH.fetch_add(1, Ordering::Relaxed);
            // The last byte stays zero.
            if let Some(slot) = TEXT[..SIZE - 1].get(at) {
                slot.store(byte, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Where the report begins, in the guest's virtual addresses.
pub(super) fn address() -> u64 {
    TEXT.as_ptr().addr() as u64
}

/// Notes whether a claim holds, and what was seen.
pub(super) fn check(claim: &str, holds: bool, seen: u64) {
    // Writing to memory cannot fail.
    let _ = writeln!(
        Writer,
        "{} {claim} {seen:#x}",
        if holds { "ok  " } else { "FAIL" }
    );
}

/// Notes a figure.
pub(super) fn figure(name: &str, value: u64) {
    let _ = writeln!(Writer, "     {name} {value}");
}

/// Notes that the end was reached.
pub(super) fn done() {
    let _ = writeln!(Writer, "done");
}
