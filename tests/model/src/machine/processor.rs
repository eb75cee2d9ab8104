//! What each processor keeps for itself, found through its GS base.
//!
//! Interrupt handlers do nothing but record here; the code that runs guests looks after each exit. All of it is atomic or of the
//! processor's own.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Once;

use super::memory::{HostPa, PageBox};

/// Processors there can be: xAPIC ids are eight bits and 255 is everyone.
pub const MAXIMUM: usize = 255;

static PROCESSORS: [Once<&'static PerCpu>; MAXIMUM] = [const { Once::new() }; MAXIMUM];

/// One processor's own words.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Its own address: `gs:[0]`.
    this: AtomicU64,
    /// Its number, which is that of the vCPU it runs: in MADT order, the one that booted last.
    pub index: u32,
    /// Its local APIC's id.
    pub apic_id: u32,
    /// The timer went off since this was last cleared.
    pub timer_fired: AtomicBool,
    /// Another processor asked for attention since this was last cleared.
    pub kicked: AtomicBool,
    /// The console's interrupt came since this was last cleared (number 0 only).
    pub console_interrupt: AtomicBool,
    /// The TSC value this processor's timer is set for; all ones when it is not.
    pub(super) timer_deadline: AtomicU64,
    /// NMIs taken.
    pub nmis: AtomicU32,
    /// Interrupts taken.
    pub interrupts: AtomicU64,
    /// The page VMRUN keeps the host's state in.
    host_save: PageBox<[u8; 0x1000]>,
    /// The host's segments and MSRs as VMSAVE stored them.
    host_segments: PageBox<[u8; 0x1000]>,
    /// A bit for each vector that came and is nobody's above: what the guest's own interrupt controllers raised.
    external: VectorSet,
    /// The same of what came as a message of a device (MSI).
    messages: VectorSet,
}

impl PerCpu {
    /// Returns the block of a processor about to start, or `None` when memory is exhausted.
    #[must_use]
    pub(super) fn try_new(index: u32, apic_id: u32) -> Option<Self> {
        Some(Self {
            this: AtomicU64::new(0),
            index,
            apic_id,
            timer_fired: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            console_interrupt: AtomicBool::new(false),
            timer_deadline: AtomicU64::new(u64::MAX),
            nmis: AtomicU32::new(0),
            interrupts: AtomicU64::new(0),
            host_save: PageBox::try_new_zeroed()?,
            host_segments: PageBox::try_new_zeroed()?,
            external: VectorSet::new(),
            messages: VectorSet::new(),
        })
    }

    /// Returns the page for VM_HSAVE_PA.
    pub(crate) fn host_save(&self) -> HostPa {
        self.host_save.address()
    }

    /// Returns the page VMLOAD gives the host its segments back from.
    pub(crate) fn host_segments(&self) -> HostPa {
        self.host_segments.address()
    }

    /// Records a vector that belongs to the guest.
    pub(super) fn record_external(&self, vector: u8) {
        self.external.insert(vector);
    }

    /// Returns and forgets the lowest vector that came for the guest: of one PIC the interrupt of highest priority.
    pub fn take_external(&self) -> Option<u8> {
        self.external
            .lowest()
            .inspect(|vector| self.external.remove(*vector))
    }

    /// Returns the vector [`take_external`](Self::take_external) would.
    #[must_use]
    pub fn next_external(&self) -> Option<u8> {
        self.external.lowest()
    }

    /// Records the vector of a device's message.
    pub(super) fn record_message(&self, vector: u8) {
        self.messages.insert(vector);
    }

    /// Returns and forgets a vector that came as a device's message.
    pub fn take_message(&self) -> Option<u8> {
        self.messages
            .lowest()
            .inspect(|vector| self.messages.remove(*vector))
    }

    /// Whether anything at all waits to be looked at.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        let flags = [&self.timer_fired, &self.kicked, &self.console_interrupt];
        flags.iter().any(|flag| flag.load(Ordering::Acquire))
            || self.next_external().is_some()
            || self.messages.lowest().is_some()
    }
}

/// Points this processor's GS base at its block.
pub(super) fn install(cpu: &'static PerCpu) {
    let address = core::ptr::from_ref(cpu).expose_provenance() as u64;
    cpu.this.store(address, Ordering::Relaxed);
    // SAFETY: GS is used for nothing else in the model, and the block lives for ever.
    unsafe { x86::msr::wrmsr(x86::msr::IA32_GS_BASE, address) };
}

/// Lets the other processors find `cpu`, which is ready.
pub(super) fn announce(cpu: &'static PerCpu) {
    let slot = usize::try_from(cpu.index)
        .ok()
        .and_then(|index| PROCESSORS.get(index));
    if let Some(slot) = slot {
        slot.call_once(|| cpu);
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

/// A set of vectors, changed by a processor and its own interrupt handlers.
#[derive(Debug)]
struct VectorSet([AtomicU64; 4]);

impl VectorSet {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 4])
    }

    fn insert(&self, vector: u8) {
        self.0[usize::from(vector / 64)].fetch_or(1 << (vector % 64), Ordering::Relaxed);
    }

    fn remove(&self, vector: u8) {
        self.0[usize::from(vector / 64)].fetch_and(!(1 << (vector % 64)), Ordering::Relaxed);
    }

    fn lowest(&self) -> Option<u8> {
        (0..=u8::MAX)
            .step_by(64)
            .zip(&self.0)
            .find_map(|(first, bits)| {
                let lowest = bits.load(Ordering::Relaxed).trailing_zeros();
                u8::try_from(lowest)
                    .ok()
                    .filter(|lowest| *lowest < 64)
                    .map(|lowest| first + lowest)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_all_256_vectors_is_found() {
        let set = VectorSet::new();
        assert_eq!(set.lowest(), None);
        for vector in (0..=u8::MAX).rev() {
            set.insert(vector);
            assert_eq!(set.lowest(), Some(vector));
        }
        for vector in 0..=u8::MAX {
            assert_eq!(set.lowest(), Some(vector));
            set.remove(vector);
        }
        assert_eq!(set.lowest(), None);
    }
}
