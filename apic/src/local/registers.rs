//! Registers of the local APIC (SDM 10.4 to 10.12, APM vol. 2, 16.3 to 16.10).

use bitfield_struct::bitfield;

/// A register's place: its offset in the xAPIC page divided by 16, which is also its x2APIC MSR less 0x800 (SDM table 10-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Register(pub(super) u8);

impl Register {
    pub(super) const ID: Self = Self(0x02);
    pub(super) const VERSION: Self = Self(0x03);
    pub(super) const TASK_PRIORITY: Self = Self(0x08);
    pub(super) const ARBITRATION_PRIORITY: Self = Self(0x09);
    pub(super) const PROCESSOR_PRIORITY: Self = Self(0x0A);
    pub(super) const END_OF_INTERRUPT: Self = Self(0x0B);
    pub(super) const REMOTE_READ: Self = Self(0x0C);
    pub(super) const LOGICAL_DESTINATION: Self = Self(0x0D);
    pub(super) const DESTINATION_FORMAT: Self = Self(0x0E);
    pub(super) const SPURIOUS: Self = Self(0x0F);
    pub(super) const IN_SERVICE: Self = Self(0x10);
    pub(super) const TRIGGER_MODE: Self = Self(0x18);
    pub(super) const REQUEST: Self = Self(0x20);
    pub(super) const ERROR_STATUS: Self = Self(0x28);
    pub(super) const COMMAND: Self = Self(0x30);
    pub(super) const COMMAND_HIGH: Self = Self(0x31);
    pub(super) const LVT: Self = Self(0x32);
    pub(super) const INITIAL_COUNT: Self = Self(0x38);
    pub(super) const CURRENT_COUNT: Self = Self(0x39);
    pub(super) const DIVIDE: Self = Self(0x3E);
    pub(super) const SELF_IPI: Self = Self(0x3F);

    /// Returns this register's place in a group of eight (or six, for the LVT) that starts at `first`.
    pub(super) fn place_in(self, first: Self, count: u8) -> Option<usize> {
        let place = self.0.checked_sub(first.0)?;
        (place < count).then_some(usize::from(place))
    }
}

/// IA32_APIC_BASE, MSR 0x1B (SDM 10.4.4 and 10.12.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Base {
    __reserved_low: u8,
    pub(super) is_bootstrap: bool,
    __reserved: bool,
    pub(super) is_x2apic: bool,
    pub(super) is_enabled: bool,
    #[bits(52)]
    pub(super) frame: u64,
}

/// Spurious interrupt vector register (SDM 10.9).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Spurious {
    pub(super) vector: u8,
    pub(super) is_enabled: bool,
    pub(super) no_focus_check: bool,
    #[bits(2)]
    __reserved: u8,
    pub(super) suppresses_eoi_broadcast: bool,
    #[bits(19)]
    __reserved_high: u32,
}

/// Error status register (SDM 10.5.3). The checksum and accept errors belong to the serial APIC bus and never arise.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Errors {
    #[bits(5)]
    __reserved: u8,
    pub(super) sent_illegal_vector: bool,
    pub(super) received_illegal_vector: bool,
    pub(super) illegal_register: bool,
    #[bits(24)]
    __reserved_high: u32,
}

/// Interrupt command register (SDM 10.6.1 and 10.12.9).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Command {
    pub(super) vector: u8,
    #[bits(3)]
    pub(super) delivery: u8,
    pub(super) is_logical: bool,
    __is_busy: bool,
    __reserved: bool,
    pub(super) is_asserted: bool,
    pub(super) is_level: bool,
    #[bits(2)]
    __remote_read: u8,
    #[bits(2)]
    pub(super) shorthand: u8,
    #[bits(12)]
    __reserved_high: u16,
    pub(super) destination: u32,
}

impl Command {
    pub(super) const TO_DESTINATION: u8 = 0;
    pub(super) const TO_SELF: u8 = 1;
    pub(super) const TO_ALL: u8 = 2;

    /// The bits of the low half that a write changes.
    pub(super) const WRITABLE_LOW: u32 = 0x000C_CFFF;
    /// The bits of the low half that an x2APIC write may have set: the busy bit is ignored, the others reserved.
    pub(super) const ALLOWED_LOW: u32 = Self::WRITABLE_LOW | 1 << 12;
    /// The bits of the high half that an xAPIC write changes.
    pub(super) const WRITABLE_HIGH: u32 = 0xFF00_0000;
}

/// One register of the local vector table (SDM 10.5.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct LocalVector {
    pub(super) vector: u8,
    #[bits(3)]
    pub(super) delivery: u8,
    __reserved: bool,
    pub(super) is_busy: bool,
    pub(super) is_active_low: bool,
    pub(super) remote_irr: bool,
    pub(super) is_level: bool,
    pub(super) is_masked: bool,
    #[bits(2)]
    pub(super) timer_mode: u8,
    #[bits(13)]
    __reserved_high: u16,
}

impl LocalVector {
    pub(super) const RESET: Self = Self::new().with_is_masked(true);

    const VECTOR: Self = Self::new().with_vector(0xFF).with_is_masked(true);
    const EVENT: Self = Self::VECTOR.with_delivery(7);
    const PIN: Self = Self::EVENT.with_is_active_low(true).with_is_level(true);
    /// Bits that only hardware changes; a write that sets them is not at fault.
    const READ_ONLY: Self = Self::new().with_is_busy(true).with_remote_irr(true);

    /// Returns the bits a guest can change in entry `place`.
    pub(super) fn writable(place: usize, has_tsc_deadline: bool) -> u32 {
        match place {
            lvt::TIMER if has_tsc_deadline => Self::VECTOR.with_timer_mode(3),
            lvt::TIMER => Self::VECTOR.with_timer_mode(1),
            lvt::THERMAL | lvt::PERFORMANCE => Self::EVENT,
            lvt::LINT0 | lvt::LINT1 => Self::PIN,
            _ => Self::VECTOR,
        }
        .into_bits()
    }

    /// Returns the bits that may be set in a write to entry `place` in x2APIC mode.
    pub(super) fn allowed(place: usize, has_tsc_deadline: bool) -> u32 {
        Self::writable(place, has_tsc_deadline) | Self::READ_ONLY.into_bits()
    }
}

/// Places in the local vector table.
pub(super) mod lvt {
    pub(in crate::local) const TIMER: usize = 0;
    pub(in crate::local) const THERMAL: usize = 1;
    pub(in crate::local) const PERFORMANCE: usize = 2;
    pub(in crate::local) const LINT0: usize = 3;
    pub(in crate::local) const LINT1: usize = 4;
    pub(in crate::local) const ERROR: usize = 5;
    pub(in crate::local) const COUNT: usize = 6;
}

/// The bits of the divide configuration register (SDM 10.5.4).
pub(super) const DIVIDE_WRITABLE: u32 = 0b1011;
/// The bits of the destination format register that are not hard-wired to one (SDM 10.6.2.2).
pub(super) const FORMAT_WRITABLE: u32 = 0xF000_0000;
/// The bits of the xAPIC logical destination register.
pub(super) const LOGICAL_WRITABLE: u32 = 0xFF00_0000;
