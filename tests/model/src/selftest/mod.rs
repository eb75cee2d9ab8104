//! The self-test of the machine and of VMRUN, run by the word `selftest` instead of an image.
//!
//! It prints a line for each claim and figures, and ends as "powered off" when all claims hold.

mod guest;

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use x86::io::outb;

use self::guest::{Entry, Guest};
use crate::machine::exit::{Ending, exit, fail};
use crate::machine::memory::{CHUNK_BYTES, HostPa};
use crate::machine::{clock, console, frames, lapic, processor, sleep, smp};

const CPUID: u64 = 0x72;
const HLT: u64 = 0x78;
const IOIO: u64 = 0x7B;
const MSR: u64 = 0x7C;
const VMMCALL: u64 = 0x81;
const UNDEFINED: u64 = 0x46;

/// What did not hold so far.
static FAILURES: AtomicU32 = AtomicU32::new(0);
/// Processors whose guest was interrupted by a kick.
static KICKED: AtomicU32 = AtomicU32::new(0);

/// Runs every check and ends the model.
pub(crate) fn run() -> ! {
    memory();
    exits();
    speed();
    extended_state();
    timer();
    pic();
    other_processors();
    let failures = FAILURES.load(Ordering::Relaxed);
    console::line(format_args!("selftest: {failures} failures"));
    exit(if failures == 0 {
        Ending::PoweredOff
    } else {
        Ending::Bug
    })
}

fn check(claim: &str, holds: bool, seen: impl fmt::Debug) {
    if !holds {
        FAILURES.fetch_add(1, Ordering::Relaxed);
    }
    console::line(format_args!(
        "selftest: {} {claim} {seen:x?}",
        if holds { "ok  " } else { "FAIL" }
    ));
}

fn guest(entry: Entry) -> Guest {
    Guest::try_new(entry).unwrap_or_else(|| fail(Ending::Bug, "the self-test has no memory"))
}

/// Microseconds since `start`.
fn micros_since(start: u64) -> u64 {
    clock::ticks_to_ns(clock::tsc() - start) / 1000
}

fn memory() {
    let before = frames::free_bytes();
    let start = clock::tsc();
    let chunks: Vec<HostPa> = (0..32).map_while(|_| frames::allocate_chunk()).collect();
    let micros = micros_since(start);
    let aligned = chunks.iter().all(|chunk| chunk.is_aligned(CHUNK_BYTES));
    check(
        "chunks are aligned and counted",
        aligned && before - frames::free_bytes() == 32 * CHUNK_BYTES,
        micros,
    );
    let start = clock::tsc();
    if let [first, second, ..] = chunks[..] {
        // SAFETY: two chunks of our own.
        unsafe { core::ptr::copy_nonoverlapping(first.as_ptr::<u8>(), second.as_ptr(), 0x20_0000) };
    }
    console::line(format_args!(
        "selftest: zeroing 64 MiB {micros} us, copying 2 MiB {} us",
        micros_since(start)
    ));
    for chunk in chunks {
        // SAFETY: allocated above and not used since.
        unsafe { frames::free_chunk(chunk) };
    }
    check("chunks come back", frames::free_bytes() == before, before);
}

fn exits() {
    let mut guest = guest(Entry::Words);
    let start = guest.vmcb.save.rip;
    let exit = guest.run_on();
    check(
        "IN exits with port and next RIP",
        exit.code == IOIO && exit.info1 >> 16 == 0x3F9 && exit.info2 == start + 5,
        exit,
    );
    guest.vmcb.save.rip = exit.info2;
    let exit = guest.run_on();
    check(
        "RDMSR exits",
        exit.code == MSR && exit.info1 == 0 && guest.registers.rcx == 0x10,
        exit,
    );
    guest.skip(2);
    let exit = guest.run_on();
    check("VMMCALL exits", exit.code == VMMCALL, exit);
    guest.skip(3);
    let exit = guest.run_on();
    check("HLT exits", exit.code == HLT, exit);
    guest.skip(1);
    let exit = guest.run_on();
    check("PVALIDATE exits as undefined", exit.code == UNDEFINED, exit);
    guest.extended.xcr0 = 6;
    let exit = guest.run_on();
    check("an impossible XCR0 is refused", exit.code == u64::MAX, exit);
    guest.extended.xcr0 = 1;
    guest.vmcb.save.efer = 0x500;
    let exit = guest.run_on();
    check(
        "a VMCB without SVME is refused",
        exit.code == u64::MAX,
        exit,
    );
}

fn speed() {
    const TURNS: u64 = 5000;
    let mut guest = guest(Entry::Cpuid);
    let start = clock::tsc();
    let mut wrong = 0;
    for _ in 0..TURNS {
        let exit = guest.run_on();
        wrong += u64::from(exit.code != CPUID);
        guest.skip(2);
    }
    let micros = micros_since(start);
    check("CPUID exits every time", wrong == 0, wrong);
    console::line(format_args!("selftest: {TURNS} CPUID exits {micros} us"));
}

fn extended_state() {
    let mark: u64 = 0xCAFE_F00D_CAFE_F00D;
    let mut first = guest(Entry::Mark);
    let mut second = guest(Entry::Look);
    first.extended.tsc_aux = 77;
    second.extended.xcr0 = 7;
    let exit = first.run_on();
    check(
        "XSETBV of the guest is kept",
        exit.code == HLT && first.extended.xcr0 == 7,
        first.extended.xcr0,
    );
    check(
        "YMM7 of the guest is kept",
        first.extended.xsave.ymm_high[7][..8] == mark.to_le_bytes(),
        exit,
    );
    second.run_on();
    let seen = &second.registers;
    let words = [seen.r8, seen.r9, seen.r10, seen.r11, seen.r12, seen.r13];
    check("another guest sees none of it", words == [0; 6], words);
    first.skip(1);
    first.run_on();
    let seen = &first.registers;
    let words = [
        seen.r8, seen.r9, seen.r10, seen.r11, seen.r12, seen.r13, seen.r14,
    ];
    check(
        "the guest itself sees all of it",
        words == [mark, mark, mark, mark, 0x3800, 77, 7],
        words,
    );
    second.extended.set_pkru(0x5555_5550);
    second.vmcb.save.rip -= 1;
    second.run_on();
    check(
        "PKRU is kept",
        second.extended.pkru() == 0x5555_5550,
        second.extended.pkru(),
    );
    first.vmcb.save.rip -= 1;
    first.run_on();
    check(
        "PKRU does not leak",
        first.extended.pkru() == 0,
        first.extended.pkru(),
    );
}

fn timer() {
    let mut guest = guest(Entry::Spin);
    let cpu = processor::current();
    let start = clock::tsc();
    let mut worst = 0;
    for _ in 0..20 {
        let deadline = clock::tsc() + clock::ns_to_ticks(1_000_000);
        cpu.timer_fired.store(false, Ordering::Relaxed);
        lapic::arm_timer(deadline);
        guest.run_until(|cpu| cpu.timer_fired.load(Ordering::Relaxed));
        worst = worst.max(clock::tsc().abs_diff(deadline));
    }
    let micros = micros_since(start);
    check(
        "the timer interrupts a guest with IF=0 20 times",
        guest.registers.rbx > 0,
        guest.registers.rbx,
    );
    console::line(format_args!(
        "selftest: 20 timers of 1 ms {micros} us, farthest off {} us",
        clock::ticks_to_ns(worst) / 1000
    ));
    cpu.timer_fired.store(false, Ordering::Relaxed);
    check(
        "a sleep ends by its deadline",
        !sleep::until(1_000_000, || false),
        micros_since(start) - micros,
    );
    check(
        "nothing is left pending",
        !cpu.has_pending() && cpu.nmis.load(Ordering::Relaxed) == 0,
        cpu.next_external(),
    );
}

/// The pair of PICs reaches the guest's processor at the vectors they were programmed with.
fn pic() {
    let mut guest = guest(Entry::Spin);
    let words = [
        (0x20, 0x11),
        (0x21, 0x38),
        (0x21, 4),
        (0x21, 1),
        (0x43, 0x30),
        (0x40, 0),
        (0x40, 4),
        (0x21, 0xFE),
    ];
    for (port, value) in words {
        // SAFETY: the interrupt controller and timer, whose interrupts have handlers.
        unsafe { outb(port, value) };
    }
    guest.run_until(|cpu| cpu.next_external().is_some());
    let vector = processor::current().take_external();
    check(
        "the PIC's timer arrives at the guest's vector",
        vector == Some(0x38),
        vector,
    );
    // SAFETY: as above.
    unsafe { outb(0x20, 0x20) };
    // SAFETY: as above.
    unsafe { outb(0x21, 0xFF) };
}

fn other_processors() {
    let others = smp::start(other);
    check(
        "all processors start",
        others + 1 == smp::count(),
        smp::count(),
    );
    for index in 0..others {
        let Some(cpu) = processor::get(index) else {
            continue;
        };
        let before = KICKED.load(Ordering::Relaxed);
        let start = clock::tsc();
        lapic::kick(cpu);
        let is_kicked = sleep::until(2_000_000_000, || KICKED.load(Ordering::Acquire) > before);
        check("a kick gets a processor out of its guest", is_kicked, index);
        console::line(format_args!(
            "selftest: kick and answer {} us",
            micros_since(start)
        ));
    }
}

fn other() -> ! {
    let mut guest = guest(Entry::Spin);
    guest.run_until(|cpu| cpu.kicked.load(Ordering::Acquire));
    KICKED.fetch_add(1, Ordering::Release);
    if let Some(boot) = processor::get(smp::boot_index()) {
        lapic::kick(boot);
    }
    loop {
        sleep::until_interrupt();
    }
}
