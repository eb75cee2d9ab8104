//! Feature bits a guest may see (APM vol. 3, appendix E).
//!
//! Each type lists the bits that pass from the PSP-checked page to the guest; a bit without a name here never does. Kept away
//! on purpose: MONITOR and MWAITX (an idle guest would never leave the processor), SVM and SKINIT, every performance counter,
//! IBS and LWP (not emulated), x2APIC (by option), OSVW (no errata to tell), CET and five-level paging (state nobody
//! saves, tables nobody walks), the extended APIC space, P-state control, machine-check extensions.

use bitflags::bitflags;

bitflags! {
    /// Leaf 1, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Leaf1Ecx: u32 {
        const SSE3 = 1 << 0;
        const PCLMULQDQ = 1 << 1;
        const SSSE3 = 1 << 9;
        const FMA = 1 << 12;
        const CMPXCHG16B = 1 << 13;
        const PCID = 1 << 17;
        const SSE41 = 1 << 19;
        const SSE42 = 1 << 20;
        const MOVBE = 1 << 22;
        const POPCNT = 1 << 23;
        const AES = 1 << 25;
        const XSAVE = 1 << 26;
        const AVX = 1 << 28;
        const F16C = 1 << 29;
        const RDRAND = 1 << 30;
    }
}

bitflags! {
    /// Leaf 1, ECX: bits the paravisor answers itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Leaf1EcxOwn: u32 {
        const X2APIC = 1 << 21;
        const TSC_DEADLINE = 1 << 24;
        const OSXSAVE = 1 << 27;
        const HYPERVISOR = 1 << 31;
    }
}

bitflags! {
    /// Leaf 1, EDX, and the low half of 8000_0001, EDX, that mirrors it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Leaf1Edx: u32 {
        const FPU = 1 << 0;
        const VME = 1 << 1;
        const DE = 1 << 2;
        const PSE = 1 << 3;
        const TSC = 1 << 4;
        const MSR = 1 << 5;
        const PAE = 1 << 6;
        const MCE = 1 << 7;
        const CMPXCHG8B = 1 << 8;
        const SEP = 1 << 11;
        const MTRR = 1 << 12;
        const PGE = 1 << 13;
        const MCA = 1 << 14;
        const CMOV = 1 << 15;
        const PAT = 1 << 16;
        const PSE36 = 1 << 17;
        const CLFSH = 1 << 19;
        const MMX = 1 << 23;
        const FXSR = 1 << 24;
        const SSE = 1 << 25;
        const SSE2 = 1 << 26;
    }
}

bitflags! {
    /// Leaf 1, EDX: bits the paravisor answers itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Leaf1EdxOwn: u32 {
        const APIC = 1 << 9;
        const HTT = 1 << 28;
    }
}

bitflags! {
    /// Leaf 7, subleaf 0, EBX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Leaf7Ebx: u32 {
        const FSGSBASE = 1 << 0;
        const BMI1 = 1 << 3;
        const AVX2 = 1 << 5;
        const SMEP = 1 << 7;
        const BMI2 = 1 << 8;
        const ERMS = 1 << 9;
        const INVPCID = 1 << 10;
        const AVX512F = 1 << 16;
        const AVX512DQ = 1 << 17;
        const RDSEED = 1 << 18;
        const ADX = 1 << 19;
        const SMAP = 1 << 20;
        const AVX512IFMA = 1 << 21;
        const CLFLUSHOPT = 1 << 23;
        const CLWB = 1 << 24;
        const AVX512CD = 1 << 28;
        const SHA = 1 << 29;
        const AVX512BW = 1 << 30;
        const AVX512VL = 1 << 31;
    }
}

/// Leaf 7, subleaf 0, EBX: TSC_ADJUST, by option.
pub(super) const LEAF_7_EBX_TSC_ADJUST: u32 = 1 << 1;
/// Leaf 7, subleaf 0, ECX: OSPKE mirrors CR4.PKE.
pub(super) const LEAF_7_ECX_OSPKE: u32 = 1 << 4;

bitflags! {
    /// Leaf 7, subleaf 0, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Leaf7Ecx: u32 {
        const AVX512_VBMI = 1 << 1;
        const UMIP = 1 << 2;
        const PKU = 1 << 3;
        const AVX512_VBMI2 = 1 << 6;
        const GFNI = 1 << 8;
        const VAES = 1 << 9;
        const VPCLMULQDQ = 1 << 10;
        const AVX512_VNNI = 1 << 11;
        const AVX512_BITALG = 1 << 12;
        const AVX512_VPOPCNTDQ = 1 << 14;
        const RDPID = 1 << 22;
    }
}

bitflags! {
    /// Leaf 7, subleaf 0, EDX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Leaf7Edx: u32 {
        const FSRM = 1 << 4;
        const AVX512_VP2INTERSECT = 1 << 8;
    }
}

bitflags! {
    /// Leaf 7, subleaf 1, EAX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Leaf7Sub1Eax: u32 {
        const AVX_VNNI = 1 << 4;
        const AVX512_BF16 = 1 << 5;
        const FZRM = 1 << 10;
        const FSRS = 1 << 11;
        const FSRC = 1 << 12;
    }
}

bitflags! {
    /// Leaf D, subleaf 1, EAX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct LeafDSub1Eax: u32 {
        const XSAVEOPT = 1 << 0;
        const XSAVEC = 1 << 1;
        const XGETBV1 = 1 << 2;
        const XSAVES = 1 << 3;
    }
}

bitflags! {
    /// Leaf 8000_0001, ECX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Ext1Ecx: u32 {
        const LAHF_SAHF = 1 << 0;
        const ALT_MOV_CR8 = 1 << 4;
        const ABM = 1 << 5;
        const SSE4A = 1 << 6;
        const MISALIGNED_SSE = 1 << 7;
        const PREFETCHW = 1 << 8;
        const XOP = 1 << 11;
        const FMA4 = 1 << 16;
        const TBM = 1 << 21;
        const TOPOLOGY = 1 << 22;
    }
}

/// Leaf 8000_0001, ECX: the logical processors of leaf 1 are cores, not threads.
pub(super) const EXT_1_ECX_CMP_LEGACY: u32 = 1 << 1;

bitflags! {
    /// Leaf 8000_0001, EDX, beyond the mirror of leaf 1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Ext1Edx: u32 {
        const SYSCALL = 1 << 11;
        const NX = 1 << 20;
        const MMX_EXTENSIONS = 1 << 22;
        const FFXSR = 1 << 25;
        const PAGE_1G = 1 << 26;
        const RDTSCP = 1 << 27;
        const LONG_MODE = 1 << 29;
        const NOW_3D_EXTENSIONS = 1 << 30;
        const NOW_3D = 1 << 31;
    }
}

bitflags! {
    /// Leaf 8000_0008, EBX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Ext8Ebx: u32 {
        const CLZERO = 1 << 0;
        const XSAVE_ERROR_POINTERS = 1 << 2;
        const WBNOINVD = 1 << 9;
        const IBPB = 1 << 12;
        const IBRS = 1 << 14;
        const STIBP = 1 << 15;
        const IBRS_ALWAYS = 1 << 16;
        const STIBP_ALWAYS = 1 << 17;
        const IBRS_PREFERRED = 1 << 18;
        const IBRS_SAME_MODE = 1 << 19;
        const NO_EFER_LMSLE = 1 << 20;
        const SSBD = 1 << 24;
        const SSB_NO = 1 << 26;
        const PSFD = 1 << 28;
        const BTC_NO = 1 << 29;
        const IBPB_RETURNS = 1 << 30;
    }
}

bitflags! {
    /// Leaf 8000_0021, EAX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Ext21Eax: u32 {
        const NO_NESTED_DATA_BREAKPOINT = 1 << 0;
        const LFENCE_ALWAYS_SERIALIZING = 1 << 2;
        const NULL_SELECT_CLEARS_BASE = 1 << 6;
        const AUTOMATIC_IBRS = 1 << 8;
        const FSRS = 1 << 10;
        const FSRC = 1 << 11;
        const SBPB = 1 << 27;
        const IBPB_BRANCH_TYPE = 1 << 28;
        const SRSO_NO = 1 << 29;
    }
}

/// Leaf 8000_0007, EDX: the TSC counts at one rate in all states.
pub(super) const EXT_7_EDX_INVARIANT_TSC: u32 = 1 << 8;
/// Leaf 6, EAX: the APIC timer never stops.
pub(super) const LEAF_6_EAX_ARAT: u32 = 1 << 2;
