//! What a module prints: whole lines to the log, within bounds.

use alloc::string::String;
use alloc::vec::Vec;

use super::outside::Outside;

/// The longest line; what is longer is broken.
const LONGEST_LINE: usize = 160;
/// How many lines a module has from start to end: a log that is flooded hides what matters.
const MOST_LINES: u32 = 400;

/// The line a module is printing.
#[derive(Debug, Default)]
pub struct Output {
    line: Vec<u8>,
    lines: u32,
}

impl Output {
    /// Takes what the module prints.
    pub fn print(&mut self, module: &str, bytes: &[u8], outside: &mut dyn Outside) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() >= LONGEST_LINE {
                self.flush(module, outside);
            }
        }
    }

    /// Logs the line that is not ended, if there is one.
    pub fn finish(&mut self, module: &str, outside: &mut dyn Outside) {
        if !self.line.is_empty() {
            self.flush(module, outside);
        }
    }

    fn flush(&mut self, module: &str, outside: &mut dyn Outside) {
        if self.lines < MOST_LINES {
            outside.log(module, &printable(&self.line));
        } else if self.lines == MOST_LINES {
            outside.log(module, "(more lines are not shown)");
        }
        self.lines = self.lines.saturating_add(1);
        self.line.clear();
    }
}

/// Nothing in a line can be taken for another line, or for a command of a terminal.
fn printable(line: &[u8]) -> String {
    line.iter()
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            b'\t' => ' ',
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::fake::FakeOutside;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut output, mut outside) = (Output::default(), FakeOutside::default());
        for piece in pieces {
            output.print("m", piece, &mut outside);
        }
        output.finish("m", &mut outside);
        outside.lines
    }

    #[test]
    fn lines_come_whole_whatever_the_pieces() {
        assert_eq!(lines(&[b"he", b"llo\nwor", b"ld"]), ["hello", "world"]);
        assert_eq!(lines(&[b"\x1b[2J\xFF\tx\n"]), ["?[2J? x"]);
    }

    #[test]
    fn long_lines_are_broken_and_many_are_cut_off() {
        let broken = lines(&[&[b'x'; 400]]);
        assert_eq!(broken.iter().map(String::len).sum::<usize>(), 400);
        assert_eq!(broken[0].len(), LONGEST_LINE);
        let many = lines(&[&[b'\n'; 2000]]);
        assert_eq!(many.len(), MOST_LINES as usize + 1);
    }
}
