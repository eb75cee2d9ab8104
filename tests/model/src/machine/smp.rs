//! Starting the other processors, and who runs guests.
//!
//! The boot processor runs no guest when there are others. QEMU's TCG keeps IGNNE#, a signal of old coprocessors, among the flags
//! of its first processor that VMRUN and #VMEXIT change as well, and any other processor that loads x87 state without a pending
//! exception (FXRSTOR, XRSTOR, FLDENV) writes these flags from its own thread, without a lock: the first then loses a change, and
//! its host runs on with the guest's nested paging. This is so in QEMU 7.2 and 10.0.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;

use super::memory::{HostPa, write};
use super::processor::{self, PerCpu};
use super::{interrupts, lapic, segments, sleep};
use crate::svm;

/// Where the trampoline runs: page 8, below 1 MiB and never given out.
const TRAMPOLINE_PAGE: u8 = 8;
/// Bytes of a processor's stack.
const STACK_BYTES: usize = 0x2_0000;
/// How long a processor may take to come up.
const PATIENCE_NS: u64 = 2_000_000_000;
/// The pause between INIT and the startup interrupt.
const INIT_PAUSE_NS: u64 = 200_000;

/// APIC ids of the processors to start, in the order of their numbers.
static OTHERS: Once<Vec<u32>> = Once::new();
/// Where a started processor goes.
static ENTRY: Once<fn() -> !> = Once::new();

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
    static other_stack: AtomicU64;
    static other_argument: AtomicU64;
}

/// Remembers whom to start: all of `apic_ids` but the boot processor's `own`.
pub(super) fn set_processors(own: u32, apic_ids: &[u32]) {
    let others = apic_ids.iter().copied();
    OTHERS.call_once(|| others.filter(|id| *id != own && *id < 255).collect());
}

/// Returns the number of the boot processor: the last, 0 if it is alone.
#[must_use]
pub fn boot_index() -> u32 {
    u32::try_from(OTHERS.get().map_or(0, Vec::len)).unwrap_or(u32::MAX)
}

/// Returns how many processors the machine has, started or not.
#[must_use]
pub fn count() -> u32 {
    boot_index().saturating_add(1)
}

/// Returns how many processors run guests: those numbered from 0 on.
#[must_use]
pub fn runners() -> u32 {
    boot_index().max(1)
}

/// Starts all other processors, one after another; each is made ready as the boot processor was and then runs `entry`, with
/// interrupts off. To be called once, by the boot processor. Returns how many of them run.
pub fn start(entry: fn() -> !) -> u32 {
    let Some(others) = OTHERS.get().filter(|others| !others.is_empty()) else {
        return 0;
    };
    ENTRY.call_once(|| entry);
    place_trampoline();
    (0..)
        .zip(others)
        .map(|(index, apic_id)| u32::from(start_one(index, *apic_id)))
        .sum()
}

fn place_trampoline() {
    let start = &raw const trampoline;
    let length = (&raw const trampoline_end).addr() - start.addr();
    // SAFETY: the bytes between the two labels are the trampoline's.
    let code = unsafe { core::slice::from_raw_parts(start, length) };
    // SAFETY: low memory is not given out, and no processor runs there yet.
    unsafe { write(HostPa::new(u64::from(TRAMPOLINE_PAGE) << 12), code) };
}

fn start_one(index: u32, apic_id: u32) -> bool {
    let Some(cpu) = PerCpu::try_new(index, apic_id).map(Box::new).map(Box::leak) else {
        log::error!("no memory for processor {index}");
        return false;
    };
    // SAFETY: an aligned word of the image.
    let stack = unsafe { &other_stack };
    stack.store(segments::new_stack(STACK_BYTES), Ordering::Release);
    // SAFETY: an aligned word of the image.
    let argument = unsafe { &other_argument };
    argument.store(HostPa::of(cpu).as_u64(), Ordering::Release);
    lapic::send_init(apic_id);
    sleep::until(INIT_PAUSE_NS, || false);
    lapic::send_startup(apic_id, TRAMPOLINE_PAGE);
    let is_up = sleep::until(PATIENCE_NS, || processor::get(index).is_some());
    processor::current().kicked.store(false, Ordering::Relaxed);
    if !is_up {
        log::error!("processor {index} (APIC id {apic_id}) does not start");
    }
    is_up
}

/// Makes the processor this runs on ready: its block, segments, interrupts, APIC, extended state and SVM.
pub(super) fn make_ready(cpu: &'static PerCpu) {
    processor::install(cpu);
    segments::load();
    interrupts::load();
    lapic::start();
    svm::enable();
}

/// Where the assembly goes on a processor that was started.
#[unsafe(no_mangle)]
extern "C" fn model_other_main(cpu: &'static PerCpu) -> ! {
    make_ready(cpu);
    processor::announce(cpu);
    if let Some(boot) = processor::get(boot_index()) {
        lapic::kick(boot);
    }
    match ENTRY.get() {
        Some(entry) => entry(),
        None => loop {
            sleep::until_interrupt();
        },
    }
}
