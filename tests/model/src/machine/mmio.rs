//! Accesses to registers of the machine's devices, with the width and at the address a guest asks for.

use core::arch::asm;

use super::memory::HostPa;

/// Bytes of one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One.
    Byte,
    /// Two.
    Word,
    /// Four.
    Double,
    /// Eight.
    Quad,
}

impl Width {
    /// The width of `bytes` bytes; `None` for what no instruction does at once.
    #[must_use]
    pub const fn of_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Double),
            8 => Some(Self::Quad),
            _ => None,
        }
    }
}

/// Reads a register, zero-extended.
///
/// # Safety
///
/// 1. The bytes at `address` are a device's and mapped, and the read does nothing to the model's memory.
#[must_use]
pub unsafe fn read(address: HostPa, width: Width) -> u64 {
    let at: *const u8 = address.as_ptr();
    let value: u64;
    // By assembly, for a guest need not align.
    match width {
        // SAFETY: (1).
        Width::Byte => unsafe {
            asm!("movzx {v:e}, byte ptr [{a}]", v = out(reg) value, a = in(reg) at)
        },
        // SAFETY: (1).
        Width::Word => unsafe {
            asm!("movzx {v:e}, word ptr [{a}]", v = out(reg) value, a = in(reg) at)
        },
        // SAFETY: (1).
        Width::Double => unsafe { asm!("mov {v:e}, [{a}]", v = out(reg) value, a = in(reg) at) },
        // SAFETY: (1).
        Width::Quad => unsafe { asm!("mov {v}, [{a}]", v = out(reg) value, a = in(reg) at) },
    }
    value
}

/// Writes the low bytes of `value` to a register.
///
/// # Safety
///
/// 1. The bytes at `address` are a device's and mapped, and what the device then does to memory is not to the model's.
pub unsafe fn write(address: HostPa, width: Width, value: u64) {
    let at: *mut u8 = address.as_ptr();
    let [byte, ..] = value.to_le_bytes();
    // By assembly, for a guest need not align.
    match width {
        // SAFETY: (1).
        Width::Byte => unsafe { asm!("mov [{a}], {v}", v = in(reg_byte) byte, a = in(reg) at) },
        // SAFETY: (1).
        Width::Word => unsafe { asm!("mov [{a}], {v:x}", v = in(reg) value, a = in(reg) at) },
        // SAFETY: (1).
        Width::Double => unsafe { asm!("mov [{a}], {v:e}", v = in(reg) value, a = in(reg) at) },
        // SAFETY: (1).
        Width::Quad => unsafe { asm!("mov [{a}], {v}", v = in(reg) value, a = in(reg) at) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_touches_its_own_bytes_even_when_misaligned() {
        let bytes: [u8; 10] = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA];
        let at =
            HostPa::new(core::hint::black_box(&raw const bytes).expose_provenance() as u64 + 1);
        for (width, expected) in [
            (Width::Byte, 0x22),
            (Width::Word, 0x3322),
            (Width::Double, 0x5544_3322),
            (Width::Quad, 0x9988_7766_5544_3322),
        ] {
            // SAFETY: bytes of our own stand in for a device's.
            assert_eq!(unsafe { read(at, width) }, expected);
        }
        let mut bytes = [0_u8; 10];
        let at = HostPa::new(core::hint::black_box(&raw mut bytes).expose_provenance() as u64 + 1);
        // SAFETY: as above.
        unsafe { write(at, Width::Word, 0xDDCC_BBAA) };
        assert_eq!(bytes, [0, 0xAA, 0xBB, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Width::of_bytes(3), None);
    }
}
