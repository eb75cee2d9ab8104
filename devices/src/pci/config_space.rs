//! A function's configuration space as bytes with a mask of what can be written.

use stockade_bus::PciConfig;

/// 256 bytes of registers; the extended space above reads as zeros.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
}

impl ConfigSpace {
    /// Returns a function with this identity (PCI Local Bus 3.0, 6.1), no base address registers, nothing writable.
    #[must_use]
    pub fn new(vendor: u16, device: u16, class: [u8; 3], revision: u8) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
        };
        let [sub_programming, subclass, base_class] = class;
        space.set(0x00, &vendor.to_le_bytes());
        space.set(0x02, &device.to_le_bytes());
        space.set(0x08, &[revision, sub_programming, subclass, base_class]);
        space
    }

    /// Gives the registers at `offset` their power-on value.
    pub fn set(&mut self, offset: u8, value: &[u8]) {
        for (slot, byte) in self.bytes[usize::from(offset)..].iter_mut().zip(value) {
            *slot = *byte;
        }
    }

    /// Lets software change the bits of `mask` at `offset`.
    pub fn set_writable(&mut self, offset: u8, mask: &[u8]) {
        for (slot, byte) in self.writable[usize::from(offset)..].iter_mut().zip(mask) {
            *slot = *byte;
        }
    }

    /// Returns all registers.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 256] {
        &self.bytes
    }

    /// Takes over what software could have written.
    pub fn restore(&mut self, bytes: &[u8; 256]) {
        for ((slot, mask), byte) in self.bytes.iter_mut().zip(&self.writable).zip(bytes) {
            *slot = (*slot & !mask) | (byte & mask);
        }
    }
}

impl PciConfig for ConfigSpace {
    fn config_read(&mut self, offset: u16) -> u32 {
        let at = usize::from(offset & !3);
        match self.bytes.get(at..at + 4) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    fn config_write(&mut self, offset: u16, value: u32, mask: u32) {
        let at = usize::from(offset & !3);
        let changes = value.to_le_bytes().into_iter().zip(mask.to_le_bytes());
        for (index, (byte, byte_mask)) in (at..).zip(changes) {
            let (Some(slot), Some(writable)) =
                (self.bytes.get_mut(index), self.writable.get(index))
            else {
                return;
            };
            let mask = writable & byte_mask;
            *slot = (*slot & !mask) | (byte & mask);
        }
    }
}
