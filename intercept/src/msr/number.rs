//! MSR numbers (APM vol. 2, appendix A; BIOS and kernel developer's guides for C001_xxxx).

/// The number of an MSR: any 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Msr(pub u32);

macro_rules! msrs {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        impl Msr {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }
    };
}

msrs! {
    /// Machine-check address of bank 0, by its Pentium number.
    P5_MC_ADDR = 0x0;
    /// Machine-check status of bank 0, by its Pentium number.
    P5_MC_TYPE = 0x1;
    /// Time-stamp counter.
    TSC = 0x10;
    /// APIC base and mode.
    APIC_BASE = 0x1B;
    /// Offset of the TSC.
    TSC_ADJUST = 0x3B;
    /// Speculation control.
    SPEC_CTRL = 0x48;
    /// Prediction barriers.
    PRED_CMD = 0x49;
    /// Microcode patch level.
    PATCH_LEVEL = 0x8B;
    /// What the MTRRs can do.
    MTRR_CAP = 0xFE;
    /// SYSENTER code segment.
    SYSENTER_CS = 0x174;
    /// SYSENTER stack.
    SYSENTER_ESP = 0x175;
    /// SYSENTER entry.
    SYSENTER_EIP = 0x176;
    /// How many machine-check banks.
    MCG_CAP = 0x179;
    /// State of machine checks.
    MCG_STATUS = 0x17A;
    /// Which banks report.
    MCG_CTL = 0x17B;
    /// Debug control.
    DEBUG_CTL = 0x1D9;
    /// Last branch, from.
    LAST_BRANCH_FROM = 0x1DB;
    /// Last branch, to.
    LAST_BRANCH_TO = 0x1DC;
    /// Last exception, from.
    LAST_EXCEPTION_FROM = 0x1DD;
    /// Last exception, to.
    LAST_EXCEPTION_TO = 0x1DE;
    /// First of the variable MTRRs: base and mask of each.
    MTRR_VARIABLE_0 = 0x200;
    /// Page attribute table.
    PAT = 0x277;
    /// Default memory type.
    MTRR_DEF_TYPE = 0x2FF;
    /// First of the machine-check banks: control, status, address, misc of each.
    MC0_CTL = 0x400;
    /// TSC value of the APIC timer's deadline.
    TSC_DEADLINE = 0x6E0;
    /// First of the x2APIC registers.
    X2APIC_FIRST = 0x800;
    /// Last of the x2APIC registers.
    X2APIC_LAST = 0x8FF;
    /// Supervisor state components.
    XSS = 0xDA0;
    /// Extended features.
    EFER = 0xC000_0080;
    /// SYSCALL segments.
    STAR = 0xC000_0081;
    /// SYSCALL entry from 64-bit code.
    LSTAR = 0xC000_0082;
    /// SYSCALL entry from compatibility mode.
    CSTAR = 0xC000_0083;
    /// Flags that SYSCALL clears.
    SFMASK = 0xC000_0084;
    /// Base of FS.
    FS_BASE = 0xC000_0100;
    /// Base of GS.
    GS_BASE = 0xC000_0101;
    /// What SWAPGS swaps in.
    KERNEL_GS_BASE = 0xC000_0102;
    /// What RDTSCP and RDPID return.
    TSC_AUX = 0xC000_0103;
    /// First of the four legacy event selectors, then four counters.
    PERF_LEGACY_FIRST = 0xC001_0000;
    /// Last of the four legacy counters.
    PERF_LEGACY_LAST = 0xC001_0007;
    /// System configuration.
    SYSCFG = 0xC001_0010;
    /// Hardware configuration.
    HWCR = 0xC001_0015;
    /// Top of memory below 4 GiB.
    TOP_MEM = 0xC001_001A;
    /// Top of memory above 4 GiB.
    TOP_MEM2 = 0xC001_001D;
    /// Northbridge configuration.
    NB_CFG = 0xC001_001F;
    /// Loads microcode.
    PATCH_LOADER = 0xC001_0020;
    /// Interrupt pending message.
    INT_PENDING = 0xC001_0055;
    /// Where PCI configuration space is mapped.
    MMIO_CFG_BASE = 0xC001_0058;
    /// Load-store configuration.
    LS_CFG = 0xC001_1020;
    /// Instruction cache configuration.
    IC_CFG = 0xC001_1021;
    /// Data cache configuration.
    DC_CFG = 0xC001_1022;
    /// Floating-point configuration.
    FP_CFG = 0xC001_1028;
    /// Decode configuration.
    DE_CFG = 0xC001_1029;
    /// Bus unit configuration.
    BU_CFG2 = 0xC001_102A;
}
