//! The local APIC's MSRs: IA32_APIC_BASE, IA32_TSC_DEADLINE and, in x2APIC mode, 0x800 to 0x8FF (SDM 10.12).

use super::address::x2apic_logical;
use super::registers::{Command, DIVIDE_WRITABLE, LocalVector, Register};
use super::{Effect, GeneralProtection, LocalApic, Time};

/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1B;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6E0;
/// The first of the 256 MSRs that x2APIC mode has set aside.
pub const MSR_X2APIC: u32 = 0x800;

impl LocalApic {
    /// Returns whether an MSR is the local APIC's to answer.
    #[must_use]
    pub const fn owns_msr(msr: u32) -> bool {
        matches!(msr, MSR_APIC_BASE | MSR_TSC_DEADLINE) || msr >> 8 == MSR_X2APIC >> 8
    }

    /// Reads an MSR.
    pub fn read_msr(&mut self, msr: u32, now: Time) -> Result<u64, GeneralProtection> {
        match msr {
            MSR_APIC_BASE => Ok(self.apic_base()),
            MSR_TSC_DEADLINE if self.config.features.tsc_deadline => {
                self.advance(now);
                Ok(self.timer.tsc_deadline())
            }
            _ => self.read_x2apic(self.x2apic_register(msr)?, now),
        }
    }

    /// Writes an MSR.
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: Time,
    ) -> Result<Effect, GeneralProtection> {
        match msr {
            MSR_APIC_BASE => self.set_apic_base(value),
            MSR_TSC_DEADLINE if self.config.features.tsc_deadline => {
                self.advance(now);
                self.timer.set_tsc_deadline(value, self.timer_mode());
                self.advance(now);
                Ok(Effect::None)
            }
            _ => self.write_x2apic(self.x2apic_register(msr)?, value, now),
        }
    }

    fn x2apic_register(&self, msr: u32) -> Result<Register, GeneralProtection> {
        let place = msr.checked_sub(MSR_X2APIC).ok_or(GeneralProtection)?;
        match u8::try_from(place) {
            Ok(place) if self.base.is_x2apic() => Ok(Register(place)),
            _ => Err(GeneralProtection),
        }
    }

    fn read_x2apic(&mut self, register: Register, now: Time) -> Result<u64, GeneralProtection> {
        if let Some(value) = self.read_register(register, now) {
            return Ok(u64::from(value));
        }
        match register {
            Register::ID => Ok(u64::from(self.config.id)),
            Register::LOGICAL_DESTINATION => Ok(u64::from(x2apic_logical(self.config.id))),
            Register::COMMAND => Ok(self.command.into_bits()),
            _ => Err(GeneralProtection),
        }
    }

    fn write_x2apic(
        &mut self,
        register: Register,
        value: u64,
        now: Time,
    ) -> Result<Effect, GeneralProtection> {
        let allowed = self.x2apic_allowed(register).ok_or(GeneralProtection)?;
        if value & !allowed != 0 {
            return Err(GeneralProtection);
        }
        let [b0, b1, b2, b3, ..] = value.to_le_bytes();
        match register {
            Register::COMMAND => {
                let writable = u64::from(u32::MAX) << 32 | u64::from(Command::WRITABLE_LOW);
                self.command = Command::from_bits(value & writable);
                Ok(self.send_command())
            }
            Register::SELF_IPI => {
                self.send_to_self(b0);
                Ok(Effect::None)
            }
            _ => self
                .write_register(register, u32::from_le_bytes([b0, b1, b2, b3]), now)
                .ok_or(GeneralProtection),
        }
    }

    /// Returns the bits that may be set in a write to a register, `None` if it cannot be written.
    fn x2apic_allowed(&self, register: Register) -> Option<u64> {
        if let Some(place) = register.place_in(Register::LVT, 6) {
            let has_tsc_deadline = self.config.features.tsc_deadline;
            return Some(u64::from(LocalVector::allowed(place, has_tsc_deadline)));
        }
        Some(match register {
            Register::TASK_PRIORITY | Register::SELF_IPI => 0xFF,
            Register::END_OF_INTERRUPT | Register::ERROR_STATUS => 0,
            Register::SPURIOUS => u64::from(self.spurious_writable()),
            Register::COMMAND => u64::from(u32::MAX) << 32 | u64::from(Command::ALLOWED_LOW),
            Register::INITIAL_COUNT => u64::from(u32::MAX),
            Register::DIVIDE => u64::from(DIVIDE_WRITABLE),
            _ => return None,
        })
    }
}
