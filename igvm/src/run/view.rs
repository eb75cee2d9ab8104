//! What the host can read of guest memory.
//!
//! On silicon the memory controller encrypts a private page with the guest's key and the page's address; reading it as the
//! host gives ciphertext. The model keeps pages in QEMU's RAM as the guest sees them, so this is where its memory controller
//! is: pages the RMP marks as the guest's leave here only through AES-128-XTS under a key made for this run and thrown away.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use aes::Aes128;
use aes::cipher::KeyInit;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xts_mode::Xts128;

use super::command::Paths;
use super::{Report, RunError};

const PAGE: usize = 4096;
/// In the model's page states: the page is assigned to the guest, so private.
const PRIVATE: u8 = 1;

/// A stretch of guest memory: where the guest sees it, where it lies in QEMU's RAM, where its page states lie, a byte each.
#[derive(Debug, Deserialize)]
struct Chunk {
    gpa: u64,
    len: u64,
    host: u64,
    rmp: u64,
}

/// Where a run of guest addresses stands in the file.
#[derive(Debug, Serialize)]
struct Stretch {
    gpa: u64,
    len: u64,
    offset: u64,
}

/// Writes the host's view of all guest memory to `path`, stretch after stretch, and notes the stretches in the report. Of a machine that was
/// ended from outside there is none.
pub(super) fn write(path: &Path, paths: &Paths, report: &mut Report) -> Result<(), RunError> {
    let chunks = parse(&report.model_log)?;
    if chunks.is_empty() && !report.outcome.is_reported() {
        report.lacks_view = true;
        return Ok(());
    }
    if chunks.is_empty() {
        return Err(RunError::View("the model does not say where it is".into()));
    }
    let ram = File::open(&paths.ram).map_err(RunError::io(&paths.ram))?;
    let file = File::create(path).map_err(RunError::io(path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let cipher = controller();
    let mut stretches: Vec<Stretch> = Vec::new();
    let (mut offset, mut readable) = (0_u64, 0_u64);
    for chunk in &chunks {
        readable += copy(chunk, &ram, &cipher, &mut out).map_err(RunError::io(path))?;
        match stretches.last_mut() {
            Some(Stretch { gpa, len, .. }) if *gpa + *len == chunk.gpa => *len += chunk.len,
            _ => stretches.push(Stretch {
                gpa: chunk.gpa,
                len: chunk.len,
                offset,
            }),
        }
        offset += chunk.len;
    }
    out.flush().map_err(RunError::io(path))?;
    if let Value::Object(model) = &mut report.model {
        model.insert(
            "host_view".into(),
            json!({"stretches": stretches, "readable_bytes": readable}),
        );
    }
    Ok(())
}

/// Reads one stretch a line; the line that explains the format has none.
fn parse(model_log: &str) -> Result<Vec<Chunk>, RunError> {
    let lines = model_log
        .lines()
        .filter_map(|line| line.strip_prefix("model-view: "))
        .filter(|line| line.contains("\"gpa\""));
    lines
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|error| RunError::View(error.to_string()))
}

/// Copies a stretch as the host would read it; returns how many bytes of it are in the clear.
fn copy(
    chunk: &Chunk,
    ram: &File,
    cipher: &Xts128<Aes128>,
    out: &mut impl Write,
) -> std::io::Result<u64> {
    let pages = usize::try_from(chunk.len).map_err(std::io::Error::other)? / PAGE;
    let mut states = vec![0; pages];
    ram.read_exact_at(&mut states, qemu_offset(chunk.rmp))?;
    let mut page = [0; PAGE];
    let mut readable = 0;
    for (address, state) in (chunk.host..).step_by(PAGE).zip(states) {
        ram.read_exact_at(&mut page, qemu_offset(address))?;
        if state & PRIVATE != 0 {
            cipher.encrypt_area(
                &mut page,
                PAGE,
                u128::from(address),
                xts_mode::get_tweak_default,
            );
        } else {
            readable += PAGE as u64;
        }
        out.write_all(&page)?;
    }
    Ok(readable)
}

/// Q35 cuts RAM at 2 GiB when there is more than 2.75 GiB of it; the rest goes on at 4 GiB. The file has no such hole.
fn qemu_offset(address: u64) -> u64 {
    const ABOVE: u64 = 1 << 32;
    const HOLE: u64 = 2 << 30;
    if address >= ABOVE {
        address - HOLE
    } else {
        address
    }
}

fn controller() -> Xts128<Aes128> {
    let key: [u8; 32] = rand::random();
    let (data, tweak) = key.split_at(16);
    let half = |bytes: &[u8]| {
        let mut key = [0; 16];
        key.copy_from_slice(bytes);
        Aes128::new(&key.into())
    };
    Xts128::new(half(data), half(tweak))
}

#[cfg(test)]
mod tests {
    use super::{Chunk, PAGE, controller, copy, parse};
    use std::io::Write;

    #[test]
    fn stretches_are_read_a_line_each() {
        let log = "model-view: {\"rmp_format\":\"a byte a page\"}\n\
                   model-view: {\"gpa\":0,\"len\":4096,\"host\":8192,\"rmp\":1,\"kind\":\"Ram\"}\n";
        let chunks = parse(log).unwrap();
        assert_eq!((chunks.len(), chunks[0].host, chunks[0].rmp), (1, 8192, 1));
        assert!(parse("model: nothing\n").unwrap().is_empty());
        assert!(parse("model-view: {\"gpa\":\n").is_err());
    }

    /// The check behind every "no plaintext" claim must be able to fail: a shared page comes out as it is.
    #[test]
    fn private_pages_are_ciphertext_and_shared_pages_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&[0x5A; 2 * PAGE]).unwrap();
        file.write_all(&[1, 0]).unwrap();
        let ram = std::fs::File::open(&path).unwrap();
        let chunk = Chunk {
            gpa: 0,
            len: 2 * PAGE as u64,
            host: 0,
            rmp: 2 * PAGE as u64,
        };
        let mut out = Vec::new();
        assert_eq!(
            copy(&chunk, &ram, &controller(), &mut out).unwrap(),
            PAGE as u64
        );
        assert!(!out[..PAGE].windows(4).any(|bytes| bytes == [0x5A; 4]));
        assert!(out[PAGE..].iter().all(|byte| *byte == 0x5A));
    }
}
