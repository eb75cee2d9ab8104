//! The paravisor's log: the host's second serial port, a line at a time.
//!
//! Lines come through the crate `log`; [`print_line`] writes one as it is. Each is put together in a buffer of its own and
//! leaves in one call, so processors do not mix within a line. The host may lose any of it: nothing depends on the log,
//! and no secret is ever written to it.

use core::fmt::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;
use uart_16550::backend::Backend;
use uart_16550::{Config, Uart16550};

use crate::cpu;
use crate::ghcb::IoWidth;

/// The host port of the second serial port.
const PORT: u16 = 0x2F8;
/// Longer lines leave in several calls.
const LINE_BYTES: usize = 512;

/// Serializes lines of several processors.
static LINE: Mutex<()> = Mutex::new(());
static LOGGER: Logger = Logger;

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            print_line(format_args!(
                "{}: {}",
                prefix(record.level()),
                record.args()
            ));
        }
    }

    fn flush(&self) {}
}

fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Sets the port up and takes the log over.
pub(crate) fn init(level: LevelFilter) {
    // SAFETY: the port is the host's second serial port and nothing else uses it.
    let mut uart = unsafe { Uart16550::new_with_backend(HostPort) };
    // A host without the port loses the log, not more.
    let _ = uart.init(Config::default());
    // The logger is set once, by the first processor.
    let _ = log::set_logger(&LOGGER);
    set_level(level);
}

/// Sets which lines are written.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Writes one line as it is, whatever the level.
pub fn print_line(text: fmt::Arguments<'_>) {
    // A processor that stops while another writes must not wait for ever: mixed lines are better than none.
    let guard = (0..1_000_000).find_map(|_| LINE.try_lock());
    let mut line = Line::default();
    // `Line` never errs.
    let _ = writeln!(line, "{text}");
    line.flush();
    drop(guard);
}

struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; LINE_BYTES],
            len: 0,
        }
    }
}

impl Line {
    fn flush(&mut self) {
        if let Some(ghcb) = cpu::current().and_then(|area| area.ghcb()) {
            // The host may lose the log.
            let _ = ghcb.io_out_string(PORT, &self.bytes[..self.len]);
        }
        self.len = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.len == LINE_BYTES {
                self.flush();
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// The registers of the port, through the GHCB.
struct HostPort;

impl Backend for HostPort {
    unsafe fn read(&mut self, register_offset: u8) -> u8 {
        let port = PORT + u16::from(register_offset);
        let value = cpu::current()
            .and_then(|area| area.ghcb())
            .and_then(|ghcb| ghcb.io_in(port, IoWidth::Byte).ok());
        value.map_or(0xFF, |value| value.to_le_bytes()[0])
    }

    unsafe fn write(&mut self, register_offset: u8, value: u8) {
        let port = PORT + u16::from(register_offset);
        if let Some(ghcb) = cpu::current().and_then(|area| area.ghcb()) {
            // As above.
            let _ = ghcb.io_out(port, IoWidth::Byte, u32::from(value));
        }
    }
}
