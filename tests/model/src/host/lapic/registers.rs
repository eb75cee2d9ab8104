//! The APIC's registers as MSRs (APM vol. 2, 16.11, table 16-7) and, for the xAPIC, as double words of its page (table 16-2).

use super::{Effect, GeneralProtection, Ipi, LocalApic, Shorthand};

/// MSR 1B: APIC base.
const APIC_BASE: u32 = 0x1B;
/// MSR 6E0: TSC deadline.
const TSC_DEADLINE: u32 = 0x6E0;
/// First x2APIC MSR; the register at offset `n * 16` of the xAPIC page is `0x800 + n`.
const FIRST: u32 = 0x800;
const LAST: u32 = 0x83F;

pub(super) const BASE_ADDRESS: u64 = 0xFEE0_0000;
pub(super) const BASE_BOOTSTRAP: u64 = 1 << 8;
pub(super) const BASE_X2APIC: u64 = 1 << 10;
pub(super) const BASE_ENABLE: u64 = 1 << 11;

pub(super) const SPURIOUS_ENABLE: u32 = 1 << 8;

/// LVT entries by their register: timer 0x32, thermal, counter, LINT0, LINT1, error 0x37.
pub(super) const LOCAL_VECTORS: usize = 6;
pub(super) const LVT_TIMER: usize = 0;
pub(super) const LVT_ERROR: usize = 5;
pub(super) const LVT_MASKED: u32 = 1 << 16;

const ERROR_SEND_VECTOR: u32 = 1 << 5;
pub(super) const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;

/// Version 0x14, highest LVT entry 5.
const VERSION: u32 = 0x0005_0014;

impl LocalApic {
    /// Whether this MSR is one of the APIC's: a host sends it here.
    #[must_use]
    pub const fn has_msr(msr: u32) -> bool {
        matches!(msr, APIC_BASE | TSC_DEADLINE | FIRST..=LAST)
    }

    /// RDMSR.
    pub fn read_msr(&self, msr: u32, now_tsc: u64) -> Result<u64, GeneralProtection> {
        match msr {
            APIC_BASE => Ok(self.base),
            TSC_DEADLINE => Ok(self.timer.tsc_deadline(self.local_vectors[LVT_TIMER])),
            FIRST..=LAST if self.is_x2apic() => self.read_x2apic(msr - FIRST, now_tsc),
            _ => Err(GeneralProtection),
        }
    }

    /// WRMSR.
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now_tsc: u64,
    ) -> Result<Effect, GeneralProtection> {
        match msr {
            APIC_BASE => self.write_base(value),
            TSC_DEADLINE => {
                self.timer
                    .set_tsc_deadline(self.local_vectors[LVT_TIMER], value);
                Ok(Effect::None)
            }
            FIRST..=LAST if self.is_x2apic() => self.write_x2apic(msr - FIRST, value, now_tsc),
            _ => Err(GeneralProtection),
        }
    }

    /// Reads a double word of the xAPIC page; registers that are not there read 0.
    #[must_use]
    pub fn read_mmio(&self, offset: u64, now_tsc: u64) -> u32 {
        let Some(register) = xapic_register(offset).filter(|_| !self.is_x2apic()) else {
            return u32::MAX;
        };
        match register {
            0x02 => self.id << 24,
            0x0D => self.logical_destination,
            0x0E => self.destination_format,
            0x30 => halves(self.interrupt_command).0,
            0x31 => halves(self.interrupt_command).1,
            _ => self.read_common(register, now_tsc).unwrap_or(0),
        }
    }

    /// Writes a double word of the xAPIC page; registers that are not there swallow it.
    pub fn write_mmio(&mut self, offset: u64, value: u32, now_tsc: u64) -> Effect {
        let Some(register) = xapic_register(offset).filter(|_| !self.is_x2apic()) else {
            return Effect::None;
        };
        match register {
            0x0B => return self.end_of_interrupt(),
            0x0D => self.logical_destination = value & 0xFF00_0000,
            0x0E => self.destination_format = value | 0x0FFF_FFFF,
            0x28 => self.latch_errors(),
            0x30 => {
                let (_, high) = halves(self.interrupt_command);
                self.interrupt_command = u64::from(high) << 32 | u64::from(value & !(1 << 12));
                return self.send(Ipi::from_xapic_icr(value, high));
            }
            0x31 => {
                let (low, _) = halves(self.interrupt_command);
                self.interrupt_command = u64::from(value) << 32 | u64::from(low);
            }
            _ => {
                let _ = self.write_common(register, value, now_tsc);
            }
        }
        Effect::None
    }

    fn read_x2apic(&self, register: u32, now_tsc: u64) -> Result<u64, GeneralProtection> {
        match register {
            0x02 => Ok(u64::from(self.id)),
            0x0D => Ok(u64::from(self.x2apic_logical_id())),
            0x30 => Ok(self.interrupt_command),
            _ => self
                .read_common(register, now_tsc)
                .map(u64::from)
                .ok_or(GeneralProtection),
        }
    }

    fn write_x2apic(
        &mut self,
        register: u32,
        value: u64,
        now_tsc: u64,
    ) -> Result<Effect, GeneralProtection> {
        if register == 0x30 {
            self.interrupt_command = value & !(1 << 12);
            return Ok(self.send(Ipi::from_icr(value)));
        }
        let value = u32::try_from(value).map_err(|_| GeneralProtection)?;
        match register {
            0x0B if value == 0 => return Ok(self.end_of_interrupt()),
            0x28 if value == 0 => self.latch_errors(),
            0x3F if value < 0x100 => {
                let own = u64::from(value) | 1 << 18 | 1 << 14;
                return Ok(self.send(Ipi::from_icr(own)));
            }
            _ => self.write_common(register, value, now_tsc)?,
        }
        Ok(Effect::None)
    }

    /// What both views share; `None` for what is not there or cannot be read.
    fn read_common(&self, register: u32, now_tsc: u64) -> Option<u32> {
        let index = usize::try_from(register & 7).ok()?;
        Some(match register {
            0x03 => VERSION,
            0x08 => u32::from(self.task_priority),
            0x0A => u32::from(self.processor_priority()),
            0x0F => self.spurious,
            0x10..=0x17 => self.in_service.word(index),
            0x18..=0x1F => self.level_triggered.word(index),
            0x20..=0x27 => self.requested.word(index),
            0x28 => self.error_status,
            0x32..=0x37 => self.local_vectors[local_vector(register)?],
            0x38 => self.timer.initial(),
            0x39 => self.timer.current(self.local_vectors[LVT_TIMER], now_tsc),
            0x3E => self.timer.divide(),
            _ => return None,
        })
    }

    fn write_common(
        &mut self,
        register: u32,
        value: u32,
        now_tsc: u64,
    ) -> Result<(), GeneralProtection> {
        match register {
            0x08 => self.task_priority = u8::try_from(value).map_err(|_| GeneralProtection)?,
            0x0F => self.write_spurious(value),
            0x32..=0x37 => self.write_local_vector(register, value),
            0x38 => self
                .timer
                .set_initial(self.local_vectors[LVT_TIMER], value, now_tsc),
            0x3E => self.timer.set_divide(value),
            _ => return Err(GeneralProtection),
        }
        Ok(())
    }

    /// Switching off masks every local vector (APM vol. 2, 16.4.7).
    fn write_spurious(&mut self, value: u32) {
        self.spurious = value & 0x3FF;
        if value & SPURIOUS_ENABLE == 0 {
            for entry in &mut self.local_vectors {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn write_local_vector(&mut self, register: u32, value: u32) {
        let Some(index) = local_vector(register) else {
            return;
        };
        let forced = if self.spurious & SPURIOUS_ENABLE == 0 {
            LVT_MASKED
        } else {
            0
        };
        let new = value & 0x0007_A7FF | forced;
        if index == LVT_TIMER {
            self.timer.entry_changed(self.local_vectors[index], new);
        }
        self.local_vectors[index] = new;
    }

    /// The legal mode changes (APM vol. 2, 16.9): off is not offered, x2APIC goes back to xAPIC as on a reset only.
    fn write_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        let known = BASE_ADDRESS | BASE_BOOTSTRAP | BASE_X2APIC | BASE_ENABLE;
        let leaves_x2apic = self.is_x2apic() && value & BASE_X2APIC == 0;
        if value & !known != 0
            || value & BASE_ENABLE == 0
            || value & BASE_ADDRESS != BASE_ADDRESS
            || leaves_x2apic
        {
            return Err(GeneralProtection);
        }
        self.base = value & !BASE_BOOTSTRAP | self.base & BASE_BOOTSTRAP;
        Ok(Effect::None)
    }

    /// A write of the error status makes what happened since readable.
    fn latch_errors(&mut self) {
        self.error_status = core::mem::take(&mut self.errors_since);
    }

    fn send(&mut self, ipi: Ipi) -> Effect {
        use super::DeliveryMode::{Fixed, LowestPriority};
        if matches!(ipi.mode, Fixed | LowestPriority) && ipi.vector < 16 {
            self.report_error(ERROR_SEND_VECTOR);
            return Effect::None;
        }
        if ipi.shorthand == Shorthand::Own && ipi.mode == Fixed {
            self.accept(&ipi);
            return Effect::None;
        }
        Effect::Ipi(ipi)
    }
}

fn local_vector(register: u32) -> Option<usize> {
    usize::try_from(register.checked_sub(0x32)?)
        .ok()
        .filter(|index| *index < LOCAL_VECTORS)
}

/// Registers stand at multiples of 16.
fn xapic_register(offset: u64) -> Option<u32> {
    u32::try_from(offset >> 4)
        .ok()
        .filter(|register| offset & 0xF == 0 && *register < 0x40)
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}
