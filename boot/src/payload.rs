//! Payload files on their way from the staging range into private memory.
//!
//! Staging is shared: the host may change a byte between two reads of it. So [`copy`] reads each byte once, into a private
//! buffer, and both the digest and the receiver see that buffer only. The digest is complete after the last chunk; until
//! [`copy`] has returned `Ok` nothing that was received may be run or believed.

use alloc::vec;
use alloc::vec::Vec;

use sha2::{Digest, Sha384};

use crate::manifest::{Payload, PayloadKind};

/// Bytes read at a time. Not less than a page: the first chunk of a kernel holds its whole setup header.
pub const CHUNK_BYTES: usize = 0x1_0000;

/// The staging range as far as it can be read.
pub trait PayloadSource {
    /// Copies staged bytes from `gpa` on into private memory, reading each once.
    fn read(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreadable>;
}

/// Staged bytes that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the staging range cannot be read at {0:#x}")]
pub struct Unreadable(pub u64);

/// Why a payload file is not what the image promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The host took the staged pages away.
    #[error("{kind}: {cause}")]
    Unreadable {
        /// Which file.
        kind: PayloadKind,
        /// Where.
        cause: Unreadable,
    },
    /// The host changed the file, or staged another.
    #[error("{0} does not have the digest in the manifest")]
    Digest(PayloadKind),
}

/// Hands the file to `receive` chunk by chunk, in order, with each chunk's offset, then compares its digest.
pub fn copy<S, E>(
    payload: &Payload,
    source: &mut S,
    mut receive: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E>
where
    S: PayloadSource + ?Sized,
    E: From<PayloadError>,
{
    let kind = payload.kind;
    let mut hash = Sha384::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    while offset < payload.len_bytes.get() {
        let left = payload.len_bytes.get() - offset;
        let len = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let chunk = &mut buffer[..len];
        source
            .read(payload.gpa.get().wrapping_add(offset), chunk)
            .map_err(|cause| PayloadError::Unreadable { kind, cause })?;
        hash.update(&*chunk);
        receive(offset, chunk)?;
        offset += len as u64;
    }
    if hash.finalize()[..] != payload.sha384 {
        return Err(PayloadError::Digest(kind).into());
    }
    Ok(())
}

/// Returns the whole file, checked. For small files: all of it is held at once.
pub fn read<S: PayloadSource + ?Sized>(
    payload: &Payload,
    source: &mut S,
) -> Result<Vec<u8>, PayloadError> {
    let mut bytes = Vec::new();
    copy(payload, source, |_, chunk| {
        bytes.extend_from_slice(chunk);
        Ok::<(), PayloadError>(())
    })?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::layout::STAGING_BASE;

    /// A host's staging range, which counts how often each byte is read.
    pub(crate) struct FakeStaging {
        pub(crate) bytes: Vec<u8>,
        pub(crate) reads: Vec<u8>,
    }

    impl FakeStaging {
        pub(crate) fn new(bytes: Vec<u8>) -> Self {
            let reads = vec![0; bytes.len()];
            Self { bytes, reads }
        }
    }

    impl PayloadSource for FakeStaging {
        fn read(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
            let start = gpa.checked_sub(STAGING_BASE).ok_or(Unreadable(gpa))?;
            let range = usize::try_from(start).unwrap()..;
            let staged = self
                .bytes
                .get(range.clone())
                .and_then(|b| b.get(..buffer.len()));
            buffer.copy_from_slice(staged.ok_or(Unreadable(gpa))?);
            for count in &mut self.reads[range][..buffer.len()] {
                *count += 1;
            }
            Ok(())
        }
    }

    pub(crate) fn digest(bytes: &[u8]) -> [u8; 48] {
        Sha384::digest(bytes).into()
    }

    fn file(len: usize) -> (Payload, FakeStaging) {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        let kind = PayloadKind::INITRD;
        let payload = Payload::new(kind, STAGING_BASE, len as u64, digest(&bytes));
        (payload, FakeStaging::new(bytes))
    }

    /// A second read could see what the first, hashed one did not.
    #[test]
    fn each_byte_is_read_once() {
        for len in [
            1,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES + 77,
        ] {
            let (payload, mut staging) = file(len);
            let bytes = read(&payload, &mut staging).unwrap();
            assert_eq!(bytes, staging.bytes);
            assert!(staging.reads.iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn changed_byte_is_noticed() {
        for index in [0, 1000, CHUNK_BYTES, 2 * CHUNK_BYTES - 1] {
            let (payload, mut staging) = file(2 * CHUNK_BYTES);
            staging.bytes[index] ^= 1;
            let error = read(&payload, &mut staging).unwrap_err();
            assert_eq!(error, PayloadError::Digest(PayloadKind::INITRD));
        }
    }

    #[test]
    fn withdrawn_page_is_noticed() {
        let (payload, mut staging) = file(2 * CHUNK_BYTES);
        staging.bytes.truncate(CHUNK_BYTES + 5);
        let error = read(&payload, &mut staging).unwrap_err();
        assert!(matches!(error, PayloadError::Unreadable { .. }));
    }
}
