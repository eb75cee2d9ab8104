//! The registers that decide how an address is translated.

use stockade_abi::vmsa::Vmsa;

use super::{Access, PageFault, PageFaultCode};

/// Bits of control registers, EFER and RFLAGS that translation and emulation look at. APM vol. 2, 3.1.
pub mod control {
    /// CR0.PE: protected mode.
    pub const CR0_PE: u64 = 1 << 0;
    /// CR0.EM: no floating-point unit.
    pub const CR0_EM: u64 = 1 << 2;
    /// CR0.TS: task switched.
    pub const CR0_TS: u64 = 1 << 3;
    /// CR0.WP: supervisor writes respect read-only pages.
    pub const CR0_WP: u64 = 1 << 16;
    /// CR0.AM: alignment checks.
    pub const CR0_AM: u64 = 1 << 18;
    /// CR0.PG: paging.
    pub const CR0_PG: u64 = 1 << 31;
    /// CR4.PSE: 4 MiB pages.
    pub const CR4_PSE: u64 = 1 << 4;
    /// CR4.PAE: eight-byte entries.
    pub const CR4_PAE: u64 = 1 << 5;
    /// CR4.OSFXSR: SSE instructions allowed.
    pub const CR4_OSFXSR: u64 = 1 << 9;
    /// CR4.LA57: five levels.
    pub const CR4_LA57: u64 = 1 << 12;
    /// CR4.OSXSAVE: XCR0 counts.
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    /// CR4.SMEP: no supervisor fetch from user pages.
    pub const CR4_SMEP: u64 = 1 << 20;
    /// CR4.SMAP: no supervisor data access to user pages.
    pub const CR4_SMAP: u64 = 1 << 21;
    /// CR4.PKE: protection keys.
    pub const CR4_PKE: u64 = 1 << 22;
    /// CR4.CET: shadow stacks.
    pub const CR4_CET: u64 = 1 << 23;
    /// EFER.LMA: long mode active.
    pub const EFER_LMA: u64 = 1 << 10;
    /// EFER.NXE: no-execute pages.
    pub const EFER_NXE: u64 = 1 << 11;
    /// RFLAGS.AC: alignment check, and the SMAP override.
    pub const RFLAGS_AC: u64 = 1 << 18;
}

/// What a processor's state says about translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkContext {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// PKRU, for protection keys.
    pub pkru: u32,
    /// The privilege level of the access.
    pub cpl: u8,
    /// Width of a guest-physical address (CPUID 8000_0008 as the guest sees it).
    pub phys_bits: u8,
}

impl WalkContext {
    /// Takes the registers of a vCPU whose guest sees addresses of `phys_bits` bits.
    #[must_use]
    pub const fn new(vmsa: &Vmsa, phys_bits: u8) -> Self {
        Self {
            cr0: vmsa.cr0,
            cr3: vmsa.cr3,
            cr4: vmsa.cr4,
            efer: vmsa.efer,
            rflags: vmsa.rflags,
            pkru: vmsa.pkru,
            cpl: vmsa.cpl,
            phys_bits,
        }
    }

    /// Returns whether the processor is in long mode (64-bit or compatibility).
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.efer & control::EFER_LMA != 0
    }

    /// Returns the width of a linear address in long mode: 57 bits with five levels, else 48.
    #[must_use]
    pub const fn linear_bits(&self) -> u32 {
        if self.cr4 & control::CR4_LA57 != 0 {
            57
        } else {
            48
        }
    }

    /// Returns whether a 64-bit address is canonical: all bits above the linear address equal its highest.
    #[must_use]
    pub const fn is_canonical(&self, address: u64) -> bool {
        let high = address.cast_signed() >> (self.linear_bits() - 1);
        high == 0 || high == -1
    }

    pub(super) const fn is_user(&self) -> bool {
        self.cpl == 3
    }

    pub(super) const fn has_no_execute(&self) -> bool {
        self.efer & control::EFER_NXE != 0 && self.cr4 & control::CR4_PAE != 0
    }

    pub(super) fn fault(&self, address: u64, access: Access, mut code: PageFaultCode) -> PageFault {
        code.set(PageFaultCode::WRITE, access == Access::Write);
        code.set(PageFaultCode::USER, self.is_user());
        let tells_fetch = self.has_no_execute() || self.cr4 & control::CR4_SMEP != 0;
        code.set(PageFaultCode::FETCH, access == Access::Fetch && tells_fetch);
        PageFault { address, code }
    }
}
