//! Which instructions and events end a guest's run, APM vol. 2, table B-1.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Intercepts at VMCB offset 0x0C. APM vol. 2, table B-1.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Intercepts1(u32);

/// Intercepts at VMCB offset 0x10. APM vol. 2, table B-1.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Intercepts2(u32);

bitflags! {
    impl Intercepts1: u32 {
        /// Physical interrupts.
        const INTR = 1;
        /// Physical NMIs.
        const NMI = 1 << 1;
        /// SMIs.
        const SMI = 1 << 2;
        /// INIT.
        const INIT = 1 << 3;
        /// The guest can take a virtual interrupt.
        const VINTR = 1 << 4;
        /// CR0 writes that change more than TS and MP.
        const CR0_SELECTIVE_WRITE = 1 << 5;
        /// SIDT.
        const IDTR_READ = 1 << 6;
        /// SGDT.
        const GDTR_READ = 1 << 7;
        /// SLDT.
        const LDTR_READ = 1 << 8;
        /// STR.
        const TR_READ = 1 << 9;
        /// LIDT.
        const IDTR_WRITE = 1 << 10;
        /// LGDT.
        const GDTR_WRITE = 1 << 11;
        /// LLDT.
        const LDTR_WRITE = 1 << 12;
        /// LTR.
        const TR_WRITE = 1 << 13;
        /// RDTSC; on TCG RDTSCP as well.
        const RDTSC = 1 << 14;
        /// RDPMC.
        const RDPMC = 1 << 15;
        /// PUSHF.
        const PUSHF = 1 << 16;
        /// POPF.
        const POPF = 1 << 17;
        /// CPUID.
        const CPUID = 1 << 18;
        /// RSM.
        const RSM = 1 << 19;
        /// IRET.
        const IRET = 1 << 20;
        /// INT n.
        const SOFTWARE_INTERRUPT = 1 << 21;
        /// INVD.
        const INVD = 1 << 22;
        /// PAUSE.
        const PAUSE = 1 << 23;
        /// HLT.
        const HLT = 1 << 24;
        /// INVLPG.
        const INVLPG = 1 << 25;
        /// INVLPGA.
        const INVLPGA = 1 << 26;
        /// Port accesses, by the I/O permission map.
        const IOIO_PROT = 1 << 27;
        /// MSR accesses, by the MSR permission map.
        const MSR_PROT = 1 << 28;
        /// Task switches.
        const TASK_SWITCH = 1 << 29;
        /// Frozen FPU error.
        const FERR_FREEZE = 1 << 30;
        /// Shutdown (triple fault).
        const SHUTDOWN = 1 << 31;
    }

    impl Intercepts2: u32 {
        /// VMRUN; must be set.
        const VMRUN = 1;
        /// VMMCALL; on TCG VMGEXIT as well.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
        /// RDTSCP; not looked at by TCG.
        const RDTSCP = 1 << 7;
        /// ICEBP.
        const ICEBP = 1 << 8;
        /// WBINVD.
        const WBINVD = 1 << 9;
        /// MONITOR.
        const MONITOR = 1 << 10;
        /// MWAIT.
        const MWAIT = 1 << 11;
        /// MWAIT with the monitor armed.
        const MWAIT_ARMED = 1 << 12;
        /// XSETBV; not looked at by QEMU 7.2.
        const XSETBV = 1 << 13;
        /// RDPRU.
        const RDPRU = 1 << 14;
    }
}
