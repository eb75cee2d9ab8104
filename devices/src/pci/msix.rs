//! MSI-X: a table of messages and their pending bits (PCI Local Bus 3.0, 6.8.2).
//!
//! [`Msix::signal`] only marks a vector pending; [`Msix::take`] sends what is neither masked nor held back. So there is one place
//! where a message leaves, and a vector that is signalled while masked is sent when it is unmasked.

use alloc::boxed::Box;
use alloc::vec;

use bitfield_struct::bitfield;

use super::dwords;
use crate::RestoreError;

/// The capability's id.
pub(super) const CAPABILITY: u8 = 0x11;
/// Offset of the pending bits from the start of the BAR; the table is at its start.
pub(super) const PENDING_OFFSET: u32 = 0x800;
/// The most vectors the two fit a page with.
pub const MAX_VECTORS: u16 = 128;
/// Bytes of the BAR.
pub(super) const BAR_SIZE: u64 = 0x1000;

/// Message Control (6.8.2.3).
#[bitfield(u16)]
pub(super) struct Control {
    #[bits(11)]
    pub(super) last_vector: u16,
    #[bits(3)]
    reserved: u8,
    pub(super) function_mask: bool,
    pub(super) enable: bool,
}

/// The number of an entry. Any number is a vector; there may be no entry for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector(pub u16);

/// A memory write to the interrupt controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// An entry (6.8.2.6 to 6.8.2.9), masked after reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    address_low: u32,
    address_high: u32,
    data: u32,
    control: u32,
}

/// Vector Control's only bit.
const MASKED: u32 = 1;

impl Entry {
    const RESET: Self = Self {
        address_low: 0,
        address_high: 0,
        data: 0,
        control: MASKED,
    };

    fn word(&mut self, index: u64) -> (&mut u32, u32) {
        match index & 3 {
            0 => (&mut self.address_low, !3),
            1 => (&mut self.address_high, u32::MAX),
            2 => (&mut self.data, u32::MAX),
            _ => (&mut self.control, MASKED),
        }
    }

    fn is_masked(&self) -> bool {
        self.control & MASKED != 0
    }

    fn message(&self) -> MsiMessage {
        MsiMessage {
            address: u64::from(self.address_high) << 32 | u64::from(self.address_low),
            data: self.data,
        }
    }
}

/// Whether messages may leave the function now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// MSI-X is disabled: nothing is kept either.
    Disabled,
    /// All vectors are masked, or the function may not write to memory.
    Held,
    /// They may.
    Open,
}

/// The table.
#[derive(Clone, Debug)]
pub(super) struct Msix {
    entries: Box<[Entry]>,
    pending: [u64; MAX_VECTORS as usize / 64],
}

impl Msix {
    /// Returns a table of `vectors` (1 to [`MAX_VECTORS`]) masked entries; other numbers are brought into the range.
    pub(super) fn new_clamped(vectors: u16) -> Self {
        let vectors = vectors.clamp(1, MAX_VECTORS);
        Self {
            entries: vec![Entry::RESET; usize::from(vectors)].into_boxed_slice(),
            pending: [0; 2],
        }
    }

    pub(super) fn control(&self) -> Control {
        // At most 128 entries by construction.
        let last = u16::try_from(self.entries.len() - 1).unwrap_or(MAX_VECTORS - 1);
        Control::new().with_last_vector(last)
    }

    pub(super) fn reset(&mut self) {
        self.entries.fill(Entry::RESET);
        self.pending = [0; 2];
    }

    /// Marks a vector pending. One that has no entry is nobody's.
    pub(super) fn signal(&mut self, vector: Vector) {
        let index = usize::from(vector.0);
        if index < self.entries.len()
            && let Some(word) = self.pending.get_mut(index / 64)
        {
            *word |= 1 << (index % 64);
        }
    }

    /// Sends what is pending and may leave.
    pub(super) fn take(&mut self, gate: Gate, send: &mut dyn FnMut(MsiMessage)) {
        match gate {
            Gate::Disabled => self.pending = [0; 2],
            Gate::Held => {}
            Gate::Open => {
                for (word, entries) in self.pending.iter_mut().zip(self.entries.chunks(64)) {
                    send_unmasked(word, entries, send);
                }
            }
        }
    }

    /// Reads the table and the pending bits; what lies between reads as zeros.
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        dwords::read(offset, data, |at| match self.entry(at) {
            Some((entry, index)) => *entry.word(index).0,
            None => self.pending_word(at),
        });
    }

    /// Writes the table; the pending bits are read-only.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        dwords::write(offset, data, |at, value, mask| {
            if let Some((entry, index)) = self.entry(at) {
                let (word, writable) = entry.word(index);
                *word = dwords::merge(*word, value, mask & writable);
            }
        });
    }

    fn entry(&mut self, at: u64) -> Option<(&mut Entry, u64)> {
        let entry = usize::try_from(at / 16).ok()?;
        Some((self.entries.get_mut(entry)?, at / 4))
    }

    fn pending_word(&self, at: u64) -> u32 {
        let index = at.checked_sub(PENDING_OFFSET.into());
        let word = index.and_then(|index| {
            let quad = self.pending.get(usize::try_from(index / 8).ok()?)?;
            let [a, b, c, d, e, f, g, h] = quad.to_le_bytes();
            let half = if index & 4 == 0 {
                [a, b, c, d]
            } else {
                [e, f, g, h]
            };
            Some(u32::from_le_bytes(half))
        });
        word.unwrap_or(0)
    }
}

fn send_unmasked(pending: &mut u64, entries: &[Entry], send: &mut dyn FnMut(MsiMessage)) {
    let mut rest = *pending;
    while rest != 0 {
        let bit = rest.trailing_zeros();
        rest &= rest - 1;
        // A pending bit has an entry.
        let entry = usize::try_from(bit).ok().and_then(|bit| entries.get(bit));
        if let Some(entry) = entry.filter(|entry| !entry.is_masked()) {
            *pending &= !(1 << bit);
            send(entry.message());
        }
    }
}

/// The table's state, part of its function's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsixState {
    /// Each entry's four double words.
    pub entries: Box<[[u32; 4]]>,
    /// The pending bits.
    pub pending: [u64; 2],
}

impl Msix {
    pub(super) fn save(&self) -> MsixState {
        let Self { entries, pending } = self;
        MsixState {
            entries: entries
                .iter()
                .map(|entry| {
                    let Entry {
                        address_low,
                        address_high,
                        data,
                        control,
                    } = *entry;
                    [address_low, address_high, data, control]
                })
                .collect(),
            pending: *pending,
        }
    }

    pub(super) fn restore(&mut self, state: &MsixState) -> Result<(), RestoreError> {
        if state.entries.len() != self.entries.len() {
            return Err(RestoreError::Impossible("number of MSI-X entries"));
        }
        self.reset();
        for (index, words) in (0_u64..).zip(&state.entries) {
            for (at, word) in (index * 16..).step_by(4).zip(words) {
                self.write(at, &word.to_le_bytes());
            }
        }
        for vector in 0..MAX_VECTORS {
            if state.pending[usize::from(vector / 64)] >> (vector % 64) & 1 != 0 {
                self.signal(Vector(vector));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::{Gate, MsiMessage, Msix, Vector};

    fn taken(msix: &mut Msix, gate: Gate) -> Vec<MsiMessage> {
        let mut messages = Vec::new();
        msix.take(gate, &mut |message| messages.push(message));
        messages
    }

    fn set(msix: &mut Msix, vector: u64, words: [u32; 4]) {
        for (at, word) in (vector * 16..).step_by(4).zip(words) {
            msix.write(at, &word.to_le_bytes());
        }
    }

    fn dword(msix: &mut Msix, offset: u64) -> u32 {
        let mut word = [0; 4];
        msix.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    #[test]
    fn unmasked_vector_sends_its_message_once() {
        let mut msix = Msix::new_clamped(3);
        set(&mut msix, 1, [0xFEE0_1004, 0, 0x4022, 0]);
        msix.signal(Vector(1));
        let message = MsiMessage {
            address: 0xFEE0_1004,
            data: 0x4022,
        };
        assert_eq!(taken(&mut msix, Gate::Open), [message]);
        assert_eq!(taken(&mut msix, Gate::Open), []);
    }

    #[test]
    fn masked_vector_waits_in_the_pending_bits_for_its_unmasking() {
        let mut msix = Msix::new_clamped(70);
        set(&mut msix, 66, [0xFEE0_0000, 0, 0x41, 1]);
        msix.signal(Vector(66));
        assert_eq!(taken(&mut msix, Gate::Open), []);
        assert_eq!(dword(&mut msix, 0x808), 1 << 2);
        msix.write(66 * 16 + 12, &[0; 4]);
        assert_eq!(taken(&mut msix, Gate::Open).len(), 1);
        assert_eq!(dword(&mut msix, 0x808), 0);
    }

    #[test]
    fn held_function_keeps_and_disabled_function_forgets() {
        let mut msix = Msix::new_clamped(1);
        set(&mut msix, 0, [0xFEE0_0000, 0, 0x41, 0]);
        msix.signal(Vector(0));
        assert_eq!(taken(&mut msix, Gate::Held), []);
        assert_eq!(taken(&mut msix, Gate::Open).len(), 1);
        msix.signal(Vector(0));
        assert_eq!(taken(&mut msix, Gate::Disabled), []);
        assert_eq!(taken(&mut msix, Gate::Open), []);
    }

    #[test]
    fn entries_are_masked_after_reset_and_reserved_bits_read_zero() {
        let mut msix = Msix::new_clamped(2);
        assert_eq!(dword(&mut msix, 12), 1);
        set(&mut msix, 0, [u32::MAX; 4]);
        assert_eq!(dword(&mut msix, 0), 0xFFFF_FFFC);
        assert_eq!(dword(&mut msix, 12), 1);
        msix.write(0x800, &[0xFF; 4]);
        assert_eq!(dword(&mut msix, 0x800), 0, "pending bits are read-only");
        msix.reset();
        assert_eq!(dword(&mut msix, 0), 0);
    }

    #[test]
    fn vector_without_an_entry_is_nobodys() {
        let mut msix = Msix::new_clamped(2);
        for vector in 2..=u16::MAX {
            msix.signal(Vector(vector));
        }
        assert_eq!(msix.save().pending, [0; 2]);
    }

    proptest! {
        /// Whatever is masked and unmasked meanwhile: a vector signalled since it was last sent is sent once all is open.
        #[test]
        fn masks_never_lose_or_invent_a_message(
            steps in prop::collection::vec((0_u8..4, 0_u16..128, any::<bool>()), 0..200),
        ) {
            let mut msix = Msix::new_clamped(128);
            for vector in 0..128 {
                set(&mut msix, vector, [0xFEE0_0000, 0, u32::try_from(vector).unwrap(), 0]);
            }
            let mut owed = [false; 128];
            let mut is_held = false;
            for (kind, vector, flag) in steps {
                match kind {
                    0 | 1 => {
                        msix.signal(Vector(vector));
                        owed[usize::from(vector)] = true;
                    }
                    2 => msix.write(u64::from(vector) * 16 + 12, &[u8::from(flag)]),
                    _ => is_held = flag,
                }
                let gate = if is_held { Gate::Held } else { Gate::Open };
                for message in taken(&mut msix, gate) {
                    let slot = &mut owed[usize::try_from(message.data).unwrap()];
                    prop_assert!(core::mem::take(slot), "sent without a signal");
                }
            }
            for vector in 0..128 {
                msix.write(vector * 16 + 12, &[0]);
            }
            for message in taken(&mut msix, Gate::Open) {
                let slot = &mut owed[usize::try_from(message.data).unwrap()];
                prop_assert!(core::mem::take(slot), "sent without a signal");
            }
            prop_assert!(!owed.contains(&true), "signalled and never sent");
        }
    }
}
