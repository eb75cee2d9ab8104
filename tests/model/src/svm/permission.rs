//! The permission maps: which ports and MSRs a guest reaches without an exit.

use alloc::boxed::Box;

use bitflags::bitflags;
use zerocopy::FromZeros;

use crate::machine::memory::HostPa;

/// The I/O permission map; a set bit intercepts the port. APM vol. 2, 15.10.1.
#[derive(FromZeros)]
#[repr(C, align(4096))]
pub struct IoPermissionMap([u8; 0x3000]);

impl IoPermissionMap {
    /// Returns a map that intercepts every port.
    #[must_use]
    pub fn intercept_all() -> Box<Self> {
        let mut map = boxed::<Self>();
        map.0.fill(0xFF);
        map
    }

    /// Returns where the map lies, for the VMCB.
    #[must_use]
    pub fn address(&self) -> HostPa {
        HostPa::of(self)
    }
}

/// The MSR permission map; a set bit intercepts. APM vol. 2, 15.11.
#[derive(FromZeros)]
#[repr(C, align(4096))]
pub struct MsrPermissionMap([u8; 0x2000]);

bitflags! {
    /// What a guest may do with an MSR without an exit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MsrAccess: u8 {
        /// RDMSR.
        const READ = 1;
        /// WRMSR.
        const WRITE = 2;
    }
}

impl MsrPermissionMap {
    /// Returns a map that intercepts every MSR.
    #[must_use]
    pub fn intercept_all() -> Box<Self> {
        let mut map = boxed::<Self>();
        map.0.fill(0xFF);
        map
    }

    /// Returns a map that intercepts all but the MSRs VMLOAD and VMSAVE swap.
    #[must_use]
    pub fn pass_swapped() -> Box<Self> {
        let mut map = Self::intercept_all();
        let swapped = [
            0x174,
            0x175,
            0x176,
            0xC000_0081,
            0xC000_0082,
            0xC000_0083,
            0xC000_0084,
            0xC000_0100,
            0xC000_0101,
            0xC000_0102,
        ];
        for msr in swapped {
            map.pass(msr, MsrAccess::all());
        }
        map
    }

    /// Lets the guest do `access` to `msr` without an exit; an MSR outside the map's three ranges stays intercepted.
    pub fn pass(&mut self, msr: u32, access: MsrAccess) {
        if let Some((byte, shift)) = Self::position(msr) {
            self.0[byte] &= !(access.bits() << shift);
        }
    }

    /// Returns where the map lies, for the VMCB.
    #[must_use]
    pub fn address(&self) -> HostPa {
        HostPa::of(self)
    }

    /// Byte and shift of the two bits of `msr`.
    fn position(msr: u32) -> Option<(usize, u32)> {
        let (base, index) = match msr {
            0..=0x1FFF => (0, msr),
            0xC000_0000..=0xC000_1FFF => (0x800, msr & 0x1FFF),
            0xC001_0000..=0xC001_1FFF => (0x1000, msr & 0x1FFF),
            _ => return None,
        };
        let byte = usize::try_from(index / 4).ok()?;
        Some((base + byte, (index % 4) * 2))
    }
}

fn boxed<T: FromZeros>() -> Box<T> {
    T::new_box_zeroed()
        .unwrap_or_else(|_| alloc::alloc::handle_alloc_error(core::alloc::Layout::new::<T>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_an_msr_clears_only_its_bits() {
        let mut map = MsrPermissionMap::intercept_all();
        map.pass(0xC000_0082, MsrAccess::READ);
        assert_eq!(map.0[0x800 + 0x20], !(1 << 4));
        map.pass(0xC000_0082, MsrAccess::WRITE);
        assert_eq!(map.0[0x800 + 0x20], !(3 << 4));
        assert_eq!(map.0.iter().filter(|byte| **byte != 0xFF).count(), 1);
    }

    #[test]
    fn an_msr_outside_the_ranges_stays_intercepted() {
        let mut map = MsrPermissionMap::intercept_all();
        map.pass(0x4000_0000, MsrAccess::all());
        assert!(map.0.iter().all(|byte| *byte == 0xFF));
    }
}
