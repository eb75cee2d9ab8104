//! IA32_APIC_BASE and the modes it switches between (SDM 10.4.3, 10.4.4 and 10.12.5).

use stockade_bus::Gpa;

use super::registers::Base;
use super::{Effect, GeneralProtection, LocalApic};

/// The frame of FEE0_0000, where the page is after a reset.
pub(super) const DEFAULT_FRAME: u64 = 0xFEE00;

/// The mode of a local APIC; EN and EXTD of IA32_APIC_BASE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disabled,
    Xapic,
    X2apic,
    Invalid,
}

impl From<Base> for Mode {
    fn from(base: Base) -> Self {
        match (base.is_enabled(), base.is_x2apic()) {
            (false, false) => Self::Disabled,
            (true, false) => Self::Xapic,
            (true, true) => Self::X2apic,
            (false, true) => Self::Invalid,
        }
    }
}

impl LocalApic {
    /// Returns IA32_APIC_BASE.
    #[must_use]
    pub const fn apic_base(&self) -> u64 {
        self.base.into_bits()
    }

    /// Returns where the register page is, or `None` while there is none: in x2APIC mode, or disabled.
    #[must_use]
    pub fn page(&self) -> Option<Gpa> {
        (Mode::from(self.base) == Mode::Xapic).then(|| Gpa(self.base.frame() << 12))
    }

    /// Returns whether the registers are MSRs.
    #[must_use]
    pub fn is_x2apic(&self) -> bool {
        Mode::from(self.base) == Mode::X2apic
    }

    /// Returns whether this is the bootstrap processor, by the guest's word: it starts at the reset vector after an INIT.
    #[must_use]
    pub const fn is_bootstrap(&self) -> bool {
        self.base.is_bootstrap()
    }

    /// Writes IA32_APIC_BASE. Legal are: disabled ↔ xAPIC, xAPIC → x2APIC, x2APIC → disabled, and no change of mode (SDM figure
    /// 10-27). An APIC that is disabled loses its state (SDM 10.4.3).
    pub fn set_apic_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        if value & !self.base_writable() != 0 {
            return Err(GeneralProtection);
        }
        let new = Base::from_bits(value);
        match (Mode::from(self.base), Mode::from(new)) {
            (_, Mode::Invalid) | (Mode::Disabled, Mode::X2apic) | (Mode::X2apic, Mode::Xapic) => {
                return Err(GeneralProtection);
            }
            (Mode::Xapic | Mode::X2apic, Mode::Disabled) => self.init(),
            (Mode::Xapic, Mode::X2apic) => self.command.set_destination(0),
            _ => {}
        }
        self.base = new;
        Ok(Effect::AddressChanged)
    }

    /// Returns the bits of IA32_APIC_BASE that are not reserved.
    pub(super) fn base_writable(&self) -> u64 {
        let width = u32::from(self.config.physical_address_bits.clamp(36, 52));
        Base::new()
            .with_is_bootstrap(true)
            .with_is_enabled(true)
            .with_is_x2apic(self.config.features.x2apic)
            .with_frame((1 << (width - 12)) - 1)
            .into_bits()
    }
}
