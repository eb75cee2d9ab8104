//! The IDT and what happens behind it.
//!
//! A check says what is to be done about a vector by a [`hook`]; without one, interrupts are recorded and ended, and exceptions
//! end the innermost [`catch`].

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, Ordering};

use super::memory::Pointer;
use super::processor::cr2;
use super::segments::{
    CODE, DATA, STACK_DEBUG, STACK_DOUBLE_FAULT, STACK_EXCEPTION, STACK_INTERRUPT, STACK_NMI,
};
use super::{apic, cpu, pic};

pub(crate) const DEBUG: u8 = 1;
pub(crate) const NMI: u8 = 2;
pub(crate) const BREAKPOINT: u8 = 3;
pub(crate) const INVALID_OPCODE: u8 = 6;
pub(crate) const DOUBLE_FAULT: u8 = 8;
pub(crate) const NOT_PRESENT: u8 = 11;
pub(crate) const GENERAL_PROTECTION: u8 = 13;
pub(crate) const PAGE_FAULT: u8 = 14;

global_asm!(include_str!("interrupts.s"), options(att_syntax));

unsafe extern "C" {
    safe static interrupt_stubs: [[u8; 16]; 256];
    fn catch_call(
        function: extern "C" fn(*mut c_void),
        argument: *mut c_void,
        stack: *const AtomicU64,
    ) -> u64;
    fn catch_return();
}

/// What the entry pushed, upwards.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rax: u64,
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// An exception that ended a [`catch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) vector: u8,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cr2: u64,
    pub(crate) rflags: u64,
}

/// What a check does about a vector; with interrupts off.
pub(crate) type Hook = fn(&mut Frame);

/// The IDT: 256 gates of 16 bytes.
pub(crate) type Gates = [[u64; 2]; 256];

#[repr(align(4096))]
struct Idt(UnsafeCell<Gates>);
// Written by the first processor before the others run.
unsafe impl Sync for Idt {}
static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

/// Writes the IDT, on the first processor.
pub(super) fn init() {
    unsafe { *IDT.0.get() = gates() };
    restore();
}

/// Loads the suite's own IDT: on a processor that starts, and after a check had another.
pub(crate) fn restore() {
    load_table(IDT.0.get().addr() as u64, 0xFFF);
}

/// Loads an IDT of a check's own.
pub(crate) fn load_table(base: u64, limit: u16) {
    let pointer = Pointer::new(base, limit);
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer) };
}

/// Returns a copy of the suite's gates, for a check to change.
pub(crate) fn gates() -> Gates {
    let mut gates = [[0; 2]; 256];
    for (vector, gate) in (0_u8..=255).zip(&mut gates) {
        let stack = match vector {
            DEBUG => STACK_DEBUG,
            NMI => STACK_NMI,
            DOUBLE_FAULT => STACK_DOUBLE_FAULT,
            0..32 => STACK_EXCEPTION,
            _ => STACK_INTERRUPT,
        };
        *gate = self::gate(vector, stack);
    }
    gates
}

/// Returns an interrupt gate to the entry of `vector` (APM vol. 2, 4.8.4).
pub(crate) fn gate(vector: u8, stack: u8) -> [u64; 2] {
    let entry = (&raw const interrupt_stubs[usize::from(vector)]).addr() as u64;
    let low = entry & 0xFFFF
        | u64::from(CODE) << 16
        | u64::from(stack) << 32
        | 0x8E << 40
        | (entry >> 16 & 0xFFFF) << 48;
    [low, entry >> 32]
}

/// Says what this processor does about a vector.
pub(crate) fn hook(vector: u8, hook: Hook) {
    cpu::current().hooks[usize::from(vector)].store(hook as usize, Ordering::Release);
}

/// A hook that records and does nothing else: no end of interrupt.
pub(crate) fn record_only(frame: &mut Frame) {
    cpu::current().record(frame.vector as u8);
}

/// Records a vector and ends it where it came from: below 0x20 nowhere, 0x20 to 0x2F the 8259s, above the local APIC.
pub(crate) fn record_and_end(frame: &mut Frame) {
    let vector = frame.vector as u8;
    cpu::current().record(vector);
    end(vector);
}

/// Ends a vector where it came from.
pub(crate) fn end(vector: u8) {
    match vector {
        0..0x20 | apic::SPURIOUS_VECTOR => {}
        pic::BASE..0x30 => pic::end_of_interrupt(vector - pic::BASE),
        _ => apic::eoi(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn interrupt_entry(frame: &mut Frame) {
    let cpu = cpu::current();
    let vector = frame.vector as u8;
    let hook = cpu.hooks[usize::from(vector)].load(Ordering::Acquire);
    if hook != 0 {
        let hook: Hook = unsafe { core::mem::transmute(hook) };
        hook(frame);
    } else if vector >= 32 || vector == NMI {
        record_and_end(frame);
    } else {
        end_catch(frame);
    }
}

/// Ends the innermost catch of this processor by returning into it.
fn end_catch(frame: &mut Frame) {
    let cpu = cpu::current();
    let values = [frame.vector, frame.error, frame.rip, cr2(), frame.rflags];
    for (place, value) in cpu.fault.iter().zip(values) {
        place.store(value, Ordering::Relaxed);
    }
    let stack = cpu.catch.load(Ordering::Relaxed);
    if stack == 0 {
        die(frame);
    }
    frame.rip = catch_return as *const () as u64;
    frame.rsp = stack;
    frame.cs = u64::from(CODE);
    frame.ss = u64::from(DATA);
    frame.rflags = 2;
}

#[expect(
    clippy::panic,
    reason = "a fault outside every check is the guest's own bug"
)]
fn die(frame: &Frame) -> ! {
    panic!(
        "exception {} error {:#x} at {:#x}, cr2 {:#x}",
        frame.vector,
        frame.error,
        frame.rip,
        cr2()
    )
}

/// Returns the last exception that ended a catch on this processor.
fn last_fault() -> Fault {
    let cpu = cpu::current();
    let [vector, error, rip, cr2, rflags] = cpu
        .fault
        .each_ref()
        .map(|value| value.load(Ordering::Relaxed));
    Fault {
        vector: vector as u8,
        error,
        rip,
        cr2,
        rflags,
    }
}

/// Calls `body` and returns what it returns, or the exception that cut it short. Nothing of it is dropped then.
pub(crate) fn catch<R, F: FnOnce() -> R>(body: F) -> Result<R, Fault> {
    struct Call<F, R> {
        body: Option<F>,
        result: Option<R>,
    }
    extern "C" fn call<F: FnOnce() -> R, R>(argument: *mut c_void) {
        let call = unsafe { &mut *argument.cast::<Call<F, R>>() };
        if let Some(body) = call.body.take() {
            call.result = Some(body());
        }
    }
    let mut state = Call {
        body: Some(body),
        result: None,
    };
    let catch = &cpu::current().catch;
    let outer = catch.load(Ordering::Relaxed);
    unsafe { catch_call(call::<F, R>, (&raw mut state).cast(), &raw const *catch) };
    catch.store(outer, Ordering::Relaxed);
    state.result.ok_or_else(last_fault)
}
