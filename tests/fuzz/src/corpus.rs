//! Inputs that long runs under libFuzzer found worth keeping: one file a target, each input after its length as a 16-bit word.

use std::path::PathBuf;
use std::{fs, io};

fn path(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    [folder, name].iter().collect()
}

/// Returns the inputs kept for a target, none if there is no file.
#[must_use]
pub fn kept(name: &str) -> Vec<Vec<u8>> {
    let bytes = fs::read(path(name)).unwrap_or_default();
    let mut rest = bytes.as_slice();
    let mut inputs = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes(*len)).min(after.len());
        let (input, after) = after.split_at(len);
        inputs.push(input.to_vec());
        rest = after;
    }
    inputs
}

/// Keeps these inputs for a target, in place of those before; one that is too long for its length is left out.
pub fn keep(name: &str, inputs: &[Vec<u8>]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for input in inputs {
        if let Ok(len) = u16::try_from(input.len()) {
            bytes.extend(len.to_le_bytes());
            bytes.extend(input);
        }
    }
    fs::write(path(name), bytes)
}
