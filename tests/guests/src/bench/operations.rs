//! The operations: what an operating system asks of its interrupt controllers and timers most.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::timing::{Samples, forget_stamp, stamp, stamp_interrupts, tsc};
use super::{Operation, TIMES};
use crate::machine::apic::{self, ASSERT, TO_SELF};
use crate::machine::memory::write32;
use crate::machine::processor::{cli, cpuid, has_feature_ecx, open, pause, sti, wrmsr};
use crate::machine::{acpi, cpu, smp, trap, x2apic};

/// The vectors of the operations, and of interrupts to another processor.
const VECTOR: u8 = 0x61;
const OTHERS_VECTOR: u8 = 0x71;
/// Further away than the longest operation takes.
const SOON_TICKS: u64 = 300_000;
/// So far that it never comes.
const NEVER_TICKS: u64 = 1 << 40;

/// The mode the local APIC is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It does not matter.
    None,
    /// Registers in memory.
    Xapic,
    /// Registers are MSRs.
    X2apic,
}

impl Mode {
    /// Brings this processor's local APIC into the mode.
    pub(super) fn set(self) {
        apic::reset();
        if self == Self::X2apic {
            x2apic::enable();
        }
    }

    /// Writes a register by the one instruction a kernel uses.
    #[inline(always)]
    fn write(self, register: u32, value: u32) {
        if self == Self::X2apic {
            wrmsr(0x800 + (register >> 4), u64::from(value));
        } else {
            write32(apic::BASE + u64::from(register), value);
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "",
            Self::Xapic => "xapic-",
            Self::X2apic => "x2apic-",
        })
    }
}

macro_rules! operations {
    ($(#[$about:meta])* $table:ident: $($name:literal = $run:ident),+ $(,)?) => {
        $(#[$about])*
        pub(super) const $table: &[Operation] = &[$(Operation { name: $name, run: $run }),+];
    };
}

operations! {
    /// Where the mode does not matter.
    WITHOUT_MODE: "nothing" = nothing, "cpuid" = leaf, "pm-timer" = pm_timer, "tsc-deadline" = deadline,
    "timer-interrupt" = timer_interrupt, "hlt-wake" = halt
}

operations! {
    /// In each mode of the local APIC.
    WITH_MODE: "eoi" = end_of_interrupt, "icr-self" = command_to_self, "timer-count" = timer_count
}

operations! {
    /// With another processor.
    OTHERS: "icr-other" = command_to_other
}

fn times(mut once: impl FnMut()) {
    for _ in 0..TIMES {
        once();
    }
}

fn nothing(samples: &mut Samples, _: Mode) {
    times(|| samples.time(|| {}));
}

fn leaf(samples: &mut Samples, _: Mode) {
    times(|| {
        samples.time(|| {
            cpuid(0, 0);
        });
    });
}

fn pm_timer(samples: &mut Samples, _: Mode) {
    times(|| {
        samples.time(|| {
            acpi::timer();
        });
    });
}

fn has_deadline() -> bool {
    has_feature_ecx(24)
}

/// Sets a deadline that never comes: each as far away as the one before.
fn deadline(samples: &mut Samples, _: Mode) {
    if !has_deadline() {
        return;
    }
    apic::write(apic::LVT_TIMER, apic::TSC_DEADLINE | u32::from(VECTOR));
    times(|| {
        let at = tsc() + NEVER_TICKS;
        samples.time(|| wrmsr(apic::TSC_DEADLINE_MSR, at));
    });
    wrmsr(apic::TSC_DEADLINE_MSR, 0);
}

/// How late the first instruction behind a timer's gate is while the guest runs.
fn timer_interrupt(samples: &mut Samples, _: Mode) {
    lateness(samples, || {
        while stamp() == 0 {
            core::hint::black_box(());
        }
    });
}

/// The same while it halts.
fn halt(samples: &mut Samples, _: Mode) {
    lateness(samples, || {
        while stamp() == 0 {
            unsafe { asm!("hlt") };
        }
    });
}

fn lateness(samples: &mut Samples, wait: impl Fn()) {
    if !has_deadline() {
        return;
    }
    with_stamps(|| {
        apic::write(apic::LVT_TIMER, apic::TSC_DEADLINE | u32::from(VECTOR));
        times(|| {
            forget_stamp();
            let at = tsc() + SOON_TICKS;
            wrmsr(apic::TSC_DEADLINE_MSR, at);
            sti();
            wait();
            cli();
            samples.add(stamp().saturating_sub(at));
            apic::eoi();
        });
    });
}

fn end_of_interrupt(samples: &mut Samples, mode: Mode) {
    with_stamps(|| {
        times(|| {
            mode.write(apic::ICR, TO_SELF | ASSERT | u32::from(VECTOR));
            open();
            samples.time(|| mode.write(apic::EOI, 0));
        });
    });
}

fn command_to_self(samples: &mut Samples, mode: Mode) {
    with_stamps(|| {
        times(|| {
            samples.time(|| mode.write(apic::ICR, TO_SELF | ASSERT | u32::from(VECTOR)));
            open();
            mode.write(apic::EOI, 0);
        });
    });
}

/// Starts a count that does not end, as long as the one before.
fn timer_count(samples: &mut Samples, mode: Mode) {
    apic::write(apic::LVT_TIMER, u32::from(VECTOR));
    times(|| samples.time(|| mode.write(apic::TIMER_INITIAL, u32::MAX)));
    apic::write(apic::TIMER_INITIAL, 0);
    apic::write(apic::LVT_TIMER, apic::MASKED);
}

static ARRIVED: AtomicU64 = AtomicU64::new(0);
static IS_X2APIC: AtomicBool = AtomicBool::new(false);

/// Has another processor run with interrupts on.
pub(super) fn start_other(mode: Mode) -> bool {
    IS_X2APIC.store(mode == Mode::X2apic, Ordering::SeqCst);
    ARRIVED.store(0, Ordering::SeqCst);
    if smp::start(1, listen).is_none() {
        return false;
    }
    while ARRIVED.load(Ordering::SeqCst) == 0 {
        pause();
    }
    if mode == Mode::Xapic {
        apic::write(apic::ICR_HIGH, 1 << 24);
    }
    true
}

/// The other processor takes each before the next is sent.
fn command_to_other(samples: &mut Samples, mode: Mode) {
    let arrived = || ARRIVED.load(Ordering::SeqCst);
    let command = ASSERT | u32::from(OTHERS_VECTOR);
    times(|| {
        let before = arrived();
        if mode == Mode::X2apic {
            samples.time(|| wrmsr(0x830, 1 << 32 | u64::from(command)));
        } else {
            samples.time(|| write32(apic::BASE + u64::from(apic::ICR), command));
        }
        while arrived() == before {
            core::hint::black_box(());
        }
    });
}

/// Job: takes interrupts for ever.
fn listen() {
    let mode = if IS_X2APIC.load(Ordering::SeqCst) {
        Mode::X2apic
    } else {
        Mode::Xapic
    };
    mode.set();
    trap::hook(OTHERS_VECTOR, |_| {
        apic::eoi();
        ARRIVED.fetch_add(1, Ordering::SeqCst);
    });
    ARRIVED.store(1, Ordering::SeqCst);
    sti();
    loop {
        core::hint::black_box(cpu::current());
    }
}

fn with_stamps(work: impl FnOnce()) {
    let mut gates = trap::gates();
    stamp_interrupts(&mut gates, VECTOR);
    trap::load_table(gates.as_ptr().addr() as u64, 0xFFF);
    work();
    trap::restore();
}
