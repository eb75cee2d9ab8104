//! Runs inside a guest: looks at each processor from that processor, and compares their time-stamp counters.
//!
//! For each processor a line `guest-check: processor N name=value …` with what CPUID says of its place. Then the counters: all
//! processors hand a token round in random order; whoever takes it reads its counter, which must not be behind what the one before
//! it read. `guest-check: tsc handovers=H warps=W` is the outcome.

use std::arch::x86_64::{__cpuid_count, __rdtscp, CpuidResult};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// How often the token is taken, all processors together.
const HANDOVERS: u64 = 40_000;

fn main() {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    for processor in 0..processors {
        pin(processor);
        println!("guest-check: processor {processor} {}", place());
    }
    let warps = warps(processors);
    println!("guest-check: tsc handovers={HANDOVERS} warps={warps}");
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a processor of this guest");
    sched_setaffinity(Pid::from_raw(0), &set).expect("the processor is online");
}

/// What CPUID says of where this processor is.
fn place() -> String {
    let (first, highest) = (cpuid(1, 0), cpuid(0, 0).eax);
    let mut text = format!(
        "id={} logical={} cores={}",
        first.ebx >> 24,
        first.ebx >> 16 & 0xFF,
        cpuid(0x8000_0008, 0).ecx & 0xFF
    );
    text += &format!(" x2apic={}", first.ecx >> 21 & 1);
    for (leaf, name) in [(0xB, "b"), (0x1F, "1f")] {
        if leaf <= highest {
            let (thread, core) = (cpuid(leaf, 0), cpuid(leaf, 1));
            text += &format!(
                " {name}-id={} {name}-threads={} {name}-cores={} {name}-shift={}",
                thread.edx,
                thread.ebx & 0xFFFF,
                core.ebx & 0xFFFF,
                core.eax & 0x1F
            );
        }
    }
    let core = cpuid(0x8000_001E, 0);
    text += &format!(
        " 1e-id={} 1e-core={} 1e-threads={} 1e-node={}",
        core.eax,
        core.ebx & 0xFF,
        (core.ebx >> 8 & 0xFF) + 1,
        core.ecx & 0xFF
    );
    text
}

/// Returns how often a counter was behind the one read before it on another processor.
fn warps(processors: usize) -> u64 {
    let (last, taken, warps) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for processor in 0..processors {
            let (last, taken, warps) = (&last, &taken, &warps);
            scope.spawn(move || {
                pin(processor);
                while taken.fetch_add(1, Ordering::Relaxed) < HANDOVERS {
                    // What is read here was read elsewhere before our own counter is.
                    let before = last.load(Ordering::SeqCst);
                    let now = counter();
                    if now < before {
                        warps.fetch_add(1, Ordering::Relaxed);
                    }
                    last.fetch_max(now, Ordering::SeqCst);
                }
            });
        }
    });
    warps.into_inner()
}

#[expect(
    unsafe_code,
    reason = "the instruction has no safe name on every compiler"
)]
fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    #[expect(unused_unsafe, reason = "newer compilers call it safe")]
    // SAFETY: every 64-bit processor has CPUID.
    unsafe {
        __cpuid_count(leaf, subleaf)
    }
}

/// Reads the counter, not before what stands before it in the program (APM vol. 3, RDTSCP).
#[expect(unsafe_code, reason = "an instruction")]
fn counter() -> u64 {
    let mut processor = 0;
    // SAFETY: the guest's processor has RDTSCP, and it is a local variable that it writes to.
    unsafe { __rdtscp(&mut processor) }
}
