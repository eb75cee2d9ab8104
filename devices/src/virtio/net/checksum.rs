//! The checksum of the Internet protocols (RFC 1071).

/// Returns the sum of the bytes as 16-bit words, carries not yet added; a byte that is left over is the upper half of a word.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Words of 32 bits add up to the same, and there are too few for their sum to overflow.
    let halves = |chunk: &[u8; 8]| {
        let word = u64::from_be_bytes(*chunk);
        (word >> 32) + (word & 0xFFFF_FFFF)
    };
    whole.iter().map(halves).sum::<u64>() + halves(&last)
}

/// Returns the checksum of what was summed up.
pub(super) fn finish(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    u16::try_from(sum).map_or(0, |sum| !sum)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{finish, sum};

    /// The example of RFC 1071, section 3.
    #[test]
    fn the_standards_example_has_its_sum() {
        let bytes = [0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7];
        assert_eq!(finish(sum(&bytes)), !0xDDF2);
    }

    #[test]
    fn every_length_sums_as_word_by_word() {
        let bytes: Vec<u8> = (0..200_u8).map(|at| at.wrapping_mul(151)).collect();
        for len in 0..bytes.len() {
            let words = bytes[..len].chunks(2);
            let slow: u64 = words
                .map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)))
                .sum();
            assert_eq!(finish(sum(&bytes[..len])), finish(slow), "{len}");
        }
    }
}
