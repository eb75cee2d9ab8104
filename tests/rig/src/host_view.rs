//! Looking for something in what the host can read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

const CHUNK: usize = 4 << 20;

/// Counts how often `needle` occurs in a file.
#[must_use]
pub fn count(path: &Path, needle: &[u8]) -> usize {
    let mut file = File::open(path).expect("the run wrote it");
    let mut buffer = Vec::with_capacity(CHUNK + needle.len());
    let mut found = 0;
    loop {
        let read = file
            .by_ref()
            .take(CHUNK as u64)
            .read_to_end(&mut buffer)
            .expect("the file is readable");
        if read == 0 {
            return found;
        }
        found += occurrences(&buffer, needle);
        // What may be the start of a needle goes on in the next chunk; a whole one fits into this rest never.
        let keep = buffer.len().min(needle.len() - 1);
        buffer.drain(..buffer.len() - keep);
    }
}

fn occurrences(bytes: &[u8], needle: &[u8]) -> usize {
    let first = needle.first().expect("a needle has a first byte");
    let starts = bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts
        .filter(|(at, _)| bytes[*at..].starts_with(needle))
        .count()
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, count};

    #[test]
    fn a_needle_across_two_chunks_counts_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("view");
        let mut bytes = vec![0; 2 * CHUNK];
        for at in [0, CHUNK - 2, 2 * CHUNK - 6] {
            bytes[at..at + 6].copy_from_slice(b"needle");
        }
        std::fs::write(&path, bytes).expect("it is writable");
        assert_eq!(count(&path, b"needle"), 3);
        assert_eq!(count(&path, b"needles"), 0);
    }
}
