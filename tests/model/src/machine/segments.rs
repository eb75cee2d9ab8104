//! Each processor's GDT and TSS: flat segments, and a stack for each kind of interruption.
//!
//! Precompiled code uses the red zone, so no interrupt may push onto the stack it found: every gate names one of [`Stack`].

use alloc::boxed::Box;
use alloc::vec;

use x86::Ring;
use x86::dtables::{DescriptorTablePointer, lgdt};
use x86::segmentation::{self, SegmentSelector};
use x86::task::load_tr;

use super::memory::HostPa;
use super::paging;

/// Selector of the code segment.
pub(super) const CODE: u16 = 0x08;
const DATA_INDEX: u16 = 2;
const TSS_INDEX: u16 = 3;

/// The interrupt stack a gate switches to; the number is the IST index. APM vol. 2, 8.9.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    /// Interrupts.
    Interrupt = 1,
    /// NMI.
    Nmi = 2,
    /// Double fault.
    DoubleFault = 3,
    /// Other exceptions.
    Exception = 4,
    /// Machine check.
    MachineCheck = 5,
}

/// Bytes of each interrupt stack.
const STACK_BYTES: usize = 0x4000;

/// The 64-bit TSS. APM vol. 2, 12.2.5.
#[repr(C, packed(4))]
struct Tss {
    reserved: u32,
    stacks: [u64; 3],
    reserved_1c: u64,
    interrupt_stacks: [u64; 7],
    reserved_5c: [u16; 5],
    io_map: u16,
}

const _: () = assert!(size_of::<Tss>() == 0x68);

/// Loads segments of this processor's own; they are never freed.
pub(super) fn load() {
    let mut interrupt_stacks = [0; 7];
    for top in &mut interrupt_stacks[..Stack::MachineCheck as usize] {
        *top = new_stack(STACK_BYTES);
    }
    let tss = Box::leak(Box::new(Tss {
        reserved: 0,
        stacks: [0; 3],
        reserved_1c: 0,
        interrupt_stacks,
        reserved_5c: [0; 5],
        io_map: 0x68,
    }));
    let [tss_low, tss_high] = tss_descriptor(core::ptr::from_ref(tss).addr() as u64);
    let gdt = Box::leak(Box::new([
        0,
        0x00AF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        tss_low,
        tss_high,
    ]));
    // SAFETY: the table lives for ever, and its code segment is what the processor runs on already.
    unsafe { lgdt(&DescriptorTablePointer::<[u64; 5]>::new(gdt)) };
    // SAFETY: a present, available TSS that lives for ever.
    unsafe { load_tr(SegmentSelector::new(TSS_INDEX, Ring::Ring0)) };
    // SAFETY: a writable data segment.
    unsafe { segmentation::load_ss(SegmentSelector::new(DATA_INDEX, Ring::Ring0)) };
}

/// Returns the top of a new stack, which is never freed and has a guard page below.
pub(super) fn new_stack(bytes: usize) -> u64 {
    let memory = vec![Page([0; 0x1000]); 1 + bytes / 0x1000].leak();
    if let [guard, ..] = memory {
        // SAFETY: the page is leaked, and nobody has its address but us.
        let is_guarded = unsafe { paging::guard(HostPa::of(guard)) };
        assert!(is_guarded, "no memory for page tables");
    }
    memory.as_ptr_range().end.addr() as u64
}

#[derive(Clone)]
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "the bytes of a stack")] [u8; 0x1000]);

/// An available 64-bit TSS. APM vol. 2, 4.8.3.
fn tss_descriptor(base: u64) -> [u64; 2] {
    let low = 0x67 | (base & 0xFF_FFFF) << 16 | 0x89 << 40 | (base >> 24 & 0xFF) << 56;
    [low, base >> 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tss_descriptor_carries_all_of_its_base() {
        let [low, high] = tss_descriptor(0x1234_5678_9ABC_DEF0);
        assert_eq!(low, 0x9A00_89BC_DEF0_0067);
        assert_eq!(high, 0x1234_5678);
    }
}
