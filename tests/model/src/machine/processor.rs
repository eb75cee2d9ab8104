//! What each processor keeps for itself, found through its GS base.
//!
//! Interrupt handlers do nothing but record here; the code that runs guests looks after each exit. All of it is atomic or of the
//! processor's own.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Once;

/// Processors there can be: xAPIC ids are eight bits and 255 is everyone.
pub const MAXIMUM: usize = 255;

static PROCESSORS: [Once<&'static PerCpu>; MAXIMUM] = [const { Once::new() }; MAXIMUM];

/// One processor's own words.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PerCpu {
    /// Its own address: `gs:[0]`.
    this: AtomicU64,
    /// Its number: 0 is the one that booted, the others follow in MADT order.
    pub index: u32,
    /// Its local APIC's id.
    pub apic_id: u32,
    /// The timer went off since this was last cleared.
    pub timer_fired: AtomicBool,
    /// Another processor asked for attention since this was last cleared.
    pub kicked: AtomicBool,
    /// The console's interrupt came since this was last cleared (first processor only).
    pub console_interrupt: AtomicBool,
    /// NMIs taken.
    pub nmis: AtomicU32,
    /// Interrupts taken.
    pub interrupts: AtomicU64,
    /// A bit for each vector that came and is nobody's above: what the guest's own interrupt controllers raised.
    external: [AtomicU64; 4],
}

impl PerCpu {
    /// Returns the block of a processor about to start.
    #[must_use]
    pub(super) const fn new(index: u32, apic_id: u32) -> Self {
        Self {
            this: AtomicU64::new(0),
            index,
            apic_id,
            timer_fired: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            console_interrupt: AtomicBool::new(false),
            nmis: AtomicU32::new(0),
            interrupts: AtomicU64::new(0),
            external: [const { AtomicU64::new(0) }; 4],
        }
    }

    /// Records a vector that belongs to the guest.
    pub(super) fn record_external(&self, vector: u8) {
        self.external[usize::from(vector / 64)].fetch_or(1 << (vector % 64), Ordering::Relaxed);
    }

    /// Returns and forgets the lowest vector that came for the guest: of one PIC the interrupt of highest priority.
    pub fn take_external(&self) -> Option<u8> {
        self.next_external().inspect(|vector| {
            self.external[usize::from(vector / 64)]
                .fetch_and(!(1 << (vector % 64)), Ordering::Relaxed);
        })
    }

    /// Returns the vector [`take_external`](Self::take_external) would.
    #[must_use]
    pub fn next_external(&self) -> Option<u8> {
        (0_u8..4).zip(&self.external).find_map(|(word, bits)| {
            let bits = bits.load(Ordering::Relaxed);
            let lowest = u8::try_from(bits.trailing_zeros()).ok()?;
            (bits != 0).then_some(word * 64 + lowest)
        })
    }

    /// Whether anything at all waits to be looked at.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        let flags = [&self.timer_fired, &self.kicked, &self.console_interrupt];
        flags.iter().any(|flag| flag.load(Ordering::Acquire)) || self.next_external().is_some()
    }
}

/// Returns the block of processor `index`, once it runs.
#[must_use]
pub fn get(index: u32) -> Option<&'static PerCpu> {
    PROCESSORS.get(usize::try_from(index).ok()?)?.get().copied()
}

/// Returns the block of the processor this runs on.
#[must_use]
pub fn current() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: GS base points at the block from before the first interrupt on, and never changes in the model.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly))
    };
    // SAFETY: the block lives for ever and is only shared.
    unsafe { &*this }
}
