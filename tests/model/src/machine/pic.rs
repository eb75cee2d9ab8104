//! The pair of 8259s and the timer behind them, as far as the model itself needs them.
//!
//! Firmware leaves the pair at vectors 8 and 0x70 with the timer running: the first thing is to move and mask it. A guest that is given
//! the pair programs it through the host side; its interrupts then arrive at the vectors it chose and are recorded by
//! [`PerCpu`](super::processor::PerCpu), never ended here.

use x86::io::outb;

use super::{processor, sleep};

const FIRST_COMMAND: u16 = 0x20;
const FIRST_DATA: u16 = 0x21;
const SECOND_COMMAND: u16 = 0xA0;
const SECOND_DATA: u16 = 0xA1;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_COMMAND: u16 = 0x43;

/// Vector of the first line until a guest programs another.
const BASE: u8 = 0x20;
/// Ticks of 1.193182 MHz in 20 ms.
const PIT_20_MS: u16 = 23_864;

/// Moves the pair to vectors 0x20 and 0x28 and masks every line.
pub(super) fn start() {
    let words = [
        (FIRST_COMMAND, 0x11),
        (SECOND_COMMAND, 0x11),
        (FIRST_DATA, BASE),
        (SECOND_DATA, BASE + 8),
        (FIRST_DATA, 4),
        (SECOND_DATA, 2),
        (FIRST_DATA, 1),
        (SECOND_DATA, 1),
        (FIRST_DATA, 0xFF),
        (SECOND_DATA, 0xFF),
    ];
    for (port, value) in words {
        write(port, value);
    }
}

/// Stops this, the first, processor for 20 ms or a little more.
pub(super) fn sleep_20_ms() {
    let [low, high] = PIT_20_MS.to_le_bytes();
    // Channel 0, both bytes, mode 0: one interrupt at the end.
    write(PIT_COMMAND, 0x30);
    write(PIT_CHANNEL_0, low);
    write(PIT_CHANNEL_0, high);
    write(FIRST_DATA, 0xFE);
    while processor::current().take_external() != Some(BASE) {
        sleep::until_interrupt();
    }
    write(FIRST_DATA, 0xFF);
    write(FIRST_COMMAND, 0x20);
}

fn write(port: u16, value: u8) {
    // SAFETY: the ports belong to the interrupt controllers and the timer, whose interrupts have handlers.
    unsafe { outb(port, value) };
}
