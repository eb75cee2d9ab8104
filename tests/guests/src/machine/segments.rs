//! Each processor's GDT, TSS and interrupt stacks.

use core::arch::asm;
use core::cell::UnsafeCell;

use super::cpu::{self, MOST};
use super::memory::Pointer;

pub(crate) const CODE: u16 = 0x08;
pub(crate) const DATA: u16 = 0x10;
pub(crate) const USER_CODE: u16 = 0x38 | 3;
pub(crate) const USER_DATA: u16 = 0x40 | 3;
const TSS: u16 = 0x48;

/// Interrupt stacks, by the number a gate names.
pub(crate) const STACK_EXCEPTION: u8 = 1;
pub(crate) const STACK_NMI: u8 = 2;
pub(crate) const STACK_DOUBLE_FAULT: u8 = 3;
pub(crate) const STACK_DEBUG: u8 = 4;
pub(crate) const STACK_INTERRUPT: u8 = 5;
/// For checks: where it points is theirs to say.
pub(crate) const STACK_SPARE: u8 = 7;
const STACKS: usize = 5;
const STACK_BYTES: usize = 0x1800;

#[repr(C, align(16))]
struct Table {
    gdt: [u64; 11],
    tss: [u32; 26],
    stacks: [[u8; STACK_BYTES]; STACKS],
}

struct Tables(UnsafeCell<[Table; MOST]>);
// Each processor touches its own only.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables(UnsafeCell::new(
    [const {
        Table {
            gdt: [0; 11],
            tss: [0; 26],
            stacks: [[0; STACK_BYTES]; STACKS],
        }
    }; MOST],
));

fn table() -> *mut Table {
    unsafe { TABLES.0.get().cast::<Table>().add(cpu::current().index()) }
}

/// Loads this processor's tables; code and data segments stay as they are. GS has to be loaded already.
pub(super) fn load() {
    let table = table();
    let tss = unsafe { &raw mut (*table).tss }.addr() as u64;
    let low = 0x67 | (tss & 0xFF_FFFF) << 16 | 0x89 << 40 | (tss >> 24 & 0xFF) << 56;
    let gdt = [
        0,
        0x00AF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        0x00CF_9B00_0000_FFFF,
        0x0000_9B00_0000_FFFF,
        0x0000_9300_0000_FFFF,
        0xFE00_93E0_0000_FFFF,
        0x00AF_FB00_0000_FFFF,
        0x00CF_F300_0000_FFFF,
        low,
        tss >> 32,
    ];
    unsafe { (*table).gdt = gdt };
    for stack in 0..STACKS {
        let top = unsafe {
            (&raw mut (*table).stacks)
                .cast::<u8>()
                .add((stack + 1) * STACK_BYTES)
        };
        set_interrupt_stack(stack as u8 + 1, top.addr() as u64);
    }
    unsafe { (*table).tss[25] = 0x68 << 16 };
    let pointer = Pointer::new(unsafe { &raw const (*table).gdt }.addr() as u64, 11 * 8 - 1);
    unsafe {
        asm!("lgdt [{}]", in(reg) &raw const pointer);
        asm!("ltr {:x}", in(reg) TSS);
        asm!("mov ss, {:x}", in(reg) DATA);
    }
}

/// Says where an interrupt stack of this processor starts, and returns where it did.
pub(crate) fn set_interrupt_stack(stack: u8, top: u64) -> u64 {
    set_word(7 + 2 * usize::from(stack), top)
}

/// Says where the stack of ring 0 starts, for entries from ring 3 by gates without an interrupt stack.
pub(crate) fn set_ring0_stack(top: u64) {
    set_word(1, top);
}

/// Sets the 64-bit value at word `place` of the TSS, which counts words of 4 bytes.
fn set_word(place: usize, value: u64) -> u64 {
    unsafe {
        let word = (&raw mut (*table()).tss)
            .cast::<u32>()
            .add(place)
            .cast::<u64>();
        let before = word.read_unaligned();
        word.write_unaligned(value);
        before
    }
}
