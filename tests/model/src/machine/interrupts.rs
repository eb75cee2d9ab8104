//! The IDT: 256 entries that end in one function which records what came and nothing else.
//!
//! Exceptions are bugs of the model. The machine's own vectors are [`TIMER`], [`KICK`] and [`CONSOLE`]; any other from 0x20 on is
//! the guest's: of the PICs it was given ([`PerCpu::take_external`](super::processor::PerCpu::take_external)), or a message of a
//! device ([`PerCpu::take_message`](super::processor::PerCpu::take_message)), told apart by what the local APIC has in service.

use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering;

use spin::Once;
use x86::dtables::{DescriptorTablePointer, lidt};

use super::segments::{CODE, Stack};
use super::{lapic, processor};

/// The local APIC's timer.
pub const TIMER: u8 = 0xF0;
/// Another processor asks for attention.
pub const KICK: u8 = 0xF1;
/// The serial port has something, by the IOAPIC.
pub const CONSOLE: u8 = 0xF2;
/// The local APIC's spurious vector.
pub const SPURIOUS: u8 = 0xFF;

const NMI: u8 = 2;
const DOUBLE_FAULT: u8 = 8;
const MACHINE_CHECK: u8 = 18;
const FIRST_INTERRUPT: u8 = 32;

global_asm!(include_str!("interrupts.s"), options(att_syntax));

unsafe extern "C" {
    /// 256 entries of 16 bytes.
    safe static interrupt_stubs: [[u8; 16]; 256];
}

static IDT: Once<[[u64; 2]; 256]> = Once::new();

/// Loads the IDT on this processor, whose segments are loaded.
pub(super) fn load() {
    let pointer = DescriptorTablePointer::new(IDT.call_once(table));
    // SAFETY: the table lives for ever and its stacks are in this processor's TSS.
    unsafe { lidt(&pointer) };
}

fn table() -> [[u64; 2]; 256] {
    let mut table = [[0; 2]; 256];
    for (vector, (gate, stub)) in (0_u8..=255).zip(table.iter_mut().zip(&interrupt_stubs)) {
        let stack = match vector {
            NMI => Stack::Nmi,
            DOUBLE_FAULT => Stack::DoubleFault,
            MACHINE_CHECK => Stack::MachineCheck,
            0..FIRST_INTERRUPT => Stack::Exception,
            _ => Stack::Interrupt,
        };
        *gate = interrupt_gate(core::ptr::from_ref(stub).addr() as u64, stack);
    }
    table
}

/// A 64-bit interrupt gate. APM vol. 2, 4.8.4.
fn interrupt_gate(entry: u64, stack: Stack) -> [u64; 2] {
    let low = entry & 0xFFFF
        | u64::from(CODE) << 16
        | (stack as u64) << 32
        | 0x8E << 40
        | (entry >> 16 & 0xFFFF) << 48;
    [low, entry >> 32]
}

/// What the entry pushed, upwards.
#[derive(Debug)]
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Called by the assembly for every interrupt and exception.
#[unsafe(no_mangle)]
extern "C" fn interrupt_entry(frame: &Frame) {
    // The entries push 0 to 255.
    let vector = u8::try_from(frame.vector).unwrap_or(DOUBLE_FAULT);
    let cpu = processor::current();
    cpu.interrupts.fetch_add(1, Ordering::Relaxed);
    match vector {
        NMI => {
            cpu.nmis.fetch_add(1, Ordering::Relaxed);
        }
        0..FIRST_INTERRUPT => exception(vector, frame),
        TIMER => {
            cpu.timer_deadline.store(u64::MAX, Ordering::Relaxed);
            cpu.timer_fired.store(true, Ordering::Release);
            lapic::end_of_interrupt();
        }
        KICK => {
            cpu.kicked.store(true, Ordering::Release);
            lapic::end_of_interrupt();
        }
        CONSOLE => {
            cpu.console_interrupt.store(true, Ordering::Release);
            lapic::end_of_interrupt();
        }
        SPURIOUS => {}
        _ if lapic::is_in_service(vector) => {
            cpu.record_message(vector);
            lapic::end_of_interrupt();
        }
        _ => cpu.record_external(vector),
    }
}

#[expect(
    clippy::panic,
    reason = "an exception in the model is a bug of the model"
)]
fn exception(vector: u8, frame: &Frame) -> ! {
    let cr2: u64;
    // SAFETY: reading CR2 changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
    panic!(
        "exception {vector} error {:#x} at {:#x}, rsp {:#x}, rflags {:#x}, cr2 {cr2:#x}, registers {:x?}",
        frame.error, frame.rip, frame.rsp, frame.rflags, frame.registers
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_carries_all_of_its_entry() {
        let [low, high] = interrupt_gate(0x1234_5678_9ABC_DEF0, Stack::Nmi);
        assert_eq!(low, 0x9ABC_8E02_0008_DEF0);
        assert_eq!(high, 0x1234_5678);
    }
}
