//! Nonces that never come twice: a prefix of 64 bits, drawn anew each time a file is opened, and a counter of 32.
//!
//! The prefix comes from the caller's entropy, not from anything the host keeps: a host that returns an older file does not make a
//! nonce come twice.

use zeroize::Zeroizing;

use crate::key::{PartKey, derive};

/// Where nonces come from.
pub(crate) struct Nonces {
    source: PartKey,
    entropy: Zeroizing<[u8; 32]>,
    epoch: u64,
    prefix: [u8; 8],
    counter: Option<u32>,
}

impl Nonces {
    /// Draws the first prefix; `entropy` must be new each time.
    pub(crate) fn new(source: PartKey, entropy: &[u8; 32]) -> Self {
        let mut nonces = Self {
            source,
            entropy: Zeroizing::new(*entropy),
            epoch: 0,
            prefix: [0; 8],
            counter: Some(0),
        };
        nonces.draw_prefix();
        nonces
    }

    /// Returns the next one.
    pub(crate) fn next(&mut self) -> [u8; 12] {
        let counter = self.counter.unwrap_or_else(|| {
            self.epoch += 1;
            self.draw_prefix();
            0
        });
        self.counter = counter.checked_add(1);
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.prefix);
        nonce[8..].copy_from_slice(&counter.to_le_bytes());
        nonce
    }

    fn draw_prefix(&mut self) {
        let epoch = self.epoch.to_le_bytes();
        let drawn = derive(self.source.bytes(), &self.entropy[..], &[&epoch]);
        self.prefix.copy_from_slice(&drawn[..8]);
    }
}

#[cfg(test)]
mod tests {
    use super::Nonces;
    use crate::key::DiskKey;

    #[test]
    fn nonces_stay_apart_when_the_counter_ends_and_when_the_file_is_opened_again() {
        let part = || DiskKey::new([1; 32]).part(&[0; 16], "nonce");
        let mut nonces = Nonces::new(part(), &[3; 32]);
        let first = nonces.next();
        nonces.counter = Some(u32::MAX);
        let last = nonces.next();
        let next = nonces.next();
        assert_eq!(first[..8], last[..8]);
        assert_eq!(first[8..], next[8..]);
        assert_ne!(last[..8], next[..8]);
        assert_ne!(Nonces::new(part(), &[4; 32]).next(), first);
    }
}
