//! Segment, task and interrupt descriptors of one processor (APM vol. 2, 4.8, 8.9 and 12.2.5).

use alloc::boxed::Box;

use spin::Once;
use stockade_entry::{exception, window};
use x86::bits64::segmentation::load_cs;
use x86::bits64::task::TaskStateSegment;
use x86::dtables::{DescriptorTablePointer, lgdt, lidt};
use x86::segmentation::{SegmentSelector, load_ss};
use x86::task::load_tr;

const CODE: u64 = 0x00AF_9B00_0000_FFFF;
const DATA: u64 = 0x00CF_9300_0000_FFFF;
pub(crate) const CODE_SELECTOR: u16 = 0x08;
pub(crate) const DATA_SELECTOR: u16 = 0x10;
const TASK_SELECTOR: u16 = 0x18;
/// Of modules at CPL-3; the selectors are `stockade_entry::module`'s.
const USER_DATA: u64 = 0x00CF_F300_0000_FFFF;
const USER_CODE: u64 = 0x00AF_FB00_0000_FFFF;
/// Present, interrupt gate: interrupts stay off in the handler.
const INTERRUPT_GATE: u64 = 0x8E << 40;

/// How many interrupt stacks a processor needs.
pub(crate) const STACKS: usize = 5;

const NMI: usize = 2;
const DF: usize = 8;
const HV: usize = 28;
const VC: usize = 29;

/// Returns which stack (IST index, from 1) a vector uses: one each for what may come on top of another handler.
fn stack_of(vector: usize) -> u64 {
    match vector {
        DF => 1,
        NMI => 2,
        VC => 3,
        HV => 4,
        _ => 5,
    }
}

/// A page of its own: modules' page tables have it too.
#[repr(C, align(4096))]
struct Idt([[u64; 2]; 256]);

static IDT: Once<Box<Idt>> = Once::new();

/// Returns where the interrupt descriptors lie, which all processors share: one page.
pub(crate) fn idt_page() -> u64 {
    core::ptr::from_ref(idt()).addr() as u64
}

fn idt() -> &'static [[u64; 2]; 256] {
    let idt = IDT.call_once(|| {
        let mut table = Box::new(Idt([[0; 2]; 256]));
        for (vector, gate) in (0..=u8::MAX).zip(table.0.iter_mut()) {
            let handler = match usize::from(vector) {
                HV => window::hv_stub(),
                _ => exception::stub(vector),
            };
            *gate = interrupt_gate(handler, stack_of(usize::from(vector)));
        }
        table
    });
    &idt.0
}

fn interrupt_gate(handler: u64, stack: u64) -> [u64; 2] {
    let low = handler & 0xFFFF
        | u64::from(CODE_SELECTOR) << 16
        | stack << 32
        | INTERRUPT_GATE
        | (handler & 0xFFFF_0000) << 32;
    [low, handler >> 32]
}

fn task_descriptor(base: u64) -> [u64; 2] {
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    let low = limit | (base & 0xFF_FFFF) << 16 | 0x89 << 40 | (base & 0xFF00_0000) << 32;
    [low, base >> 32]
}

/// Descriptors of one processor.
#[repr(C, align(16))]
pub(crate) struct Descriptors {
    task: TaskStateSegment,
    segments: [u64; 7],
}

impl Descriptors {
    /// Returns descriptors whose handlers run on the stacks that end at `stacks`.
    pub(crate) fn new(stacks: [u64; STACKS]) -> Self {
        let mut task = TaskStateSegment::new();
        for (index, top) in stacks.into_iter().enumerate() {
            task.set_ist(index, top);
        }
        Self {
            task,
            segments: [0; 7],
        }
    }

    /// Fills in the descriptor of the task state, which names its own address.
    pub(crate) fn place(&mut self) {
        let [low, high] = task_descriptor(core::ptr::from_ref(&self.task).addr() as u64);
        self.segments = [0, CODE, DATA, low, high, USER_DATA, USER_CODE];
    }
}

/// Loads descriptors, placed, for the processor that executes this.
pub(crate) fn install(descriptors: &'static Descriptors) {
    let gdt = &descriptors.segments;
    // SAFETY: the table is leaked and its descriptors are flat segments and the leaked task state.
    unsafe { lgdt(&DescriptorTablePointer::new(gdt)) };
    // SAFETY: the selector is that of a flat 64-bit code segment, as the one in use.
    unsafe { load_cs(SegmentSelector::from_raw(CODE_SELECTOR)) };
    // SAFETY: the selector is that of a flat data segment.
    unsafe { load_ss(SegmentSelector::from_raw(DATA_SELECTOR)) };
    // SAFETY: the descriptor is an available 64-bit task state segment with valid stacks.
    unsafe { load_tr(SegmentSelector::from_raw(TASK_SELECTOR)) };
    // SAFETY: the table is never freed, and each gate names a stub that keeps the interrupted registers.
    unsafe { lidt(&DescriptorTablePointer::new(idt())) };
}
