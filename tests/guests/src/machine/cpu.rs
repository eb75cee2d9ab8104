//! What each processor keeps: its number, what interrupted it, who handles what.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::apic::follow_mode;
use super::processor::wrmsr;

/// The most processors there can be; APIC ids below this.
pub(crate) const MOST: usize = 16;
const GS_BASE: u32 = 0xC000_0101;
const LOG: usize = 32;

/// One processor. All of it may be read by the others.
#[repr(C)]
pub(crate) struct Cpu {
    /// At GS:0.
    index: AtomicU64,
    /// Stack pointer of the innermost catch, 0 if there is none.
    pub(super) catch: AtomicU64,
    pub(super) fault: [AtomicU64; 5],
    pub(super) counts: [AtomicU32; 256],
    pub(super) log: [AtomicU8; LOG],
    pub(super) logged: AtomicUsize,
    pub(super) hooks: [AtomicUsize; 256],
    /// Whether its local APIC is in x2APIC mode.
    pub(super) is_x2apic: AtomicBool,
    /// What it is to do once started, and how far it is.
    pub(super) job: AtomicUsize,
    pub(super) state: AtomicU32,
    /// CS, CR0 and EDX as it found them when it started.
    pub(super) found: [AtomicU32; 3],
}

static CPUS: [Cpu; MOST] = [const { Cpu::new() }; MOST];

impl Cpu {
    const fn new() -> Self {
        Self {
            index: AtomicU64::new(0),
            catch: AtomicU64::new(0),
            fault: [const { AtomicU64::new(0) }; 5],
            counts: [const { AtomicU32::new(0) }; 256],
            log: [const { AtomicU8::new(0) }; LOG],
            logged: AtomicUsize::new(0),
            hooks: [const { AtomicUsize::new(0) }; 256],
            is_x2apic: AtomicBool::new(false),
            job: AtomicUsize::new(0),
            state: AtomicU32::new(0),
            found: [const { AtomicU32::new(0) }; 3],
        }
    }

    /// Returns its number, which is its APIC id.
    pub(crate) fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed) as usize
    }

    /// Returns how often a vector came since [`Self::clear`].
    pub(crate) fn count(&self, vector: u8) -> u32 {
        self.counts[usize::from(vector)].load(Ordering::Acquire)
    }

    /// Returns how many interrupts and NMIs came since [`Self::clear`].
    pub(crate) fn taken(&self) -> usize {
        self.logged.load(Ordering::Acquire)
    }

    /// Returns the vector that came as number `place`.
    pub(crate) fn taken_at(&self, place: usize) -> Option<u8> {
        let is_there = place < self.taken();
        let entry = self.log.get(place).filter(|_| is_there)?;
        Some(entry.load(Ordering::Acquire))
    }

    /// Forgets what came, and every hook.
    pub(crate) fn clear(&self) {
        self.forget();
        for hook in &self.hooks {
            hook.store(0, Ordering::Relaxed);
        }
    }

    /// Forgets what came.
    pub(crate) fn forget(&self) {
        for count in &self.counts {
            count.store(0, Ordering::Relaxed);
        }
        self.logged.store(0, Ordering::Release);
    }

    /// Records that a vector came.
    pub(crate) fn record(&self, vector: u8) {
        self.counts[usize::from(vector)].fetch_add(1, Ordering::AcqRel);
        let place = self.logged.load(Ordering::Relaxed);
        if let Some(entry) = self.log.get(place) {
            entry.store(vector, Ordering::Relaxed);
        }
        self.logged.store(place + 1, Ordering::Release);
    }

    /// Returns CS, CR0 and EDX as the processor found them when it started.
    pub(crate) fn found(&self) -> [u32; 3] {
        self.found
            .each_ref()
            .map(|value| value.load(Ordering::Acquire))
    }
}

/// Makes this processor number `index`.
pub(super) fn init(index: usize) {
    let cpu = of(index);
    cpu.index.store(index as u64, Ordering::Relaxed);
    cpu.catch.store(0, Ordering::Relaxed);
    wrmsr(GS_BASE, core::ptr::from_ref(cpu).addr() as u64);
    follow_mode();
}

/// Returns a processor by its number.
pub(crate) fn of(index: usize) -> &'static Cpu {
    &CPUS[index % MOST]
}

/// Returns the processor this runs on.
pub(crate) fn current() -> &'static Cpu {
    let index: u64;
    unsafe { asm!("mov {}, gs:[0]", out(reg) index, options(nostack, preserves_flags)) };
    of(index as usize)
}
