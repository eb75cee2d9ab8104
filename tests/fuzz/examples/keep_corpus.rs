//! Keeps the inputs in a folder for a target: `keep_corpus TARGET FOLDER`.

use std::{env, fs, io};

use stockade_fuzz::corpus;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(target), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("which target, and which folder?"));
    };
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)? {
        inputs.push(fs::read(entry?.path())?);
    }
    inputs.sort_by_key(|input| (input.len(), input.clone()));
    corpus::keep(&target, &inputs)
}
