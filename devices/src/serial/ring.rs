//! A ring of bytes that never allocates.

/// Up to `N` bytes, first in first out.
#[derive(Debug)]
pub(super) struct Ring<const N: usize> {
    bytes: [u8; N],
    head: usize,
    len: usize,
}

impl<const N: usize> Ring<N> {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; N],
            head: 0,
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len == N
    }

    /// Appends a byte; returns false, and drops it, when full.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        if self.is_full() {
            return false;
        }
        self.bytes[(self.head + self.len) % N] = byte;
        self.len += 1;
        true
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        let byte = self.bytes[self.head];
        self.head = (self.head + 1) % N;
        self.len -= 1;
        Some(byte)
    }

    /// Fills `buffer` from the front; returns how many bytes were moved.
    pub(super) fn pop_into(&mut self, buffer: &mut [u8]) -> usize {
        let mut moved = 0;
        for slot in buffer {
            let Some(byte) = self.pop() else { break };
            *slot = byte;
            moved += 1;
        }
        moved
    }

    /// Returns the bytes in order, and how many there are.
    pub(super) fn to_array(&self) -> ([u8; N], usize) {
        let mut bytes = [0; N];
        for (i, slot) in bytes.iter_mut().enumerate().take(self.len) {
            *slot = self.bytes[(self.head + i) % N];
        }
        (bytes, self.len)
    }
}
