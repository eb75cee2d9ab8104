//! Waiting without spinning.

use core::arch::asm;
use core::sync::atomic::Ordering;

use super::{clock, lapic, processor};

/// Takes pending interrupts, and if there are none, stops until one comes. Interrupts are off before and after.
///
/// Look for work first, with interrupts off: what arrives after the look ends the sleep at once.
pub fn until_interrupt() {
    // SAFETY: handlers run on stacks of their own and only record; STI holds interrupts back until HLT stops.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Takes pending interrupts without stopping.
pub fn take_interrupts() {
    // SAFETY: as above; the NOP is where they are taken.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// Sleeps until `done` or until `ns` nanoseconds have passed; says whether it was done. Takes the timer.
pub fn until(ns: u64, done: impl Fn() -> bool) -> bool {
    let deadline = clock::tsc().saturating_add(clock::ns_to_ticks(ns));
    while !done() && clock::tsc() < deadline {
        lapic::arm_timer(deadline);
        until_interrupt();
    }
    lapic::disarm_timer();
    processor::current()
        .timer_fired
        .store(false, Ordering::Relaxed);
    done()
}
