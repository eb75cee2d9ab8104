//! The IOAPIC's saved state.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::redirection::Redirection;
use super::{ID_WRITABLE, IoApic, PINS};
use crate::msi::MessageSink;
use crate::saved::{Register, RestoreError, check, check_version};

impl<S: MessageSink> IoApic<S> {
    /// Returns the state; [`Self::take_endings`] comes before it.
    #[must_use]
    pub fn save(&self) -> SavedIoApic {
        let Self {
            sink: _,
            index,
            id,
            redirections: _,
            pins,
            served: _,
        } = self;
        SavedIoApic {
            version: SAVED_VERSION,
            index: u32::from(*index),
            id: *id,
            pins: *pins,
            redirections: core::array::from_fn(|pin| self.entry(pin).into_bits()),
        }
    }

    /// Takes over a saved state, or refuses it and changes nothing.
    pub fn restore(&mut self, saved: &SavedIoApic) -> Result<(), RestoreError> {
        let SavedIoApic {
            version,
            index,
            id,
            pins,
            redirections,
        } = *saved;
        check_version(version, SAVED_VERSION)?;
        let index = u8::try_from(index).map_err(|_| RestoreError::Register(Register::Identity))?;
        check(id & !ID_WRITABLE == 0, Register::Identity)?;
        check(pins >> PINS == 0, Register::Wires)?;
        let remote_irr = Redirection::new().with_remote_irr(true).into_bits();
        for bits in redirections {
            let redirection = Redirection::from_bits(bits);
            let is_served = redirection.is_level_triggered() || !redirection.remote_irr();
            let is_possible = bits & !(Redirection::WRITABLE | remote_irr) == 0;
            check(is_possible && is_served, Register::Redirection)?;
        }
        self.index = index;
        self.id = id;
        self.pins = pins;
        self.served = 0;
        for (pin, bits) in redirections.into_iter().enumerate() {
            let redirection = Redirection::from_bits(bits);
            self.served |= u32::from(redirection.remote_irr()) << pin;
            self.redirections[pin] = redirection.with_remote_irr(false);
        }
        // A state that was saved at rest sends nothing here.
        for pin in 0..PINS {
            self.evaluate(pin);
        }
        Ok(())
    }
}

const SAVED_VERSION: u32 = 1;

/// The state of an IOAPIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SavedIoApic {
    pub(super) version: u32,
    pub(super) index: u32,
    pub(super) id: u32,
    pub(super) pins: u32,
    pub(super) redirections: [u64; PINS],
}

const _: () = assert!(size_of::<SavedIoApic>() == 208);
