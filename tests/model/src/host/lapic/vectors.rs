//! A set of the 256 vectors, as IRR, ISR and TMR hold them.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VectorSet([u32; 8]);

impl VectorSet {
    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        let bit = self.0[word].ilog2();
        u8::try_from(word)
            .ok()?
            .checked_mul(32)?
            .checked_add(u8::try_from(bit).ok()?)
    }

    /// Register `index` of eight.
    pub(super) const fn word(&self, index: usize) -> u32 {
        self.0[index & 7]
    }
}
