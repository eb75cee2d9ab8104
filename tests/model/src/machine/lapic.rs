//! This processor's local APIC: one-shot timer, interrupts between processors, end of interrupt.
//!
//! By xAPIC registers, which every QEMU has under TCG. APM vol. 2, chapter 16.

use core::sync::atomic::Ordering;

use x86::apic::xapic::{
    XAPIC_EOI, XAPIC_ICR0, XAPIC_ICR1, XAPIC_ID, XAPIC_ISR0, XAPIC_LVT_ERROR, XAPIC_LVT_LINT0,
    XAPIC_LVT_LINT1, XAPIC_LVT_TIMER, XAPIC_SVR, XAPIC_TIMER_CURRENT_COUNT, XAPIC_TIMER_DIV_CONF,
    XAPIC_TIMER_INIT_COUNT, XAPIC_TPR,
};

use super::memory::HostPa;
use super::{clock, interrupts, processor};

/// Where every processor sees its own.
const BASE: HostPa = HostPa::new(0xFEE0_0000);

/// Software enable, in the spurious vector register. APM vol. 2, 16.4.7.
const ENABLED: u32 = 1 << 8;
/// The mask bit of a local vector.
const MASKED: u32 = 1 << 16;
/// LINT0 of one processor: from the PIC.
const EXTERNAL: u32 = 7 << 8;
/// LINT1: NMI.
const NMI: u32 = 4 << 8;
/// Divide by one.
const DIVIDE_BY_ONE: u32 = 0b1011;
/// The longest the timer runs at once, so that the distance never overflows.
const LONGEST: u64 = 0x8000_0000;

/// ICR: INIT, level, assert. APM vol. 2, 16.5.
const INIT: u32 = 0x0000_4500;
/// ICR: startup.
const STARTUP: u32 = 0x0000_4600;
/// ICR: fixed, assert.
const FIXED: u32 = 0x0000_4000;

/// Makes this processor's APIC ready; interrupts of the PIC do not reach it.
pub(super) fn start() {
    write(XAPIC_TPR, 0);
    write(XAPIC_LVT_ERROR, MASKED);
    write(XAPIC_LVT_LINT0, MASKED);
    write(XAPIC_LVT_LINT1, NMI);
    write(XAPIC_TIMER_DIV_CONF, DIVIDE_BY_ONE);
    write(XAPIC_LVT_TIMER, u32::from(interrupts::TIMER));
    write(XAPIC_SVR, ENABLED | u32::from(interrupts::SPURIOUS));
}

/// Lets interrupts of the PIC reach this processor, or no longer.
pub fn listen_to_pic(does: bool) {
    write(XAPIC_LVT_LINT0, if does { EXTERNAL } else { MASKED });
}

/// Returns this processor's APIC id.
pub(super) fn id() -> u32 {
    read(XAPIC_ID) >> 24
}

/// Ends the interrupt in service.
pub(super) fn end_of_interrupt() {
    write(XAPIC_EOI, 0);
}

/// Whether this processor's APIC delivered `vector` and waits for its end; what a PIC delivers it does not know.
pub(super) fn is_in_service(vector: u8) -> bool {
    let word = XAPIC_ISR0 + 0x10 * u32::from(vector / 32);
    read(word) & 1 << (vector % 32) != 0
}

/// Sets this processor's timer to go off when the TSC reaches `deadline`: never much later, but earlier (again and again) when that
/// is more than about two seconds away. It sets [`timer_fired`](processor::PerCpu::timer_fired).
pub fn arm_timer(deadline: u64) {
    let cpu = processor::current();
    if cpu.timer_deadline.swap(deadline, Ordering::Relaxed) == deadline {
        return;
    }
    let distance = deadline.saturating_sub(clock::tsc());
    let count = clock::ticks_to_lapic(distance).clamp(1, LONGEST);
    // The clamp makes it fit.
    set_timer(u32::try_from(count).unwrap_or(u32::MAX));
}

/// Stops this processor's timer; an interrupt already on its way may still come.
pub fn disarm_timer() {
    if processor::current()
        .timer_deadline
        .swap(u64::MAX, Ordering::Relaxed)
        != u64::MAX
    {
        set_timer(0);
    }
}

/// Starts the timer's countdown from `count`; 0 stops it.
pub(super) fn set_timer(count: u32) {
    write(XAPIC_TIMER_INIT_COUNT, count);
}

/// Returns what is left of the countdown.
pub(super) fn current_count() -> u32 {
    read(XAPIC_TIMER_CURRENT_COUNT)
}

/// Asks another processor for attention: it leaves its guest, or its sleep, and finds [`kicked`](processor::PerCpu::kicked) set.
pub fn kick(target: &processor::PerCpu) {
    send(target.apic_id, FIXED | u32::from(interrupts::KICK));
}

/// Sends INIT.
pub(super) fn send_init(apic_id: u32) {
    send(apic_id, INIT);
}

/// Sends the startup interrupt: the processor begins at `page * 4096` in real mode.
pub(super) fn send_startup(apic_id: u32, page: u8) {
    send(apic_id, STARTUP | u32::from(page));
}

fn send(apic_id: u32, command: u32) {
    write(XAPIC_ICR1, apic_id << 24);
    write(XAPIC_ICR0, command);
}

fn register(offset: u32) -> *mut u32 {
    HostPa::new(BASE.as_u64() + u64::from(offset)).as_ptr()
}

fn read(offset: u32) -> u32 {
    // SAFETY: the local APIC's page, mapped one to one; reads have no side effect.
    unsafe { register(offset).read_volatile() }
}

fn write(offset: u32, value: u32) {
    // SAFETY: the local APIC's page; what is written above changes interrupts only, and those have handlers.
    unsafe { register(offset).write_volatile(value) };
}
