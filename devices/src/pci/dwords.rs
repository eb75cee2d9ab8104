//! Accesses of any width as accesses to aligned double words, which is what registers of PCI functions are made of.

/// Reads `data.len()` bytes at `offset` out of the double words `read` returns, each asked for once.
pub(super) fn read(offset: u64, data: &mut [u8], mut read: impl FnMut(u64) -> u32) {
    let mut filled = 0;
    while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset.wrapping_add(filled as u64);
        let first = within(at);
        let bytes = read(at & !3).to_le_bytes();
        for (slot, byte) in rest.iter_mut().zip(&bytes[first..]) {
            *slot = *byte;
        }
        filled += 4 - first;
    }
}

/// Hands the bytes of `data` at `offset` to `write`, double word by double word, with a mask of the bytes that are meant.
pub(super) fn write(offset: u64, data: &[u8], mut write: impl FnMut(u64, u32, u32)) {
    let mut taken = 0;
    while let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
        let at = offset.wrapping_add(taken as u64);
        let first = within(at);
        let (mut value, mut mask) = ([0; 4], [0; 4]);
        for (index, byte) in (first..4).zip(rest) {
            value[index] = *byte;
            mask[index] = 0xFF;
        }
        write(at & !3, u32::from_le_bytes(value), u32::from_le_bytes(mask));
        taken += 4 - first;
    }
}

/// Puts the bits of `mask` from `value` into `word`.
pub(super) const fn merge(word: u32, value: u32, mask: u32) -> u32 {
    word & !mask | value & mask
}

fn within(offset: u64) -> usize {
    usize::from(offset.to_le_bytes()[0] & 3)
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::{merge, read, write};

    #[test]
    fn every_width_at_every_offset_moves_exactly_its_bytes() {
        for offset in 0..8_u64 {
            for len in 0..=16_usize {
                let mut memory = [0_u32; 6];
                let data: Vec<u8> = (1..=16).take(len).collect();
                write(offset, &data, |at, value, mask| {
                    let word = &mut memory[usize::try_from(at / 4).unwrap()];
                    *word = merge(*word, value, mask);
                });
                let bytes: Vec<u8> = memory.iter().flat_map(|word| word.to_le_bytes()).collect();
                let start = usize::try_from(offset).unwrap();
                assert_eq!(bytes[start..start + len], data);
                assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), len);
                let mut back = vec![0; len];
                read(offset, &mut back, |at| {
                    memory[usize::try_from(at / 4).unwrap()]
                });
                assert_eq!(back, data);
            }
        }
    }
}
