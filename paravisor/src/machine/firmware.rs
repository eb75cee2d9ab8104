//! What firmware of the guest's finds in its machine beyond a kernel's: the configuration device, the debug console, and the size of
//! memory in the clock's cells.

use stockade_boot::layout::HIGH_RAM_START;
use stockade_boot::ram::RamMap;
use stockade_bus::{AccessError, PortIo};
use stockade_devices::debug_console::{self, DebugConsole};
use stockade_devices::fw_cfg::{self, FwCfg};

use super::fittings::{FirmwareFittings, Memory};
use crate::screen::Surface;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The devices at ports.
pub(super) struct FirmwareDevices {
    fw_cfg: FwCfg<Memory>,
    debug: DebugConsole,
    surface: Option<Surface>,
}

impl FirmwareDevices {
    /// Returns the devices; `None` if the files make no sense.
    pub(super) fn try_new(fittings: &FirmwareFittings) -> Option<Self> {
        Some(Self {
            fw_cfg: fittings.device()?,
            debug: DebugConsole::new(),
            surface: fittings.surface.clone(),
        })
    }

    pub(super) fn reset(&mut self) {
        self.fw_cfg.reset();
        self.debug.reset();
        self.show();
    }

    /// Returns whether a port is theirs.
    pub(super) fn has(port: u16) -> bool {
        port == debug_console::PORT || Self::CONFIGURATION.contains(&port)
    }

    const CONFIGURATION: core::ops::Range<u16> =
        fw_cfg::FIRST_PORT..fw_cfg::FIRST_PORT + fw_cfg::PORTS;

    /// The wiring table of their ports.
    pub(super) fn with_port(
        &mut self,
        port: u16,
        access: impl FnOnce(&mut dyn PortIo, u16) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        if port != debug_console::PORT {
            let outcome = access(&mut self.fw_cfg, port.wrapping_sub(fw_cfg::FIRST_PORT));
            self.show();
            return outcome;
        }
        let outcome = access(&mut self.debug, 0);
        if let Some(line) = self.debug.take_line() {
            log::info!("firmware: {}", line.as_str());
        }
        outcome
    }
}

impl FirmwareDevices {
    /// Passes on what the guest wrote: the only file for that says what it shows.
    fn show(&mut self) {
        if let (Some(file), Some(surface)) = (self.fw_cfg.take_written(), &self.surface) {
            surface.set(file);
        }
    }
}

/// Returns what a BIOS leaves of the memory's size in the clock's cells: below 1 MiB, from there and from 16 MiB on below 4 GiB, and from
/// 4 GiB on.
pub(super) fn memory_cells(ram: &RamMap) -> [(u8, u8); 11] {
    const BASE_KIB: u16 = 640;
    const SIXTEEN: u64 = 16 * MIB;
    const UNIT: u64 = 64 * KIB;
    let kib = ram.low_end().saturating_sub(MIB) / KIB;
    let above = ram.low_end().saturating_sub(SIXTEEN) / UNIT;
    let high = (ram.high_end() - HIGH_RAM_START) / UNIT;
    let [base_low, base_high] = BASE_KIB.to_le_bytes();
    let [kib_low, kib_high] = word(kib).to_le_bytes();
    let [above_low, above_high] = word(above).to_le_bytes();
    let [high_0, high_1, high_2, ..] = high.to_le_bytes();
    [
        (0x15, base_low),
        (0x16, base_high),
        (0x17, kib_low),
        (0x18, kib_high),
        (0x30, kib_low),
        (0x31, kib_high),
        (0x34, above_low),
        (0x35, above_high),
        (0x5B, high_0),
        (0x5C, high_1),
        (0x5D, high_2),
    ]
}

/// As much as a word can say.
fn word(value: u64) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(bytes: u64) -> Vec<(u8, u8)> {
        let ram = RamMap::of_size(bytes).unwrap();
        memory_cells(&ram)
            .into_iter()
            .filter(|cell| cell.1 != 0)
            .collect()
    }

    use std::vec::Vec;

    #[test]
    fn small_memory_is_in_kib_and_in_units_above_16_mib() {
        let cells = cells(32 << 20);
        assert_eq!(
            cells,
            [
                (0x15, 0x80),
                (0x16, 2),
                (0x18, 0x7C),
                (0x31, 0x7C),
                (0x35, 1)
            ]
        );
    }

    #[test]
    fn memory_above_4_gib_has_cells_of_its_own() {
        let cells = cells(8 << 30);
        assert_eq!(
            cells[2..6],
            [(0x17, 0xFF), (0x18, 0xFF), (0x30, 0xFF), (0x31, 0xFF)]
        );
        // 2816 MiB below 4 GiB, 5376 MiB above.
        assert_eq!(cells[6..], [(0x35, 0xAF), (0x5C, 0x50), (0x5D, 1)]);
    }
}
