//! Lines on COM1.

use core::fmt::{Arguments, Result, Write};

use super::uart;

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                uart::send(b'\r');
            }
            uart::send(byte);
        }
        Ok(())
    }
}

/// Writes a line. The first processor alone may do so.
pub(crate) fn write_line(text: Arguments<'_>) {
    // The console itself never fails.
    let _: Result = Console
        .write_fmt(text)
        .and_then(|()| Console.write_str("\n"));
}

/// Writes a formatted line on COM1.
macro_rules! say {
    ($($argument:tt)*) => { $crate::machine::console::write_line(format_args!($($argument)*)) };
}
pub(crate) use say;
