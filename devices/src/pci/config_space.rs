//! A function's configuration space as bytes with a mask of what can be written.

use stockade_bus::PciConfig;

/// 256 bytes of registers; the extended space above reads as zeros.
#[derive(Clone, Debug)]
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

    /// Gives the registers at `offset` this value.
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

    /// Returns the byte at `offset`.
    #[must_use]
    pub fn byte(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// Returns the word at `offset`, which is made even.
    #[must_use]
    pub fn word(&self, offset: u8) -> u16 {
        u16::from_le_bytes([self.byte(offset & !1), self.byte(offset | 1)])
    }

    /// Returns the double word at `offset`, which is made a multiple of 4.
    #[must_use]
    pub fn dword(&self, offset: u8) -> u32 {
        u32::from(self.word(offset & !3)) | u32::from(self.word(offset & !3 | 2)) << 16
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
        u8::try_from(offset).map_or(0, |offset| self.dword(offset))
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
