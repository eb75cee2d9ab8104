//! A set of the 256 interrupt vectors, as ISR, IRR and TMR hold them (SDM 10.8.4).

/// A set of interrupt vectors. The highest vector has the highest priority.
///
/// Every exit asks for the highest of two sets, so which words are not zero is kept beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet {
    words: [u32; 8],
    /// A bit for each word that is not zero.
    used: u8,
}

impl VectorSet {
    /// Returns the set whose bits are `words`, vector 0 being bit 0 of word 0.
    #[must_use]
    pub const fn from_words(words: [u32; 8]) -> Self {
        let mut used = 0;
        let mut index = 0;
        while index < words.len() {
            if words[index] != 0 {
                used |= 1 << index;
            }
            index += 1;
        }
        Self { words, used }
    }

    /// Returns the bits.
    #[must_use]
    pub const fn words(&self) -> [u32; 8] {
        self.words
    }

    /// Adds a vector.
    pub fn insert(&mut self, vector: u8) {
        self.insert_word(usize::from(vector >> 5), 1 << (vector & 31));
    }

    /// Removes a vector and returns whether it was there.
    pub fn remove(&mut self, vector: u8) -> bool {
        let was_there = self.contains(vector);
        self.remove_word(usize::from(vector >> 5), 1 << (vector & 31));
        was_there
    }

    /// Returns whether the vector is in the set.
    #[must_use]
    pub fn contains(&self, vector: u8) -> bool {
        self.words[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
    }

    /// Returns the highest vector.
    #[must_use]
    pub fn highest(&self) -> Option<u8> {
        let index = self.used.checked_ilog2()?.to_le_bytes()[0] & 7;
        let bit = self.words[usize::from(index)].checked_ilog2()?;
        Some(index << 5 | bit.to_le_bytes()[0])
    }

    /// Removes the highest vector and returns it.
    pub fn take_highest(&mut self) -> Option<u8> {
        let vector = self.highest()?;
        self.remove(vector);
        Some(vector)
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Adds those vectors of word `index` (0 to 7) whose bits are set.
    pub(crate) fn insert_word(&mut self, index: usize, bits: u32) {
        self.words[index] |= bits;
        self.note(index);
    }

    /// Removes those vectors of word `index` (0 to 7) whose bits are set.
    pub(crate) fn remove_word(&mut self, index: usize, bits: u32) {
        self.words[index] &= !bits;
        self.note(index);
    }

    fn note(&mut self, index: usize) {
        let bit = 1 << index;
        self.used = self.used & !bit | u8::from(self.words[index] != 0) << index;
    }

    /// Returns whether one of the vectors 0 to 15 is in the set: no APIC accepts those.
    pub(crate) fn has_illegal(&self) -> bool {
        self.words[0] & 0xFFFF != 0
    }
}

#[cfg(test)]
mod tests {
    use super::VectorSet;

    #[test]
    fn highest_of_one_vector_is_that_vector_for_all_256() {
        for vector in 0..=255 {
            let mut set = VectorSet::default();
            assert_eq!(set.highest(), None);
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
            assert_eq!(set.take_highest(), Some(vector));
            assert!(set.is_empty());
        }
    }

    #[test]
    fn set_made_of_words_is_the_set_made_of_vectors() {
        let mut set = VectorSet::default();
        for vector in [0x21, 0x3F, 0x20, 0xFF] {
            set.insert(vector);
            assert_eq!(VectorSet::from_words(set.words()), set);
        }
        for vector in [0x3F, 0x21, 0xFF, 0x20] {
            assert!(set.remove(vector) && !set.remove(vector));
            assert_eq!(VectorSet::from_words(set.words()), set);
        }
    }

    #[test]
    fn highest_of_two_vectors_is_the_greater_for_all_pairs() {
        for low in 0..=255u8 {
            for high in low..=255 {
                let mut set = VectorSet::default();
                set.insert(high);
                set.insert(low);
                assert_eq!(set.highest(), Some(high));
            }
        }
    }
}
