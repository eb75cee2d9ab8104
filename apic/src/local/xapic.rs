//! The register page of xAPIC mode (SDM 10.4.1).
//!
//! Registers are the first four bytes of each sixteen. Only aligned accesses of at least those four bytes are defined: a narrower
//! write is lost, a narrower read gives its part, the twelve bytes between read zero.

use stockade_bus::AccessError;

use super::address::Address;
use super::registers::{Command, Errors, FORMAT_WRITABLE, LOGICAL_WRITABLE, Register};
use super::{Effect, LocalApic, Time};

impl LocalApic {
    /// Reads `data.len()` bytes at `offset` in the page.
    pub fn read_mmio(
        &mut self,
        offset: u16,
        data: &mut [u8],
        now: Time,
    ) -> Result<(), AccessError> {
        let start = self.page_offset(offset, data.len())?;
        let mut slot = None;
        for (byte, at) in data.iter_mut().zip(start..) {
            let bytes = match slot {
                Some((register, bytes)) if register == at >> 4 => bytes,
                _ => {
                    let bytes = self.read_slot(at >> 4, now);
                    slot = Some((at >> 4, bytes));
                    bytes
                }
            };
            *byte = bytes.get(at & 0xF).copied().unwrap_or(0);
        }
        Ok(())
    }

    /// Writes `data` at `offset` in the page.
    pub fn write_mmio(
        &mut self,
        offset: u16,
        data: &[u8],
        now: Time,
    ) -> Result<Effect, AccessError> {
        let start = self.page_offset(offset, data.len())?;
        let Some(bytes) = data.first_chunk() else {
            return Ok(Effect::None);
        };
        if start & 0xF != 0 {
            return Ok(Effect::None);
        }
        let value = u32::from_le_bytes(*bytes);
        Ok(match u8::try_from(start >> 4) {
            Ok(register) => self.write_page(Register(register), value, now),
            Err(_) => self.refuse_register(),
        })
    }

    /// Returns where in the page an access starts, if there is a page that has all of it.
    fn page_offset(&self, offset: u16, len: usize) -> Result<usize, AccessError> {
        let start = usize::from(offset);
        if self.page().is_some() && start + len <= 0x1000 {
            Ok(start)
        } else {
            Err(AccessError::NoRegister)
        }
    }

    fn read_slot(&mut self, slot: usize, now: Time) -> [u8; 4] {
        let value = u8::try_from(slot)
            .ok()
            .and_then(|register| self.read_page(Register(register), now));
        if value.is_none() {
            let _: Effect = self.refuse_register();
        }
        value.unwrap_or(0).to_le_bytes()
    }

    fn read_page(&mut self, register: Register, now: Time) -> Option<u32> {
        if let Some(value) = self.read_register(register, now) {
            return Some(value);
        }
        Some(match register {
            Register::ID => self.config.id << 24,
            Register::ARBITRATION_PRIORITY => u32::from(self.arbitration_priority()),
            Register::END_OF_INTERRUPT | Register::REMOTE_READ => 0,
            Register::LOGICAL_DESTINATION => u32::from(self.logical) << 24,
            Register::DESTINATION_FORMAT => self.format | !FORMAT_WRITABLE,
            Register::COMMAND => low(self.command),
            Register::COMMAND_HIGH => self.command.destination(),
            _ => return None,
        })
    }

    fn write_page(&mut self, register: Register, value: u32, now: Time) -> Effect {
        if let Some(effect) = self.write_register(register, value, now) {
            return effect;
        }
        match register {
            Register::LOGICAL_DESTINATION => {
                [_, _, _, self.logical] = (value & LOGICAL_WRITABLE).to_le_bytes();
                Effect::AddressChanged
            }
            Register::DESTINATION_FORMAT => {
                self.format = value & FORMAT_WRITABLE;
                Effect::AddressChanged
            }
            Register::COMMAND => {
                let high = u64::from(self.command.destination()) << 32;
                self.command = Command::from_bits(high | u64::from(value & Command::WRITABLE_LOW));
                self.send_command()
            }
            Register::COMMAND_HIGH => {
                self.command.set_destination(value & Command::WRITABLE_HIGH);
                Effect::None
            }
            // Read-only registers take a write without a word.
            _ if self.read_page(register, now).is_some() => Effect::None,
            _ => self.refuse_register(),
        }
    }

    /// Returns the arbitration priority register (APM vol. 2, 16.6.5): the highest class of task priority, requests and service.
    fn arbitration_priority(&self) -> u8 {
        let requested = self.request.highest().unwrap_or(0) & 0xF0;
        let in_service = self.in_service.highest().unwrap_or(0) & 0xF0;
        let class = self.task_priority & 0xF0;
        if class >= requested && class > in_service {
            self.task_priority
        } else {
            requested.max(in_service).max(class)
        }
    }

    fn refuse_register(&mut self) -> Effect {
        self.log_error(Errors::new().with_illegal_register(true));
        Effect::None
    }
}

impl Address {
    /// Returns whether the APIC has a register page.
    #[must_use]
    pub const fn has_page(&self) -> bool {
        self.is_enabled && !self.is_x2apic
    }
}

/// Returns the low half of the command register.
fn low(command: Command) -> u32 {
    let [b0, b1, b2, b3, ..] = command.into_bits().to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}
