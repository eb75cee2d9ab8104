//! The debug console (QEMU `hw/char/debugcon.c`, as firmware is built for it): a port that takes characters for a log and reads as a
//! constant by which it is known.
//!
//! Whose log it is takes the lines out ([`DebugConsole::take_line`]). They are text: what is not printable ASCII is a dot, so nothing a
//! guest writes moves a cursor or looks like a line of somebody else's. A guest can write as much as it likes, so there is an end to it:
//! after [`MAX_LINES`] lines from one reset to the next all else is dropped.

use stockade_bus::{AccessError, PortIo};

/// The port.
pub const PORT: u16 = 0x402;
/// What the port reads.
const PRESENT: u8 = 0xE9;
/// Longer lines are broken.
const LINE_BYTES: usize = 160;
/// How many lines there are between two resets.
pub const MAX_LINES: u32 = 4000;

/// A line of text.
#[derive(Clone, Debug)]
pub struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Line {
    const EMPTY: Self = Self {
        bytes: [0; LINE_BYTES],
        len: 0,
    };

    /// Returns the text, printable ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("")
    }
}

/// The device.
#[derive(Debug)]
pub struct DebugConsole {
    gathered: Line,
    ready: Option<Line>,
    lines: u32,
}

impl Default for DebugConsole {
    fn default() -> Self {
        Self::new()
    }
}

impl DebugConsole {
    /// Returns the device without a character.
    #[must_use]
    pub fn new() -> Self {
        Self {
            gathered: Line::EMPTY,
            ready: None,
            lines: 0,
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Returns the line that was ended since the last call. To be called after each access.
    pub fn take_line(&mut self) -> Option<Line> {
        self.ready.take()
    }

    fn put(&mut self, byte: u8) {
        match byte {
            b'\r' => {}
            b'\n' => self.end_line(),
            _ => {
                let shown = if byte.is_ascii_graphic() || byte == b' ' {
                    byte
                } else {
                    b'.'
                };
                if let Some(place) = self.gathered.bytes.get_mut(self.gathered.len) {
                    *place = shown;
                    self.gathered.len += 1;
                }
                if self.gathered.len == LINE_BYTES {
                    self.end_line();
                }
            }
        }
    }

    fn end_line(&mut self) {
        let line = core::mem::replace(&mut self.gathered, Line::EMPTY);
        if line.len == 0 || self.lines >= MAX_LINES {
            return;
        }
        self.lines += 1;
        self.ready = Some(line);
    }
}

impl PortIo for DebugConsole {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        match (offset, data) {
            (0, [byte]) => *byte = PRESENT,
            (0, _) => return Err(AccessError::Width),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        match (offset, data) {
            (0, [byte]) => self.put(*byte),
            (0, _) => return Err(AccessError::Width),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;

    fn lines(device: &mut DebugConsole, text: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for byte in text {
            device.port_write(0, &[*byte]).unwrap();
            found.extend(device.take_line().map(|line| line.as_str().to_string()));
        }
        found
    }

    #[test]
    fn lines_are_text_without_what_moves_a_cursor() {
        let mut device = DebugConsole::new();
        let found = lines(
            &mut device,
            b"SecCoreStartup\r\n\n\x1B[2Jerror: \xFF\xC3\xA4\nrest",
        );
        assert_eq!(found, ["SecCoreStartup", ".[2Jerror: ..."]);
        let mut byte = [0];
        device.port_read(0, &mut byte).unwrap();
        assert_eq!(byte, [0xE9]);
    }

    #[test]
    fn long_lines_are_broken_and_there_is_an_end_to_lines() {
        let mut device = DebugConsole::new();
        assert_eq!(lines(&mut device, &[b'x'; 321]).len(), 2);
        let many = [b'y', b'\n'].repeat(5000);
        assert_eq!(lines(&mut device, &many).len(), 3998);
        device.reset();
        assert_eq!(lines(&mut device, b"again\n"), ["again"]);
    }
}
