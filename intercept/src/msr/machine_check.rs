//! Machine-check banks in which nothing ever happens (APM vol. 2, 9.3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::number::Msr;

/// Banks. Kernels touch each of them on each processor at boot; processors of this family have a dozen or more.
const BANKS: u32 = 4;
const REGISTERS: u32 = 4;
/// MCG_CTL exists.
const CAP_CTL: u64 = 1 << 8;
/// Defined bits of MCG_STATUS.
const STATUS_BITS: u64 = 0b111;

/// Machine-check state of one vCPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct MachineCheck {
    status: u64,
    control: u64,
    banks: [[u64; REGISTERS as usize]; BANKS as usize],
}

/// Registers of a bank, in order.
const STATUS: usize = 1;
const ADDR: usize = 2;

/// Whether HWCR lets software write a bank's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusWrites {
    /// Only zero, which clears it.
    ZeroOnly,
    /// Anything, to test handlers.
    Any,
}

impl MachineCheck {
    /// State after reset.
    pub(super) const fn new() -> Self {
        Self {
            status: 0,
            control: u64::MAX,
            banks: [[0; REGISTERS as usize]; BANKS as usize],
        }
    }

    /// Reads a register; `None` if `msr` is none of these.
    pub(super) fn read(&self, msr: Msr) -> Option<u64> {
        match msr {
            Msr::MCG_CAP => Some(BANKS as u64 | CAP_CTL),
            Msr::MCG_STATUS => Some(self.status),
            Msr::MCG_CTL => Some(self.control),
            Msr::P5_MC_ADDR => Some(self.banks[0][ADDR]),
            Msr::P5_MC_TYPE => Some(self.banks[0][STATUS]),
            _ => bank(msr).map(|(bank, register)| self.banks[bank][register]),
        }
    }

    /// Writes a register; `None` if `msr` is none of these, `Some(false)` if the value is illegal.
    pub(super) fn write(&mut self, msr: Msr, value: u64, status: StatusWrites) -> Option<bool> {
        let zero_only = status == StatusWrites::ZeroOnly;
        match msr {
            Msr::MCG_CAP => Some(false),
            Msr::MCG_STATUS => {
                let is_legal = value & !STATUS_BITS == 0;
                if is_legal {
                    self.status = value;
                }
                Some(is_legal)
            }
            Msr::MCG_CTL => {
                self.control = value;
                Some(true)
            }
            Msr::P5_MC_ADDR | Msr::P5_MC_TYPE => Some(value == 0),
            _ => bank(msr).map(|(bank, register)| {
                let is_legal = register != STATUS || value == 0 || !zero_only;
                if is_legal && (register <= STATUS || !zero_only || value == 0) {
                    self.banks[bank][register] = value;
                }
                is_legal
            }),
        }
    }

    /// Returns whether the state could have come about.
    pub(super) const fn is_legal(&self) -> bool {
        self.status & !STATUS_BITS == 0
    }
}

/// Bank and register, both in range.
fn bank(msr: Msr) -> Option<(usize, usize)> {
    let offset = msr.0.checked_sub(Msr::MC0_CTL.0)?;
    if offset >= BANKS * REGISTERS {
        return None;
    }
    let offset = usize::try_from(offset).ok()?;
    Some((offset / REGISTERS as usize, offset % REGISTERS as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_are_quiet_and_their_number_is_told() {
        let state = MachineCheck::new();
        assert_eq!(state.read(Msr::MCG_CAP), Some(0x104));
        for number in 0x400..0x410 {
            assert_eq!(state.read(Msr(number)), Some(0));
        }
        assert_eq!(state.read(Msr(0x410)), None);
        assert_eq!(state.read(Msr(0x3FF)), None);
        assert_eq!(state.read(Msr::P5_MC_ADDR), Some(0));
    }

    #[test]
    fn control_keeps_its_value_and_status_takes_only_zero() {
        let mut state = MachineCheck::new();
        let zero_only = StatusWrites::ZeroOnly;
        assert_eq!(state.write(Msr(0x404), 0xFF, zero_only), Some(true));
        assert_eq!(state.read(Msr(0x404)), Some(0xFF));
        assert_eq!(state.write(Msr(0x405), 1, zero_only), Some(false));
        assert_eq!(state.write(Msr(0x405), 0, zero_only), Some(true));
        assert_eq!(state.write(Msr(0x405), 1, StatusWrites::Any), Some(true));
        assert_eq!(state.read(Msr(0x405)), Some(1));
    }

    /// Kernels look for threshold counters in the misc register: what they write there must not appear as one.
    #[test]
    fn misc_and_address_swallow_writes() {
        let mut state = MachineCheck::new();
        assert_eq!(
            state.write(Msr(0x403), u64::MAX, StatusWrites::ZeroOnly),
            Some(true)
        );
        assert_eq!(state.read(Msr(0x403)), Some(0));
    }

    #[test]
    fn global_status_has_three_bits() {
        let mut state = MachineCheck::new();
        assert_eq!(
            state.write(Msr::MCG_STATUS, 8, StatusWrites::ZeroOnly),
            Some(false)
        );
        assert_eq!(
            state.write(Msr::MCG_STATUS, 7, StatusWrites::ZeroOnly),
            Some(true)
        );
        assert!(state.is_legal());
        assert_eq!(state.write(Msr::MCG_CAP, 0, StatusWrites::Any), Some(false));
    }
}
