//! The model's own output: QEMU's debug console, line by line, and the `log` crate on top of it.
//!
//! [`line()`] prints a bare line (what the tool parses); [`log::info!`] and its kin add time, processor and module.

use core::arch::asm;
use core::fmt::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use super::{clock, processor};

/// The port of QEMU's debug console.
const PORT: u16 = 0xE9;

/// One line at a time.
static TURN: Mutex<()> = Mutex::new(());

/// How often to look whether the console is free before a line goes out over another.
const PATIENCE: u32 = 1_000_000;

/// Prints a line. If the console is not free for very long, its owner is dead, and the line goes out all the same.
pub fn line(text: fmt::Arguments<'_>) {
    let _turn = (0..PATIENCE).find_map(|_| TURN.try_lock());
    let mut writer = Writer {
        bytes: [0; 256],
        length: 0,
    };
    // The writer never fails; an error could only be a `Display` of our own, and half a line is better than none.
    let _ = writeln!(writer, "{text}");
    writer.flush();
}

/// Connects the `log` crate.
pub(super) fn start() {
    // Fails only when called twice, which changes nothing.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Info);
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let micros = clock::since_boot_ns() / 1000;
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let module = record.target().trim_start_matches("stockade_model::");
        let cpu = processor::current().index;
        line(format_args!(
            "[{seconds:3}.{micros:06}] cpu{cpu} {:5} {module}: {}",
            record.level(),
            record.args()
        ));
    }

    fn flush(&self) {}
}

/// Collects bytes and sends them by one string instruction.
struct Writer {
    bytes: [u8; 256],
    length: usize,
}

impl Writer {
    fn flush(&mut self) {
        // SAFETY: the debug console takes any byte; the instruction reads `length` bytes of `bytes`.
        unsafe {
            asm!(
                "rep outsb",
                in("dx") PORT,
                inout("rsi") self.bytes.as_ptr() => _,
                inout("rcx") self.length => _,
                options(nostack, readonly, preserves_flags),
            );
        }
        self.length = 0;
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}
