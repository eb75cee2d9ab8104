//! Hyper-V's leaves, 4000_0000 to 4000_0005 (TLFS, "Feature and interface discovery"): the least that Windows' loader and kernel, and
//! Linux, take for it.

use super::CpuidResult;

/// "Microsoft Hv" by the registers it stands in.
const VENDOR: [u32; 3] = [0x7263_694D, 0x666F_736F, 0x7648_2074];
/// "Hv#1".
const INTERFACE: u32 = 0x3123_7648;
const FIRST_LEAF: u32 = 0x4000_0000;
const LAST_LEAF: u32 = 0x4000_0005;
/// The version of the interface we follow; nothing depends on it.
const BUILD: u32 = 20_348;
const VERSION: u32 = 10 << 16;

bitflags::bitflags! {
    /// EAX of leaf 4000_0003: what a guest may use.
    struct Privileges: u32 {
        const TIME_REF_COUNT = 1 << 1;
        const SYNIC = 1 << 2;
        const TIMERS = 1 << 3;
        const INTERRUPT_CONTROL = 1 << 4;
        const HYPERCALL = 1 << 5;
        const VP_INDEX = 1 << 6;
        const REFERENCE_TSC = 1 << 9;
        const FREQUENCIES = 1 << 11;
    }

    /// EDX of leaf 4000_0003: what there is.
    struct Features: u32 {
        const FREQUENCIES = 1 << 8;
        const POLLED_INTERRUPTS = 1 << 17;
        const HYPERCALL_LOCK = 1 << 18;
        const DIRECT_TIMERS = 1 << 19;
    }

    /// EAX of leaf 4000_0004: what a guest had better do.
    struct Hints: u32 {
        /// Registers of the local APIC by MSR: an exit that needs no decoding.
        const APIC_BY_MSR = 1 << 3;
        /// No watchdogs: a host may take its time.
        const RELAXED_TIMING = 1 << 5;
        /// End each interrupt by hand.
        const NO_AUTOMATIC_END = 1 << 9;
    }
}

/// Never tell of a long wait for a lock.
const NO_SPIN_NOTIFICATION: u32 = u32::MAX;

/// Answers a leaf from 4000_0000 on.
pub(super) fn leaf(leaf: u32, cores: u32) -> CpuidResult {
    match leaf {
        FIRST_LEAF => CpuidResult {
            eax: LAST_LEAF,
            ebx: VENDOR[0],
            ecx: VENDOR[1],
            edx: VENDOR[2],
        },
        0x4000_0001 => CpuidResult {
            eax: INTERFACE,
            ..CpuidResult::ZERO
        },
        0x4000_0002 => CpuidResult {
            eax: BUILD,
            ebx: VERSION,
            ..CpuidResult::ZERO
        },
        0x4000_0003 => CpuidResult {
            eax: Privileges::all().bits(),
            edx: Features::all().bits(),
            ..CpuidResult::ZERO
        },
        0x4000_0004 => CpuidResult {
            eax: Hints::all().bits(),
            ebx: NO_SPIN_NOTIFICATION,
            ..CpuidResult::ZERO
        },
        LAST_LEAF => CpuidResult {
            eax: cores,
            ebx: cores,
            ..CpuidResult::ZERO
        },
        _ => CpuidResult::ZERO,
    }
}
