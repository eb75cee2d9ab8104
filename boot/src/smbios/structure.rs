//! One structure: a header, numbers, and strings behind them (DSP0134, 6.1).

use alloc::vec::Vec;

/// Bytes of the header: type, length, handle.
const HEADER_BYTES: usize = 4;

/// A structure being written.
pub(super) struct Structure {
    formatted: Vec<u8>,
    strings: Vec<u8>,
    count: u8,
}

impl Structure {
    pub(super) fn new(kind: u8, handle: u16) -> Self {
        let [low, high] = handle.to_le_bytes();
        Self {
            formatted: Vec::from([kind, 0, low, high]),
            strings: Vec::new(),
            count: 0,
        }
    }

    pub(super) fn byte(&mut self, value: u8) {
        self.formatted.push(value);
    }

    pub(super) fn word(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn double(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn quad(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.formatted.extend_from_slice(bytes);
    }

    /// Appends the number of a string, 0 for an empty one.
    pub(super) fn string(&mut self, text: &str) {
        if text.is_empty() {
            self.byte(0);
            return;
        }
        self.count += 1;
        self.byte(self.count);
        self.strings.extend(text.bytes().filter(|byte| *byte != 0));
        self.strings.push(0);
    }

    /// Writes the structure behind what there is.
    pub(super) fn write(mut self, bytes: &mut Vec<u8>) {
        debug_assert!(self.formatted.len() >= HEADER_BYTES);
        self.formatted[1] = u8::try_from(self.formatted.len()).unwrap_or(u8::MAX);
        bytes.append(&mut self.formatted);
        bytes.append(&mut self.strings);
        // One zero ends the strings; without any there are two.
        if self.count == 0 {
            bytes.push(0);
        }
        bytes.push(0);
    }
}
