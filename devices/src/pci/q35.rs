//! The two chipset functions every Q35 has (Intel 316966 Q35 MCH and 316972 ICH9 data sheets).

use super::{BusDeviceFunction, ConfigSpace};

/// The memory controller hub.
pub const HOST_BRIDGE: BusDeviceFunction = BusDeviceFunction::new_truncate(0, 0, 0);
/// The LPC interface bridge.
pub const LPC_BRIDGE: BusDeviceFunction = BusDeviceFunction::new_truncate(0, 0x1F, 0);
/// Where the ECAM window starts, as the host bridge says in PCIEXBAR.
pub const ECAM_BASE: u64 = 0xB000_0000;
/// Where the power-management ports start, as the LPC bridge says in PMBASE.
pub const PM_BASE: u16 = 0x600;

/// PCIEXBAR: enable, 256 MiB.
const PCIEXBAR_ENABLE: u64 = 1;

/// 82G33/Q35 MCH, 8086:29C0.
pub(super) fn host_bridge() -> ConfigSpace {
    let mut bridge = ConfigSpace::new(0x8086, 0x29C0, [0, 0, 6], 2);
    bridge.set(0x04, &[0x06, 0, 0x90, 0x20]);
    bridge.set(0x60, &(ECAM_BASE | PCIEXBAR_ENABLE).to_le_bytes());
    // PAM0 to PAM6, SMRAM: registers firmware writes; RAM is everywhere anyway and there is no SMM.
    bridge.set_writable(0x90, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
    bridge.set(0x9D, &[0x02, 0x38]);
    bridge
}

/// 82801IB (ICH9) LPC, 8086:2918.
pub(super) fn lpc_bridge() -> ConfigSpace {
    let mut bridge = ConfigSpace::new(0x8086, 0x2918, [0, 1, 6], 2);
    bridge.set(0x04, &[0x07, 0, 0x00, 0x02]);
    bridge.set(0x0E, &[0x80]);
    // PMBASE with its I/O bit, ACPI_CNTL enabled with SCI on IRQ 9.
    bridge.set(0x40, &u32::from(PM_BASE | 1).to_le_bytes());
    bridge.set(0x44, &[0x80]);
    // PIRQA to PIRQH, routed nowhere.
    bridge.set(0x60, &[0x80; 4]);
    bridge.set_writable(0x60, &[0x8F; 4]);
    bridge.set(0x68, &[0x80; 4]);
    bridge.set_writable(0x68, &[0x8F; 4]);
    bridge.set_writable(0x3C, &[0xFF]);
    bridge
}
