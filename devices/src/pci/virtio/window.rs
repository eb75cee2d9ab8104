//! The PCI configuration access capability: the register blocks for software that does not reach the BARs (Virtio 1.2, 4.1.4.9).
//!
//! The driver chooses BAR, offset and length (1, 2 or 4) in the capability; its data register is then a window to that place.

use stockade_bus::GuestMemory;

use super::VirtioPci;
use crate::pci::{Bar, PciFunction};
use crate::virtio::VirtioDevice;

/// Offsets from the start of the capability.
const BAR: u8 = 4;
const OFFSET: u8 = 8;
const LENGTH: u8 = 12;
const DATA: u8 = 16;

/// Returns whether the double word at `offset` of configuration space is the data register.
pub(super) fn is_data(capability: u8, offset: u16) -> bool {
    offset & !3 == u16::from(capability) + u16::from(DATA)
}

/// Where the driver looks.
struct Target {
    bar: Bar,
    offset: u64,
    len: usize,
}

impl<D: VirtioDevice, M: GuestMemory> VirtioPci<D, M> {
    fn target(&self) -> Option<Target> {
        let offset = self.endpoint.dword(self.window + OFFSET);
        let (len, mask) = match self.endpoint.dword(self.window + LENGTH) {
            1 => (1, 0),
            2 => (2, 1),
            4 => (4, 3),
            _ => return None,
        };
        (offset & mask == 0).then_some(Target {
            bar: Bar::try_new(self.endpoint.byte(self.window + BAR))?,
            offset: offset.into(),
            len,
        })
    }

    pub(super) fn read_through_window(&mut self) -> u32 {
        let mut data = [0; 4];
        if let Some(Target { bar, offset, len }) = self.target()
            && self.bar_read(bar, offset, &mut data[..len]).is_err()
        {
            data = [0xFF; 4];
        }
        u32::from_le_bytes(data)
    }

    pub(super) fn write_through_window(&mut self, value: u32, mask: u32) {
        // Only a write to the register's start carries the data; the rest of it may be left out.
        if mask & 0xFF == 0 {
            return;
        }
        if let Some(Target { bar, offset, len }) = self.target() {
            let data = (value & mask).to_le_bytes();
            // A write nobody takes is lost, as one to the BAR would be.
            let _ = self.bar_write(bar, offset, &data[..len]);
        }
    }
}
