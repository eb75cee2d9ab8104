//! Leaf by leaf: what an SNP guest may see (APM vol. 3, appendix E; the firmware's refusals as QEMU and KVM avoid them).

use super::{CpuidSource, Options, Registers, SevCapabilities, Xsave};

/// The answer for one leaf. `xcr0` matters for leaf 0xD only.
pub(super) fn answer(
    leaf: u32,
    subleaf: u32,
    xcr0: u64,
    source: &impl CpuidSource,
    options: &Options,
) -> Registers {
    let host = || source.cpuid(leaf, subleaf);
    match leaf {
        0x0 => host(),
        0x1 => features(host(), options),
        // Timer in deep sleep runs on; nothing else of power management.
        0x6 => Registers {
            eax: 1 << 2,
            ..Registers::default()
        },
        0x7 if subleaf == 0 => structured(host(), options),
        0xB => topology(subleaf, options.vcpus),
        0xD => xsave(subleaf, xcr0, source, options),
        0x15 | 0x16 => within(leaf, 0, source),
        0x4000_0000..=0x4000_00FF => hypervisor(leaf, options),
        0x8000_0000 => {
            let host = host();
            Registers {
                eax: host.eax.clamp(0x8000_001F, 0x8000_0021),
                ..host
            }
        }
        0x8000_0001 => extended(host(), options.vcpus),
        0x8000_0002..=0x8000_0006 | 0x8000_0019 | 0x8000_001A | 0x8000_001D => {
            within(leaf, subleaf, source)
        }
        // The TSC is invariant.
        0x8000_0007 => Registers {
            edx: 1 << 8,
            ..Registers::default()
        },
        0x8000_0008 => sizes(host(), options.vcpus),
        // Of SVM nothing is for guests but what their VMSAs may use: virtual NMIs.
        0x8000_000A => Registers {
            edx: 1 << 25,
            ..Registers::default()
        },
        0x8000_001E => Registers {
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 0,
        },
        0x8000_001F => sev(options),
        // No nested data breakpoints, LFENCE serializes, null selectors clear the base.
        0x8000_0021 => Registers {
            eax: within(leaf, 0, source).eax & 0x45 | 1 << 2,
            ..Registers::default()
        },
        // 5 MONITOR, A performance counters, 8000_001B IBS and all unknown leaves: not for guests.
        _ => Registers::default(),
    }
}

/// The processor's answer, or zeros beyond its last leaf.
fn within(leaf: u32, subleaf: u32, source: &impl CpuidSource) -> Registers {
    let last = source.cpuid(leaf & 0xFFFF_0000, 0).eax;
    if leaf <= last {
        source.cpuid(leaf, subleaf)
    } else {
        Registers::default()
    }
}

/// Bits of leaf 1.
mod bit1 {
    /// MONITOR, VMX, SMX, EIST, TM2, PDCM, DCA, TSC deadline, OSXSAVE (the guest's own CR4 sets it).
    pub(super) const ECX_NEVER: u32 =
        1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 15 | 1 << 18 | 1 << 24 | 1 << 27;
    /// x2APIC: the host has one. Hypervisor.
    pub(super) const ECX_ALWAYS: u32 = 1 << 21 | 1 << 31;
    /// XSAVE, AVX, F16C, FMA.
    pub(super) const ECX_XSAVE: u32 = 1 << 26 | 1 << 28 | 1 << 29 | 1 << 12;
    /// DS, ACPI, TM, PBE.
    pub(super) const EDX_NEVER: u32 = 1 << 21 | 1 << 22 | 1 << 29 | 1 << 31;
    /// MTRR: Linux wants them for PAT.
    pub(super) const EDX_ALWAYS: u32 = 1 << 12;
    pub(super) const EDX_HTT: u32 = 1 << 28;
}

fn hides_xsave(options: &Options) -> bool {
    options.xsave != Xsave::Native
}

fn features(host: Registers, options: &Options) -> Registers {
    let mut ecx = host.ecx & !bit1::ECX_NEVER | bit1::ECX_ALWAYS;
    if hides_xsave(options) {
        ecx &= !bit1::ECX_XSAVE;
    }
    let mut edx = host.edx & !(bit1::EDX_NEVER | bit1::EDX_HTT) | bit1::EDX_ALWAYS;
    if options.vcpus > 1 {
        edx |= bit1::EDX_HTT;
    }
    // Brand and CLFLUSH size stay; the count of logical processors is ours; the APIC ID is the asker's.
    let ebx = host.ebx & 0xFFFF | options.vcpus.min(255) << 16;
    Registers {
        eax: host.eax,
        ebx,
        ecx,
        edx,
    }
}

fn structured(host: Registers, options: &Options) -> Registers {
    /// FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
    const EBX: u32 = 1 << 0
        | 1 << 3
        | 1 << 5
        | 1 << 7
        | 1 << 8
        | 1 << 9
        | 1 << 18
        | 1 << 19
        | 1 << 20
        | 1 << 23
        | 1 << 24
        | 1 << 29;
    const EBX_AVX2: u32 = 1 << 5;
    /// UMIP, RDPID. No PKU, CET, LA57: the model does not switch their state.
    const ECX: u32 = 1 << 2 | 1 << 22;
    /// Fast short REP MOV. No speculation control: there is none to control.
    const EDX: u32 = 1 << 4;
    let mut ebx = host.ebx & EBX;
    if hides_xsave(options) {
        ebx &= !EBX_AVX2;
    }
    Registers {
        eax: 0,
        ebx,
        ecx: host.ecx & ECX,
        edx: host.edx & EDX,
    }
}

/// One thread a core, all cores in one package.
fn topology(subleaf: u32, vcpus: u32) -> Registers {
    let package = vcpus.max(1).next_power_of_two().trailing_zeros();
    match subleaf {
        0 => Registers {
            eax: 0,
            ebx: 1,
            ecx: 1 << 8,
            edx: 0,
        },
        1 => Registers {
            eax: package,
            ebx: vcpus,
            ecx: 2 << 8 | 1,
            edx: 0,
        },
        _ => Registers {
            ecx: subleaf & 0xFF,
            ..Registers::default()
        },
    }
}

/// x87 and SSE make up the legacy area and header; AVX is the one component beyond.
const XSAVE_LEGACY: u32 = 0x240;
const XSAVE_AVX: u32 = 0x100;
const XCR0_AVX: u64 = 1 << 2;

fn xsave(subleaf: u32, xcr0: u64, source: &impl CpuidSource, options: &Options) -> Registers {
    let has_xsave = source.cpuid(1, 0).ecx & 1 << 26 != 0;
    let has_avx = has_xsave && source.cpuid(0xD, 0).eax & 4 != 0 && !hides_xsave(options);
    let supported: u32 = if has_avx { 7 } else { 3 };
    let size = |avx: bool| {
        if avx {
            XSAVE_LEGACY + XSAVE_AVX
        } else {
            XSAVE_LEGACY
        }
    };
    let enabled = size(has_avx && xcr0 & XCR0_AVX != 0);
    match (subleaf, options.xsave) {
        (_, Xsave::Native) if !has_xsave => Registers::default(),
        (0, _) => Registers {
            eax: supported,
            ebx: enabled,
            ecx: size(has_avx),
            edx: 0,
        },
        // XSAVEOPT and XGETBV with ECX 1, where the processor has them.
        (1, Xsave::Native) => Registers {
            eax: source.cpuid(0xD, 1).eax & 5,
            ebx: enabled,
            ..Registers::default()
        },
        (1, Xsave::HiddenWithCompactionClaimed) => Registers {
            eax: 2,
            ebx: enabled,
            ..Registers::default()
        },
        (2, _) if has_avx => Registers {
            eax: XSAVE_AVX,
            ebx: XSAVE_LEGACY,
            ..Registers::default()
        },
        _ => Registers::default(),
    }
}

fn hypervisor(leaf: u32, options: &Options) -> Registers {
    let Some([a, b, c, d, e, f, g, h, i, j, k, l]) =
        options.hypervisor.filter(|_| leaf == 0x4000_0000)
    else {
        return Registers::default();
    };
    Registers {
        eax: 0x4000_0001,
        ebx: u32::from_le_bytes([a, b, c, d]),
        ecx: u32::from_le_bytes([e, f, g, h]),
        edx: u32::from_le_bytes([i, j, k, l]),
    }
}

fn extended(host: Registers, vcpus: u32) -> Registers {
    /// LAHF, CmpLegacy, CR8, ABM, SSE4A, misaligned SSE, prefetch, OS workarounds, TopoExt.
    const ECX: u32 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 22;
    const CMP_LEGACY: u32 = 1 << 1;
    /// All but reserved bits; 3DNow! goes.
    const EDX_NEVER: u32 = 1 << 30 | 1 << 31;
    let mut ecx = host.ecx & ECX;
    if vcpus > 1 {
        ecx |= CMP_LEGACY;
    }
    Registers {
        eax: host.eax,
        ebx: host.ebx,
        ecx,
        edx: host.edx & !EDX_NEVER,
    }
}

/// Physical bits are the processor's; linear bits 48, as no guest gets LA57.
fn sizes(host: Registers, vcpus: u32) -> Registers {
    /// CLZERO, XSAVE error pointers, WBNOINVD.
    const EBX: u32 = 1 << 0 | 1 << 2 | 1 << 9;
    let bits = vcpus.max(1).next_power_of_two().trailing_zeros();
    Registers {
        eax: host.eax & 0xFF | 48 << 8,
        ebx: host.ebx & EBX,
        ecx: vcpus.saturating_sub(1).min(0xFF) | bits << 12,
        edx: 0,
    }
}

fn sev(options: &Options) -> Registers {
    /// Physical address bits lost, VMPLs, encrypted guests at once.
    const REDUCTION: u32 = 1;
    const VMPLS: u32 = 4;
    const GUESTS: u32 = 509;
    let vmpls = if options.sev.contains(SevCapabilities::VMPL) {
        VMPLS
    } else {
        0
    };
    Registers {
        eax: options.sev.bits(),
        ebx: u32::from(options.c_bit) & 0x3F | REDUCTION << 6 | vmpls << 12,
        ecx: GUESTS,
        edx: 1,
    }
}
