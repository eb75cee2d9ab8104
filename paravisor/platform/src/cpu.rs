//! What each processor has of its own, found through the GS base: whole pages, which modules' page tables have too.

use alloc::boxed::Box;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;
use stockade_entry::module::{GATE_OFFSET, Gate};

use crate::exception::descriptors::{Descriptors, STACKS};
use crate::ghcb::Ghcb;
use crate::processor;

const GS_BASE: u32 = 0xC000_0101;

/// Whether every processor that runs Rust has its area.
static READY: AtomicBool = AtomicBool::new(false);

/// The area of one processor. Its own address comes first, where GS points.
#[repr(C, align(4096))]
pub(crate) struct CpuArea {
    this: Option<NonNull<CpuArea>>,
    gate: UnsafeCell<Gate>,
    ghcb: Once<Ghcb>,
    descriptors: Descriptors,
}

const _: () = assert!(offset_of!(CpuArea, gate) == GATE_OFFSET && size_of::<CpuArea>() == 4096);

// SAFETY: `this` is set before the area is shared, and only ever read by an instruction. The gate is reached by raw pointers only, on its
// own processor.
unsafe impl Sync for CpuArea {}
// SAFETY: as above; the area is never freed.
unsafe impl Send for CpuArea {}

impl CpuArea {
    /// Returns the area of a processor that has none yet; its exception handlers run on the stacks that end at `stacks`.
    pub(crate) fn allocate(stacks: [u64; STACKS]) -> &'static Self {
        let area = Box::leak(Box::new(Self {
            this: None,
            gate: UnsafeCell::new(Gate::new()),
            ghcb: Once::new(),
            descriptors: Descriptors::new(stacks),
        }));
        area.this = Some(NonNull::from(&mut *area));
        area.descriptors.place();
        area
    }

    /// Returns the processor's descriptors.
    pub(crate) fn descriptors(&'static self) -> &'static Descriptors {
        &self.descriptors
    }

    /// Returns the gate to modules.
    pub(crate) fn gate(&self) -> *mut Gate {
        self.gate.get()
    }

    /// Makes it the area of the first processor, which executes this.
    pub(crate) fn install(&'static self) {
        // SAFETY: 1. the register exists. 2. Rust code does not use GS but through `current`.
        unsafe { processor::write_msr(GS_BASE, self.address()) };
        READY.store(true, Ordering::Release);
    }

    /// Returns what GS points at on its processor.
    pub(crate) fn address(&'static self) -> u64 {
        ptr::from_ref(self).addr() as u64
    }

    /// Gives the processor its GHCB.
    pub(crate) fn set_ghcb(&self, ghcb: Ghcb) {
        self.ghcb.call_once(|| ghcb);
    }

    /// Returns the processor's GHCB, once it has one.
    pub(crate) fn ghcb(&self) -> Option<&Ghcb> {
        self.ghcb.get()
    }
}

/// Returns the area of the processor that executes this, once it has one.
pub(crate) fn current() -> Option<&'static CpuArea> {
    if !READY.load(Ordering::Acquire) {
        return None;
    }
    let area: *const CpuArea;
    // SAFETY: `install` pointed GS at an area that begins with its own address.
    unsafe { asm!("mov {}, gs:[0]", out(reg) area, options(nostack, readonly, preserves_flags)) };
    // SAFETY: the area is leaked and only referred to as shared; `Once` orders its change.
    unsafe { area.as_ref() }
}
