//! The two chipset functions every Q35 has (Intel 316966 Q35 MCH and 316972 ICH9 data sheets), after power-on or as firmware leaves them.
//!
//! Two registers place something: PCIEXBAR the memory-mapped configuration space, PMBASE the power-management ports. There is
//! no SMM: SMRAM is locked and closed. The memory below 1 MiB is RAM whatever the PAM registers say, with a copy of the firmware where a
//! PC would show its ROM, so firmware that copies ROM to RAM finds done what it asks for.

use core::ops::Range;

use super::{BusDeviceFunction, ConfigSpace};

/// The memory controller hub.
pub const HOST_BRIDGE: BusDeviceFunction = BusDeviceFunction::new_truncate(0, 0, 0);
/// The LPC interface bridge.
pub const LPC_BRIDGE: BusDeviceFunction = BusDeviceFunction::new_truncate(0, 0x1F, 0);
/// Where the ECAM window starts when firmware has set it up.
pub const ECAM_BASE: u64 = 0xB000_0000;
/// Where the power-management ports start when firmware has set them up.
pub const PM_BASE: u16 = 0x600;

/// How the chipset is found by who starts with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// As firmware leaves it to an operating system.
    #[default]
    SetUp,
    /// As it is after power-on.
    PowerOn,
}

/// PCIEXBAR: enable, length, and the address bits of the largest window (MCH data sheet, 5.1.15).
const PCIEXBAR: u8 = 0x60;
const PCIEXBAR_ENABLE: u64 = 1;
const PCIEXBAR_WRITABLE: u64 = 0xF_FC00_0007;
const PCIEXBAR_ADDRESS: u64 = 0xF_F000_0000;
/// Address bits that count besides in the shorter windows.
const PCIEXBAR_ADDRESS_128: u64 = 1 << 27;
const PCIEXBAR_ADDRESS_64: u64 = 1 << 26 | PCIEXBAR_ADDRESS_128;
/// PAM0 to PAM6.
const PAM: u8 = 0x90;
/// SMRAM: the base segment, locked (5.1.19), and ESMRAMC: caches off, no TSEG.
const SMRAM: u8 = 0x9D;
const SMRAM_LOCKED: [u8; 2] = [0x12, 0x38];

/// PMBASE and its constant I/O bit, ACPI_CNTL and its enable bit (ICH9 data sheet, 13.1.13 and 13.1.14).
const PMBASE: u8 = 0x40;
const PMBASE_IS_IO: u16 = 1;
const PMBASE_ADDRESS: u16 = 0xFF80;
const ACPI_CONTROL: u8 = 0x44;
const ACPI_ENABLE: u8 = 0x80;
/// RCBA (13.1.35). Nothing is behind it.
const RCBA: u8 = 0xF0;
const RCBA_WRITABLE: u32 = 0xFFFF_C001;

/// 82G33/Q35 MCH, 8086:29C0.
pub(super) fn host_bridge(condition: Condition) -> ConfigSpace {
    let mut bridge = ConfigSpace::new(0x8086, 0x29C0, [0, 0, 6], 2);
    bridge.set(0x04, &[0x06, 0, 0x90, 0x20]);
    if condition == Condition::SetUp {
        bridge.set(PCIEXBAR, &(ECAM_BASE | PCIEXBAR_ENABLE).to_le_bytes());
    }
    bridge.set_writable(PCIEXBAR, &PCIEXBAR_WRITABLE.to_le_bytes());
    bridge.set_writable(PAM, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
    bridge.set(SMRAM, &SMRAM_LOCKED);
    bridge
}

/// Returns where configuration space is mapped, if it is.
pub(super) fn ecam(host_bridge: &ConfigSpace) -> Option<Range<u64>> {
    let low = u64::from(host_bridge.dword(PCIEXBAR));
    let register = u64::from(host_bridge.dword(PCIEXBAR + 4)) << 32 | low;
    if register & PCIEXBAR_ENABLE == 0 {
        return None;
    }
    let (mask, size) = match register >> 1 & 3 {
        0 => (PCIEXBAR_ADDRESS, 256 << 20),
        1 => (PCIEXBAR_ADDRESS | PCIEXBAR_ADDRESS_128, 128 << 20),
        2 => (PCIEXBAR_ADDRESS | PCIEXBAR_ADDRESS_64, 64 << 20),
        _ => return None,
    };
    let base = register & mask;
    Some(base..base + size)
}

/// 82801IB (ICH9) LPC, 8086:2918.
pub(super) fn lpc_bridge(condition: Condition) -> ConfigSpace {
    let mut bridge = ConfigSpace::new(0x8086, 0x2918, [0, 1, 6], 2);
    bridge.set(0x04, &[0x07, 0, 0x00, 0x02]);
    bridge.set(0x0E, &[0x80]);
    bridge.set(PMBASE, &PMBASE_IS_IO.to_le_bytes());
    if condition == Condition::SetUp {
        bridge.set(PMBASE, &(PM_BASE | PMBASE_IS_IO).to_le_bytes());
        bridge.set(ACPI_CONTROL, &[ACPI_ENABLE]);
    }
    bridge.set_writable(PMBASE, &PMBASE_ADDRESS.to_le_bytes());
    // The SCI is interrupt 9 and stays there.
    bridge.set_writable(ACPI_CONTROL, &[ACPI_ENABLE]);
    bridge.set_writable(RCBA, &RCBA_WRITABLE.to_le_bytes());
    // PIRQA to PIRQH, routed nowhere.
    bridge.set(0x60, &[0x80; 4]);
    bridge.set_writable(0x60, &[0x8F; 4]);
    bridge.set(0x68, &[0x80; 4]);
    bridge.set_writable(0x68, &[0x8F; 4]);
    bridge.set_writable(0x3C, &[0xFF]);
    bridge
}

/// Returns where the power-management ports begin, if they answer.
pub(super) fn pm_base(lpc_bridge: &ConfigSpace) -> Option<u16> {
    let is_enabled = lpc_bridge.byte(ACPI_CONTROL) & ACPI_ENABLE != 0;
    is_enabled.then(|| lpc_bridge.word(PMBASE) & PMBASE_ADDRESS)
}

#[cfg(test)]
mod tests {
    use stockade_bus::PciConfig;

    use super::*;

    #[test]
    fn configuration_space_is_where_firmware_puts_it() {
        let mut bridge = host_bridge(Condition::PowerOn);
        assert_eq!(ecam(&bridge), None);
        let mut put = |high: u32, low: u32| {
            bridge.config_write(0x64, high, u32::MAX);
            bridge.config_write(0x60, low, u32::MAX);
            ecam(&bridge)
        };
        assert_eq!(put(0, 0xB000_0001), Some(0xB000_0000..0xC000_0000));
        assert_eq!(put(0, 0xE800_0003), Some(0xE800_0000..0xF000_0000));
        assert_eq!(put(0, 0xE400_0005), Some(0xE400_0000..0xE800_0000));
        assert_eq!(
            put(0xFFFF_FFFF, 0xF000_0001),
            Some(0xF_F000_0000..0x10_0000_0000)
        );
        assert_eq!(put(0, 0xB000_0000), None);
        assert_eq!(put(0, 0xB000_0007), None, "a length that means nothing");
        let set_up = host_bridge(Condition::SetUp);
        assert_eq!(ecam(&set_up), Some(ECAM_BASE..ECAM_BASE + (256 << 20)));
    }

    #[test]
    fn power_management_answers_where_and_when_firmware_says() {
        let mut bridge = lpc_bridge(Condition::PowerOn);
        assert_eq!(bridge.config_read(0x40), 1);
        assert_eq!(pm_base(&bridge), None);
        bridge.config_write(0x40, 0xFFFF_0600, u32::MAX);
        assert_eq!(bridge.config_read(0x40), 0x601);
        bridge.config_write(0x44, 0xFF, 0xFF);
        assert_eq!(bridge.config_read(0x44), 0x80);
        assert_eq!(pm_base(&bridge), Some(0x600));
        assert_eq!(pm_base(&lpc_bridge(Condition::SetUp)), Some(PM_BASE));
    }

    /// Firmware asks for each part of the memory below 1 MiB to be RAM, and reads back whether it is; beyond the parts there are no bits.
    #[test]
    fn the_ram_firmware_opens_below_1_mib_reads_back_as_open() {
        let mut bridge = host_bridge(Condition::PowerOn);
        assert_eq!(bridge.config_read(0x90), 0);
        bridge.config_write(0x90, u32::MAX, u32::MAX);
        bridge.config_write(0x94, u32::MAX, u32::MAX);
        assert_eq!(bridge.config_read(0x90), 0x3333_3330);
        assert_eq!(bridge.config_read(0x94), 0x0033_3333);
        bridge.config_write(0x90, 0x1000_0000, 0xFF00_0000);
        assert_eq!(bridge.config_read(0x90), 0x1033_3330);
    }

    /// What firmware writes of the root complex's base is kept: base and enable bit (ICH9 data sheet, 13.1.35).
    #[test]
    fn the_root_complexs_base_is_kept_as_firmware_writes_it() {
        let mut bridge = lpc_bridge(Condition::PowerOn);
        assert_eq!(bridge.config_read(0xF0), 0);
        bridge.config_write(0xF0, 0xFED1_C001, u32::MAX);
        assert_eq!(bridge.config_read(0xF0), 0xFED1_C001);
        bridge.config_write(0xF0, u32::MAX, u32::MAX);
        assert_eq!(bridge.config_read(0xF0), 0xFFFF_C001);
    }

    /// Firmware built for SMM must see at once that there is none.
    #[test]
    fn smram_is_locked_and_closed() {
        for condition in [Condition::PowerOn, Condition::SetUp] {
            let mut bridge = host_bridge(condition);
            bridge.config_write(0x9C, u32::MAX, u32::MAX);
            assert_eq!(bridge.config_read(0x9C), 0x0038_1200);
        }
    }
}
