//! ACPI fixed hardware of the ICH9 (ACPI 6.5, 4.8; Intel 316972 ICH9 data sheet, 13.8): PM1 event and control blocks, the
//! power-management timer, GPE0 and SMI enable, as one block of 0x34 ports at PMBASE.
//!
//! The timer is the port stock firmware reads most; it is answered before anything else is looked at.

use bitflags::bitflags;
use stockade_bus::{AccessError, Clock, Deadline, IrqLine, Level, Nanoseconds, PortIo};

use crate::RestoreError;
use crate::state::check_version;

/// The power-management timer's frequency (ACPI 6.5, 4.8.3.3).
pub const TIMER_HZ: u64 = 3_579_545;
/// Ports the block takes.
pub const PORTS: u16 = 0x80;

const PM1_STATUS: u16 = 0x00;
const PM1_ENABLE: u16 = 0x02;
const PM1_CONTROL: u16 = 0x04;
const TIMER: u16 = 0x08;
const GPE0_STATUS: u16 = 0x20;
const GPE0_ENABLE: u16 = 0x28;
const SMI_ENABLE: u16 = 0x30;

/// Sleep type of S5 in our DSDT's `\_S5` package.
pub const SLEEP_TYPE_S5: u16 = 0;
const CONTROL_SLEEP_TYPE: u16 = 0x1C00;
const CONTROL_SLEEP_ENABLE: u16 = 0x2000;
/// SCI_EN: we start in ACPI mode and stay there.
const CONTROL_SCI_ENABLE: u16 = 0x0001;
const CONTROL_STORED: u16 = CONTROL_SLEEP_TYPE | CONTROL_SCI_ENABLE | 0x0002;

bitflags! {
    /// PM1 status and enable (ACPI 6.5, tables 4.13 and 4.14).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Pm1: u16 {
        const TIMER = 1 << 0;
        const GLOBAL_LOCK = 1 << 5;
        const POWER_BUTTON = 1 << 8;
        const RTC = 1 << 10;
        const WAKE = 1 << 15;
    }
}

/// Half the period of the timer's top bit, which is bit 31 (FADT flag TMR_VAL_EXT).
const TIMER_HALF: u64 = 1 << 31;

/// The PM block at PMBASE.
#[derive(Debug)]
pub struct Power<L, C> {
    sci: L,
    clock: C,

    status: Pm1,
    enable: Pm1,
    control: u16,
    gpe_status: u64,
    gpe_enable: u64,
    smi_enable: u32,

    is_off: bool,
    seen_ns: Nanoseconds,
}

/// Returns how often the timer has ticked by `ns`, without a division of 128 bits: it is the port stock firmware reads most.
const fn ticks(ns: Nanoseconds) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    ns / SECOND * TIMER_HZ + ns % SECOND * TIMER_HZ / SECOND
}

/// Returns what the timer reads at `ns`. It depends on nothing else, so it can be answered without the block.
#[must_use]
pub const fn timer_at(ns: Nanoseconds) -> u32 {
    let [a, b, c, d, ..] = ticks(ns).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl<L: IrqLine, C: Clock> Power<L, C> {
    /// Returns the block after power-on, in ACPI mode, its interrupt wired to `sci`.
    pub fn new(sci: L, clock: C) -> Self {
        let seen_ns = clock.now_ns();
        Self {
            sci,
            clock,
            status: Pm1::empty(),
            enable: Pm1::empty(),
            control: CONTROL_SCI_ENABLE,
            gpe_status: 0,
            gpe_enable: 0,
            smi_enable: 0,
            is_off: false,
            seen_ns,
        }
    }

    /// Puts the block back to power-on.
    pub fn reset(&mut self) {
        let Self {
            sci: _,
            clock,
            status,
            enable,
            control,
            gpe_status,
            gpe_enable,
            smi_enable,
            is_off,
            seen_ns,
        } = self;
        (*status, *enable) = (Pm1::empty(), Pm1::empty());
        *control = CONTROL_SCI_ENABLE;
        (*gpe_status, *gpe_enable, *smi_enable) = (0, 0, 0);
        *is_off = false;
        *seen_ns = clock.now_ns();
        self.update_irq();
    }

    /// Returns whether the guest switched itself off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.is_off
    }

    /// Presses the power button: the guest gets an SCI and is expected to shut down.
    pub fn press_power_button(&mut self) {
        self.status |= Pm1::POWER_BUTTON;
        self.update_irq();
    }

    /// Returns when the timer's top bit next toggles, while anybody wants to know.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        if !self.enable.contains(Pm1::TIMER) || self.status.contains(Pm1::TIMER) {
            return None;
        }
        let toggle = u128::from((ticks(self.seen_ns) / TIMER_HALF + 1) * TIMER_HALF);
        u64::try_from((toggle * 1_000_000_000).div_ceil(u128::from(TIMER_HZ))).ok()
    }

    /// Follows the timer's top bit since the last look.
    pub fn advance(&mut self) {
        let now = self.clock.now_ns();
        let from = core::mem::replace(&mut self.seen_ns, now);
        if ticks(from) / TIMER_HALF != ticks(now) / TIMER_HALF {
            self.status |= Pm1::TIMER;
            self.update_irq();
        }
    }

    fn update_irq(&self) {
        let fixed = !(self.status & self.enable & !Pm1::WAKE).is_empty();
        let general = self.gpe_status & self.gpe_enable != 0;
        let in_acpi_mode = self.control & CONTROL_SCI_ENABLE != 0;
        self.sci
            .set(Level::from(in_acpi_mode && (fixed || general)));
    }

    /// The block as bytes: every register is one to eight of them.
    fn byte(&self, offset: u16) -> u8 {
        let pick = |value: u64, base: u16| value.to_le_bytes()[usize::from(offset - base)];
        match offset {
            PM1_STATUS..PM1_ENABLE => pick(u64::from(self.status.bits()), PM1_STATUS),
            PM1_ENABLE..PM1_CONTROL => pick(u64::from(self.enable.bits()), PM1_ENABLE),
            PM1_CONTROL..0x06 => pick(u64::from(self.control), PM1_CONTROL),
            TIMER..0x0C => pick(u64::from(self.timer()), TIMER),
            GPE0_STATUS..GPE0_ENABLE => pick(self.gpe_status, GPE0_STATUS),
            GPE0_ENABLE..SMI_ENABLE => pick(self.gpe_enable, GPE0_ENABLE),
            SMI_ENABLE..0x34 => pick(u64::from(self.smi_enable), SMI_ENABLE),
            _ => 0,
        }
    }

    fn set_byte(&mut self, offset: u16, value: u8) {
        let place = |base: u16| {
            (
                u64::from(value) << (8 * (offset - base)),
                0xFF_u64 << (8 * (offset - base)),
            )
        };
        let narrow = |word: u64| u16::try_from(word & 0xFFFF).unwrap_or(0);
        match offset {
            // Status bits are cleared by writing ones.
            PM1_STATUS..PM1_ENABLE => {
                self.status &= !Pm1::from_bits_truncate(narrow(place(PM1_STATUS).0));
            }
            PM1_ENABLE..PM1_CONTROL => {
                let (bits, mask) = place(PM1_ENABLE);
                let kept = self.enable.bits() & !narrow(mask);
                self.enable = Pm1::from_bits_truncate(kept | narrow(bits));
            }
            PM1_CONTROL..0x06 => {
                let (bits, mask) = place(PM1_CONTROL);
                self.write_control((self.control & !narrow(mask)) | narrow(bits));
            }
            GPE0_STATUS..GPE0_ENABLE => self.gpe_status &= !place(GPE0_STATUS).0,
            GPE0_ENABLE..SMI_ENABLE => {
                let (bits, mask) = place(GPE0_ENABLE);
                self.gpe_enable = (self.gpe_enable & !mask) | bits;
            }
            SMI_ENABLE..0x34 => {
                let (bits, mask) = place(SMI_ENABLE);
                let word = (u64::from(self.smi_enable) & !mask) | bits;
                self.smi_enable = u32::try_from(word).unwrap_or(0);
            }
            _ => {}
        }
    }

    fn write_control(&mut self, value: u16) {
        self.control = value & CONTROL_STORED;
        let sleep_type = (value & CONTROL_SLEEP_TYPE) >> 10;
        if value & CONTROL_SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_S5 {
            self.is_off = true;
        }
    }

    fn timer(&self) -> u32 {
        timer_at(self.clock.now_ns())
    }
}

impl<L: IrqLine, C: Clock> PortIo for Power<L, C> {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        if offset == TIMER && data.len() == 4 {
            data.copy_from_slice(&self.timer().to_le_bytes());
            return Ok(());
        }
        if offset >= PORTS {
            return Err(AccessError::NoRegister);
        }
        self.advance();
        for (at, byte) in (offset..).zip(data.iter_mut()) {
            *byte = self.byte(at);
        }
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        if offset >= PORTS {
            return Err(AccessError::NoRegister);
        }
        self.advance();
        // A word to PM1 control acts once, with all its bits.
        if let (PM1_CONTROL, &[low, high]) = (offset, data) {
            self.write_control(u16::from_le_bytes([low, high]));
        } else {
            for (at, byte) in (offset..).zip(data) {
                self.set_byte(at, *byte);
            }
        }
        self.update_irq();
        Ok(())
    }
}

/// The block's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerState {
    /// Format version: 1.
    pub version: u32,
    /// PM1 status, enable and control.
    pub pm1: [u16; 3],
    /// GPE0 status and enable.
    pub gpe: [u64; 2],
    /// SMI enable.
    pub smi_enable: u32,
    /// The guest switched itself off.
    pub is_off: bool,
}

impl<L: IrqLine, C: Clock> Power<L, C> {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> PowerState {
        let Self {
            sci: _,
            clock: _,
            status,
            enable,
            control,
            gpe_status,
            gpe_enable,
            smi_enable,
            is_off,
            seen_ns: _,
        } = self;
        PowerState {
            version: 1,
            pm1: [status.bits(), enable.bits(), *control],
            gpe: [*gpe_status, *gpe_enable],
            smi_enable: *smi_enable,
            is_off: *is_off,
        }
    }

    /// Takes a saved state and drives the wire accordingly.
    pub fn restore(&mut self, state: &PowerState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        let [status, enable, control] = state.pm1;
        let impossible = RestoreError::Impossible("PM1 registers");
        if control & !CONTROL_STORED != 0 {
            return Err(impossible);
        }
        self.status = Pm1::from_bits(status).ok_or(impossible)?;
        self.enable = Pm1::from_bits(enable).ok_or(impossible)?;
        self.control = control;
        [self.gpe_status, self.gpe_enable] = state.gpe;
        self.smi_enable = state.smi_enable;
        self.is_off = state.is_off;
        self.seen_ns = self.clock.now_ns();
        self.update_irq();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use stockade_bus::fake::{FakeClock, FakeIrqLine};
    use stockade_bus::{Level, PortIo};

    use super::{Power, TIMER_HALF, ticks};

    type TestPower<'a> = Power<&'a FakeIrqLine, &'a FakeClock>;

    fn read16(power: &mut TestPower<'_>, offset: u16) -> u16 {
        let mut word = [0; 2];
        power.port_read(offset, &mut word).unwrap();
        u16::from_le_bytes(word)
    }

    fn write16(power: &mut TestPower<'_>, offset: u16, value: u16) {
        power.port_write(offset, &value.to_le_bytes()).unwrap();
    }

    #[test]
    fn timer_counts_at_3_579545_mhz() {
        let (sci, clock) = (FakeIrqLine::default(), FakeClock::default());
        let mut power = Power::new(&sci, &clock);
        clock.advance(1_000_000_000);
        let mut word = [0; 4];
        power.port_read(8, &mut word).unwrap();
        assert_eq!(u32::from_le_bytes(word), 3_579_545);
    }

    #[test]
    fn sleep_enable_with_s5_type_switches_off() {
        let (sci, clock) = (FakeIrqLine::default(), FakeClock::default());
        let mut power = Power::new(&sci, &clock);
        write16(&mut power, 4, 0x0001);
        assert!(!power.is_off());
        write16(&mut power, 4, 0x2001);
        assert!(power.is_off());
        assert_eq!(read16(&mut power, 4), 1);
    }

    #[test]
    fn power_button_raises_sci_until_status_is_cleared() {
        let (sci, clock) = (FakeIrqLine::default(), FakeClock::default());
        let mut power = Power::new(&sci, &clock);
        power.press_power_button();
        assert_eq!(sci.level(), Level::Low);
        write16(&mut power, 2, 0x0100);
        assert_eq!(sci.level(), Level::High);
        write16(&mut power, 0, 0x0100);
        assert_eq!(sci.level(), Level::Low);
    }

    #[test]
    fn timer_toggle_sets_status_at_its_deadline() {
        let (sci, clock) = (FakeIrqLine::default(), FakeClock::default());
        let mut power = Power::new(&sci, &clock);
        write16(&mut power, 2, 0x0001);
        let deadline = power.deadline().unwrap();
        assert_eq!(ticks(deadline), TIMER_HALF);
        clock.advance(deadline - 1);
        power.advance();
        assert_eq!(sci.level(), Level::Low);
        clock.advance(1);
        power.advance();
        assert_eq!(sci.level(), Level::High);
        assert_eq!(power.deadline(), None);
    }

    #[test]
    fn gpe_block_is_write_one_to_clear_and_byte_wide() {
        let (sci, clock) = (FakeIrqLine::default(), FakeClock::default());
        let mut power = Power::new(&sci, &clock);
        power.port_write(0x29, &[0x5A]).unwrap();
        let mut byte = [0];
        power.port_read(0x29, &mut byte).unwrap();
        assert_eq!(byte, [0x5A]);
        power.port_write(0x20, &[0xFF]).unwrap();
        power.port_read(0x20, &mut byte).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn restored_block_equals_the_saved_one() {
        let (sci, clock) = (FakeIrqLine::default(), FakeClock::default());
        let mut saved = Power::new(&sci, &clock);
        write16(&mut saved, 2, 0x0120);
        saved.press_power_button();
        let (sci_b, clock_b) = (FakeIrqLine::default(), FakeClock::default());
        let mut restored = Power::new(&sci_b, &clock_b);
        restored.restore(&saved.save()).unwrap();
        assert_eq!(restored.save(), saved.save());
        assert_eq!(sci_b.level(), Level::High);
        let mut unknown = saved.save();
        unknown.version = 2;
        assert!(restored.restore(&unknown).is_err());
    }
}
