//! Samples of an operation's cost, and the interrupt entry that only reads the counter.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use super::TIMES;
use crate::machine::segments::STACK_INTERRUPT;
use crate::machine::trap;

global_asm!(
    ".section .text.bench, \"ax\", @progbits",
    ".balign 16",
    ".global bench_interrupt",
    "bench_interrupt:",
    "push %rax",
    "push %rdx",
    "rdtsc",
    "mov %eax, bench_stamp",
    "mov %edx, bench_stamp + 4",
    "pop %rdx",
    "pop %rax",
    "iretq",
    ".previous",
    options(att_syntax)
);

unsafe extern "C" {
    safe static bench_interrupt: u8;
}

/// The counter when [`bench_interrupt`] last came.
#[unsafe(no_mangle)]
static bench_stamp: AtomicU64 = AtomicU64::new(0);

/// Has the gate of `vector` lead to the entry that only reads the counter.
pub(super) fn stamp_interrupts(gates: &mut trap::Gates, vector: u8) {
    let entry = (&raw const bench_interrupt).addr() as u64;
    let [low, _] = trap::gate(vector, STACK_INTERRUPT);
    let offset = entry & 0xFFFF | (entry >> 16 & 0xFFFF) << 48;
    gates[usize::from(vector)] = [low & 0x0000_FFFF_FFFF_0000 | offset, entry >> 32];
}

/// Forgets that an interrupt came.
pub(super) fn forget_stamp() {
    bench_stamp.store(0, Ordering::SeqCst);
}

/// Returns the counter when the last interrupt came, 0 if none did.
pub(super) fn stamp() -> u64 {
    bench_stamp.load(Ordering::SeqCst)
}

/// Reads the counter.
#[inline(always)]
pub(super) fn tsc() -> u64 {
    let (low, high): (u32, u32);
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// The costs of one operation.
pub(crate) struct Samples {
    ticks: [u64; TIMES],
    count: usize,
}

impl Samples {
    /// No samples.
    pub(super) const fn new() -> Self {
        Self {
            ticks: [0; TIMES],
            count: 0,
        }
    }

    /// Forgets all.
    pub(super) fn start(&mut self) {
        self.count = 0;
    }

    /// Times `operation` once.
    #[inline(always)]
    pub(super) fn time(&mut self, operation: impl FnOnce()) {
        let begun = tsc();
        operation();
        let ended = tsc();
        self.add(ended - begun);
    }

    /// Adds what was timed by other means.
    pub(super) fn add(&mut self, ticks: u64) {
        if let Some(place) = self.ticks.get_mut(self.count) {
            *place = ticks;
            self.count += 1;
        }
    }

    /// Returns median, least and mean.
    pub(super) fn figures(&mut self) -> (u64, u64, u64) {
        let Some(ticks) = self.ticks.get_mut(..self.count) else {
            return (0, 0, 0);
        };
        ticks.sort_unstable();
        let median = ticks.get(ticks.len() / 2).copied().unwrap_or(0);
        let least = ticks.first().copied().unwrap_or(0);
        let mean = ticks.iter().sum::<u64>() / ticks.len().max(1) as u64;
        (median, least, mean)
    }
}
