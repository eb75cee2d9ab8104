//! The other processors: started for one job each by INIT and SIPI, and parked by INIT.

use core::ptr;
use core::sync::atomic::Ordering;

use super::cpu::{self, Cpu, MOST};
use super::{apic, segments, time, trap};

/// Where the trampoline runs; any page below 1 MiB will do.
pub(crate) const TRAMPOLINE: u8 = 0x08;

const STARTED: u32 = 1;
const DONE: u32 = 2;

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
}

/// What another processor is to do, with interrupts off.
pub(crate) type Job = fn();

/// Copies the trampoline to a page.
pub(crate) fn place_trampoline(page: u8) {
    let start = &raw const trampoline;
    let length = (&raw const trampoline_end).addr() - start.addr();
    unsafe { ptr::copy_nonoverlapping(start, (usize::from(page) << 12) as *mut u8, length) };
}

/// Called by the assembly in 64-bit mode on another processor.
#[unsafe(no_mangle)]
extern "C" fn guest_other_main(index: u32, cs: u32, cr0: u32, edx: u32) -> ! {
    let index = index as usize;
    cpu::init(index);
    segments::load();
    trap::restore();
    let cpu = cpu::of(index);
    for (place, value) in cpu.found.iter().zip([cs, cr0, edx]) {
        place.store(value, Ordering::Release);
    }
    cpu.state.store(STARTED, Ordering::Release);
    let job = cpu.job.load(Ordering::Acquire);
    if job != 0 {
        let job: Job = unsafe { core::mem::transmute(job) };
        // A fault ends the job unfinished, and so its check.
        if trap::catch(job).is_ok() {
            cpu.state.store(DONE, Ordering::Release);
        }
    }
    loop {
        unsafe { core::arch::asm!("cli", "hlt") };
    }
}

/// Says what a processor does once it is started.
pub(crate) fn prepare(index: usize, job: Job) -> &'static Cpu {
    let cpu = cpu::of(index);
    cpu.clear();
    cpu.state.store(0, Ordering::Release);
    cpu.job.store(job as usize, Ordering::Release);
    cpu
}

/// Sends INIT: the processor stops and waits for a SIPI.
pub(crate) fn park(index: usize) {
    apic::send(index as u32, apic::INIT | apic::ASSERT);
    time::wait(200);
}

/// Sends a SIPI.
pub(crate) fn startup(index: usize, page: u8) {
    apic::send(index as u32, apic::STARTUP | apic::ASSERT | u32::from(page));
}

/// Starts a processor on a job, and returns it once it is past its start.
pub(crate) fn start(index: usize, job: Job) -> Option<&'static Cpu> {
    place_trampoline(TRAMPOLINE);
    let cpu = prepare(index, job);
    park(index);
    startup(index, TRAMPOLINE);
    time::until(2_000_000, || is_started(index)).then_some(cpu)
}

/// Forgets that a processor is past its start, so that a second start would show.
pub(crate) fn forget_start(index: usize) {
    cpu::of(index).state.store(0, Ordering::Release);
}

/// Returns whether a processor is past its start.
pub(crate) fn is_started(index: usize) -> bool {
    cpu::of(index).state.load(Ordering::Acquire) >= STARTED
}

/// Returns whether a processor's job is done.
pub(crate) fn is_done(index: usize) -> bool {
    cpu::of(index).state.load(Ordering::Acquire) == DONE
}

/// Waits for a processor's job.
pub(crate) fn wait_done(index: usize) -> bool {
    time::until(2_000_000, || is_done(index))
}

/// Starts all there are by broadcast, and returns which: a bit each, this one's set.
pub(crate) fn find(expected: Option<usize>) -> u32 {
    let me = usize::from(apic::cpuid_id());
    place_trampoline(TRAMPOLINE);
    for index in (0..MOST).filter(|index| *index != me) {
        prepare(index, || {});
    }
    apic::send(0, apic::INIT | apic::ASSERT | apic::TO_OTHERS);
    time::wait(10_000);
    apic::send(
        0,
        apic::STARTUP | apic::ASSERT | apic::TO_OTHERS | u32::from(TRAMPOLINE),
    );
    let found = || {
        (0..MOST)
            .filter(|index| *index == me || is_started(*index))
            .fold(0_u32, |set, index| set | 1 << index)
    };
    match expected {
        Some(1) => time::until(20_000, || false),
        Some(count) => time::until(5_000_000, || found().count_ones() as usize >= count),
        None => time::until(300_000, || false),
    };
    apic::send(0, apic::INIT | apic::ASSERT | apic::TO_OTHERS);
    time::wait(200);
    found()
}
