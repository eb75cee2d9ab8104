//! Random numbers, made of what the processor gives.
//!
//! Each call draws a seed of its own from RDSEED and RDRAND, and HKDF-SHA-256 (RFC 5869) makes of it as many bytes as are asked for: whoever sees some,
//! a guest or a module, learns nothing of the processor's generator nor of what others got, and vCPUs share no state. The host can neither see nor
//! choose any of it. A processor that has no number ready is asked again a bounded number of times, then the caller must do without: there is no
//! other source that would be ours alone. RDSEED, which may be busy, is only ever additional.

use hkdf::Hkdf;
use sha2::Sha256;
use spin::Once;
use zeroize::Zeroizing;

use crate::processor;

/// The processor gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the processor gives no random numbers")]
pub struct NoEntropy;

/// Leaf 1, ECX: RDRAND exists.
const RDRAND: u32 = 1 << 30;
/// Leaf 7, EBX: RDSEED exists.
const RDSEED: u32 = 1 << 18;
/// Ten tries suffice unless the generator is broken (Intel DRNG guide, 5.2.1); some more for busy siblings.
const TRIES: usize = 64;
/// Numbers drawn from each of the two.
const EACH: usize = 6;
const SALT: &[u8] = b"stockade random";
/// The most HKDF-SHA-256 makes of one seed at a time.
const LONGEST: usize = 255 * 32;

const SEED: usize = 2 * EACH * size_of::<u64>();

/// Fills `buffer` with random bytes.
pub fn fill(buffer: &mut [u8]) -> Result<(), NoEntropy> {
    expand(&*seed()?, buffer);
    Ok(())
}

/// Draws a seed.
fn seed() -> Result<Zeroizing<[u8; SEED]>, NoEntropy> {
    let found = found();
    if !found.has_rdrand {
        return Err(NoEntropy);
    }
    let mut seed = Zeroizing::new([0; SEED]);
    for (index, word) in seed.as_chunks_mut().0.iter_mut().enumerate() {
        let number = match index < EACH && found.has_rdseed {
            true => retry(processor::rdseed).or_else(|_| retry(processor::rdrand)),
            false => retry(processor::rdrand),
        };
        *word = number?.to_le_bytes();
    }
    Ok(seed)
}

/// Fills `buffer` with what comes of `seed`.
fn expand(seed: &[u8], buffer: &mut [u8]) {
    let extracted = Hkdf::<Sha256>::new(Some(SALT), seed);
    for (number, part) in (0_u64..).zip(buffer.chunks_mut(LONGEST)) {
        let expanded = extracted.expand(&number.to_le_bytes(), part);
        expanded.expect("a part is no longer than what HKDF makes");
    }
}

/// What the processor has.
#[derive(Clone, Copy)]
struct Found {
    has_rdrand: bool,
    has_rdseed: bool,
}

fn found() -> Found {
    static FOUND: Once<Found> = Once::new();
    *FOUND.call_once(|| Found {
        has_rdrand: processor::cpuid(1, 0)[2] & RDRAND != 0,
        has_rdseed: processor::cpuid(7, 0)[1] & RDSEED != 0,
    })
}

/// All zeros and all ones are what broken generators are known to answer for ever.
fn retry(mut source: impl FnMut() -> Option<u64>) -> Result<u64, NoEntropy> {
    (0..TRIES)
        .filter_map(|_| source())
        .find(|number| *number != 0 && *number != u64::MAX)
        .ok_or(NoEntropy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_number_that_comes_late_is_taken() {
        let mut tries = 0;
        let source = || {
            tries += 1;
            (tries == 40).then_some(7)
        };
        assert_eq!(retry(source), Ok(7));
    }

    #[test]
    fn a_stuck_generator_is_no_source() {
        assert_eq!(retry(|| None), Err(NoEntropy));
        assert_eq!(retry(|| Some(u64::MAX)), Err(NoEntropy));
        assert_eq!(retry(|| Some(0)), Err(NoEntropy));
    }

    /// By another implementation of RFC 5869 (Python's `hmac`), beyond one part too.
    #[test]
    fn a_seed_is_expanded_by_hkdf() {
        let mut seed = Zeroizing::new([0; SEED]);
        for (number, word) in (1_u64..).zip(seed.as_chunks_mut().0) {
            *word = number.to_le_bytes();
        }
        let mut buffer = vec![0; LONGEST + 5];
        expand(&*seed, &mut buffer);
        let first = [0x6C, 0xE4, 0x36, 0x40, 0xB0, 0xE1, 0x0A, 0xA8, 0xDD, 0x4D];
        assert_eq!(buffer[..10], first);
        assert_eq!(buffer[LONGEST..], [0xCB, 0x38, 0x06, 0x01, 0xBE]);
    }

    #[test]
    fn fills_every_byte_and_never_alike() {
        let (mut first, mut second) = ([0; 37], [0; 37]);
        if fill(&mut first).is_ok() {
            fill(&mut second).unwrap();
            assert_ne!(first, second);
            assert!(first[29..].iter().any(|byte| *byte != 0));
        } else {
            assert!(!found().has_rdrand);
        }
    }
}
