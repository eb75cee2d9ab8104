//! The machine's own ports and CPUID, given to the pure host modules; and the MSRs a host answers for its guest.

use crate::host::ghcb::Width;
use crate::host::ports::RawPorts;
use crate::machine::clock;
use crate::psp::cpuid::{CpuidSource, Registers};

/// The ports of the machine the model runs on.
pub struct MachinePorts;

impl RawPorts for MachinePorts {
    fn read(&mut self, port: u16, width: Width) -> u32 {
        // SAFETY (all three): `host::ports` lets through only ports of devices the model itself does not use but for this:
        // COM1, COM2, PIC, PIT, RTC, PCI configuration. None of them touches the model's memory.
        match width {
            // SAFETY: as above.
            Width::Byte => u32::from(unsafe { x86::io::inb(port) }),
            // SAFETY: as above.
            Width::Word => u32::from(unsafe { x86::io::inw(port) }),
            // SAFETY: as above.
            Width::Double => unsafe { x86::io::inl(port) },
        }
    }

    fn write(&mut self, port: u16, width: Width, value: u32) {
        let [low, high, ..] = value.to_le_bytes();
        match width {
            // SAFETY: as for reads.
            Width::Byte => unsafe { x86::io::outb(port, low) },
            // SAFETY: as for reads.
            Width::Word => unsafe { x86::io::outw(port, u16::from_le_bytes([low, high])) },
            // SAFETY: as for reads.
            Width::Double => unsafe { x86::io::outl(port, value) },
        }
    }
}

/// The leaf that gives the frequency of the time stamp counter.
const TIME_LEAF: u32 = 0x15;

/// The processor's CPUID instruction, with the counter's frequency as it was measured: TCG leaves that leaf out.
pub struct MachineCpuid;

impl CpuidSource for MachineCpuid {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers {
        let found = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        match leaf {
            0 => Registers {
                eax: found.eax.max(TIME_LEAF),
                ebx: found.ebx,
                ecx: found.ecx,
                edx: found.edx,
            },
            // A crystal of 1 kHz, multiplied.
            TIME_LEAF => Registers {
                eax: 1,
                ebx: u32::try_from(clock::tsc_khz()).unwrap_or(u32::MAX),
                ecx: 1000,
                edx: 0,
            },
            _ => Registers {
                eax: found.eax,
                ebx: found.ebx,
                ecx: found.ecx,
                edx: found.edx,
            },
        }
    }
}

/// What the host answers for an MSR that is neither the guest's own nor its local APIC's; `None` is #GP.
///
/// Memory types look as firmware leaves them (Linux turns PAT off without); the rest are registers stock kernels read
/// without a net and find zero on such machines.
pub const fn read_msr(msr: u32) -> Option<u64> {
    match msr {
        // MTRRcap: eight variable ranges, fixed ranges, write-combining; MTRRdefType: enabled, write-back.
        0xFE => Some(0x508),
        0x2FF => Some(0xC06),
        0x200..=0x20F => Some(0),
        0x250 | 0x258 | 0x259 | 0x268..=0x26F => Some(0x0606_0606_0606_0606),
        // Platform id, microcode level, machine check.
        0x17 | 0x8B | 0x179..=0x17B | 0x400..=0x47F => Some(0),
        // SYSCFG: memory encryption on. HWCR: SMM locked, TSC counts at P0 frequency. Without these Linux hides SEV.
        0xC001_0010 => Some(1 << 23),
        0xC001_0015 => Some(1 << 24 | 1),
        0xC001_001F | 0xC001_0058 | 0xC001_0055 | 0xC001_1029 => Some(0),
        0xC001_0000..=0xC001_0007 | 0xC001_0061..=0xC001_0064 => Some(0),
        _ => None,
    }
}

/// Whether a write to such an MSR is swallowed; otherwise it is #GP.
pub const fn swallows_msr(msr: u32) -> bool {
    msr != 0xFE && read_msr(msr).is_some()
}
