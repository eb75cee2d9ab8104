//! The IOAPIC: which of its pins reaches which processor at which vector. 82093AA data sheet.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::memory::HostPa;
use super::processor::PerCpu;

/// The pin of the first serial port, COM1.
pub const COM1_PIN: u8 = 4;

/// Where it is; the MADT says.
static BASE: AtomicU64 = AtomicU64::new(0xFEC0_0000);
/// Register select and window are used together.
static TURN: Mutex<()> = Mutex::new(());

const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;

/// Masks every pin of the IOAPIC at `base`.
pub(super) fn start(base: u64) {
    BASE.store(base, Ordering::Relaxed);
    let pins = (access(VERSION, None) >> 16 & 0xFF) + 1;
    for pin in 0..pins {
        access(REDIRECTION + 2 * pin, Some(MASKED));
    }
}

/// Lets `pin` interrupt a processor at `vector`: on the edge, high. For a vector of the machine's own, such as
/// [`CONSOLE`](super::interrupts::CONSOLE).
pub fn route(pin: u8, vector: u8, target: &PerCpu) {
    let low = REDIRECTION + 2 * u32::from(pin);
    access(low, Some(MASKED));
    access(low + 1, Some(target.apic_id << 24));
    access(low, Some(u32::from(vector)));
}

/// Masks `pin`.
pub fn mask(pin: u8) {
    access(REDIRECTION + 2 * u32::from(pin), Some(MASKED));
}

/// Reads a register, or writes it and returns what was written.
fn access(index: u32, value: Option<u32>) -> u32 {
    let base = BASE.load(Ordering::Relaxed);
    let select: *mut u32 = HostPa::new(base).as_ptr();
    let window: *mut u32 = HostPa::new(base + 0x10).as_ptr();
    let _turn = TURN.lock();
    // SAFETY: the IOAPIC's select register; interrupts it is told to raise have handlers.
    unsafe { select.write_volatile(index) };
    match value {
        // SAFETY: the IOAPIC's window; as above.
        Some(value) => unsafe {
            window.write_volatile(value);
            value
        },
        // SAFETY: reads have no side effect.
        None => unsafe { window.read_volatile() },
    }
}
