//! What the guest has in user space: the serial port, the PM timer, the port that ends it.

use std::io::{Write, stdout};
use std::time::Instant;

const SERIAL_DATA: u16 = 0x3F8;
const SERIAL_STATUS: u16 = 0x3FD;
/// The transmitter is empty.
const SERIAL_READY: u8 = 0x60;
const PM_TIMER: u16 = 0x608;
const PM_TIMER_HZ: u128 = 3_579_545;
const DEBUG_EXIT: u16 = 0xF4;

/// The devices of one guest.
pub(crate) struct Devices {
    start: Instant,
    line: Vec<u8>,
}

/// Whether the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It does.
    Resume,
    /// It asked for its end.
    End,
}

impl Devices {
    /// Returns them after power-on.
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            line: Vec::new(),
        }
    }

    /// Answers IN; ones where nothing is.
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            SERIAL_STATUS => data.fill(SERIAL_READY),
            PM_TIMER => {
                let ticks = self.start.elapsed().as_nanos() * PM_TIMER_HZ / 1_000_000_000;
                for (byte, of_timer) in data.iter_mut().zip(ticks.to_le_bytes()) {
                    *byte = of_timer;
                }
            }
            _ => data.fill(0xFF),
        }
    }

    /// Takes OUT.
    pub(crate) fn write(&mut self, port: u16, data: &[u8]) -> Next {
        match port {
            SERIAL_DATA => {
                self.line.extend(data);
                if self.line.ends_with(b"\n") {
                    // A console that does not take it has nothing to show.
                    let _ = stdout()
                        .write_all(&self.line)
                        .and_then(|()| stdout().flush());
                    self.line.clear();
                }
                Next::Resume
            }
            DEBUG_EXIT => Next::End,
            _ => Next::Resume,
        }
    }
}
