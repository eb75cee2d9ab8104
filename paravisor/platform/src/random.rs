//! Random numbers from the processor.
//!
//! RDRAND alone: the host can neither see nor choose it. A processor that has none ready is asked again a bounded number of
//! times, then the caller must do without: there is no second source that would be ours alone.

use spin::Once;

use crate::processor;

/// The processor gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the processor gives no random numbers")]
pub struct NoEntropy;

/// Leaf 1, ECX: RDRAND exists.
const RDRAND: u32 = 1 << 30;
/// Ten tries suffice unless the generator is broken (Intel DRNG guide, 5.2.1); some more for busy siblings.
const TRIES: usize = 64;

/// Fills `buffer` with random bytes.
pub fn fill(buffer: &mut [u8]) -> Result<(), NoEntropy> {
    for chunk in buffer.chunks_mut(size_of::<u64>()) {
        chunk.copy_from_slice(&next_u64()?.to_le_bytes()[..chunk.len()]);
    }
    Ok(())
}

/// Returns a random number.
pub fn next_u64() -> Result<u64, NoEntropy> {
    if !has_rdrand() {
        return Err(NoEntropy);
    }
    retry(processor::rdrand)
}

fn has_rdrand() -> bool {
    static HAS: Once<bool> = Once::new();
    *HAS.call_once(|| processor::cpuid(1, 0)[2] & RDRAND != 0)
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

    #[test]
    fn fills_every_byte() {
        let (mut first, mut second) = ([0; 37], [0; 37]);
        if fill(&mut first).is_ok() {
            fill(&mut second).unwrap();
            assert_ne!(first, second);
        } else {
            assert!(!has_rdrand());
        }
    }
}
