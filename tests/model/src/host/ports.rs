//! Which ports a guest reaches, and what answers: a policy over the machine's real ports.
//!
//! Allowed are the two serial ports and, for an operating system that runs at VMPL0 itself, the PC devices it looks for:
//! PIC, PIT, RTC, port 61, PCI configuration. PM1 control and the reset register are answered with a [`PowerAction`].
//! Everything else floats high and swallows writes.

use super::ghcb::{Direction, Width};

/// The ports of the machine the host runs on.
pub trait RawPorts {
    /// Reads a value of `width`, zero-extended.
    fn read(&mut self, port: u16, width: Width) -> u32;
    /// Writes the low bits of `value` that `width` has.
    fn write(&mut self, port: u16, width: Width, value: u32);
}

/// What a port write does to the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// S5: the guest switched itself off.
    PowerOff,
    /// The guest reset the machine.
    Reset,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Real,
    Pm1Control,
    ResetControl,
    SystemControlA,
    Floating,
}

/// PM1 control of QEMU's Q35 (its PM block is at 0x600).
const PM1_CONTROL: u16 = 0x604;
/// SLP_EN and SLP_TYP of PM1 control (ACPI 6.5, 4.8.3.2.1).
const SLEEP_ENABLE: u32 = 1 << 13;
const SLEEP_TYPE: u32 = 7 << 10;
/// SLP_TYP of S5: 0 on the ICH9, 5 and 7 on other machines guests are written for.
const S5_TYPES: [u32; 3] = [0, 5 << 10, 7 << 10];
/// Reset control: bit 2 starts the reset.
const RESET_CONTROL: u16 = 0xCF9;
/// System control A ("fast A20"): bit 0 resets.
const SYSTEM_CONTROL_A: u16 = 0x92;

const fn route(port: u16) -> Route {
    match port {
        PM1_CONTROL => Route::Pm1Control,
        RESET_CONTROL => Route::ResetControl,
        SYSTEM_CONTROL_A => Route::SystemControlA,
        0x3F8..=0x3FF | 0x2F8..=0x2FF => Route::Real,
        0x20 | 0x21 | 0xA0 | 0xA1 | 0x4D0 | 0x4D1 => Route::Real,
        0x40..=0x43 | 0x61 | 0x70 | 0x71 | 0x80 => Route::Real,
        0xCF8..=0xCFF => Route::Real,
        _ => Route::Floating,
    }
}

/// Answers IN.
pub fn read(raw: &mut impl RawPorts, port: u16, width: Width) -> u32 {
    match route_of(port, width) {
        Route::Real => raw.read(port, width) & width.mask(),
        Route::Pm1Control | Route::ResetControl | Route::SystemControlA => 0,
        Route::Floating => width.mask(),
    }
}

/// Performs OUT; an action is the caller's to take.
#[must_use = "the guest may have switched itself off"]
pub fn write(raw: &mut impl RawPorts, port: u16, width: Width, value: u32) -> Option<PowerAction> {
    match route_of(port, width) {
        Route::Real => {
            raw.write(port, width, value & width.mask());
            None
        }
        Route::Pm1Control => {
            let sleeps = value & SLEEP_ENABLE != 0 && S5_TYPES.contains(&(value & SLEEP_TYPE));
            sleeps.then_some(PowerAction::PowerOff)
        }
        Route::ResetControl => (value & 4 != 0).then_some(PowerAction::Reset),
        Route::SystemControlA => (value & 1 != 0).then_some(PowerAction::Reset),
        Route::Floating => None,
    }
}

/// Performs INS or OUTS over the values in `buffer`, packed without gaps, stopping at the first action.
pub fn string(
    raw: &mut impl RawPorts,
    port: u16,
    width: Width,
    direction: Direction,
    buffer: &mut [u8],
) -> Option<PowerAction> {
    for item in buffer.chunks_exact_mut(width.bytes()) {
        let len = item.len();
        let mut bytes = [0; 4];
        match direction {
            Direction::In => {
                bytes = read(raw, port, width).to_le_bytes();
                item.copy_from_slice(&bytes[..len]);
            }
            Direction::Out => {
                bytes[..len].copy_from_slice(item);
                let action = write(raw, port, width, u32::from_le_bytes(bytes));
                if action.is_some() {
                    return action;
                }
            }
        }
    }
    None
}

/// An access that reaches beyond what its first port allows floats as a whole.
fn route_of(port: u16, width: Width) -> Route {
    let first = route(port);
    let bytes = u16::try_from(width.bytes()).unwrap_or(u16::MAX);
    match (first, port.checked_add(bytes - 1)) {
        (Route::Real, Some(last)) if route(last) == Route::Real => Route::Real,
        (Route::Real, _) => Route::Floating,
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        writes: std::vec::Vec<(u16, Width, u32)>,
        reads: std::vec::Vec<u16>,
    }

    impl RawPorts for Recorder {
        fn read(&mut self, port: u16, _: Width) -> u32 {
            self.reads.push(port);
            0xFFFF_FF60
        }
        fn write(&mut self, port: u16, width: Width, value: u32) {
            self.writes.push((port, width, value));
        }
    }

    #[test]
    fn serial_ports_pass_through_and_are_cut_to_width() {
        let mut raw = Recorder::default();
        assert_eq!(read(&mut raw, 0x3FD, Width::Byte), 0x60);
        assert_eq!(write(&mut raw, 0x2F8, Width::Byte, 0x1_41), None);
        assert_eq!(raw.writes, [(0x2F8, Width::Byte, 0x41)]);
    }

    /// Only the listed ports may reach the machine under us: every other one of the 65,536 floats.
    #[test]
    fn every_unlisted_port_floats_high() {
        let mut raw = Recorder::default();
        for port in 0..=u16::MAX {
            let value = read(&mut raw, port, Width::Byte);
            if route(port) == Route::Floating {
                assert_eq!(value, 0xFF, "{port:#x}");
            }
        }
        assert_eq!(raw.reads.len(), 8 + 8 + 6 + 4 + 1 + 2 + 1 + 7);
        assert!(!raw.reads.contains(&0xF4) && !raw.reads.contains(&0xE9));
    }

    #[test]
    fn access_that_leaves_the_allowed_range_floats() {
        let mut raw = Recorder::default();
        assert_eq!(read(&mut raw, 0x3FF, Width::Word), 0xFFFF);
        assert_eq!(read(&mut raw, 0xFFFF, Width::Double), 0xFFFF_FFFF);
        assert_eq!(write(&mut raw, 0x3FE, Width::Double, 1), None);
        assert!(raw.reads.is_empty() && raw.writes.is_empty());
    }

    #[test]
    fn sleep_enable_with_type_of_s5_powers_off() {
        let mut raw = Recorder::default();
        assert_eq!(
            write(&mut raw, 0x604, Width::Word, 0x2000),
            Some(PowerAction::PowerOff)
        );
        assert_eq!(
            write(&mut raw, 0x604, Width::Word, 0x3400),
            Some(PowerAction::PowerOff)
        );
        assert_eq!(write(&mut raw, 0x604, Width::Word, 0x2400), None);
        assert_eq!(write(&mut raw, 0x604, Width::Word, 0x0001), None);
        assert!(raw.writes.is_empty());
    }

    #[test]
    fn reset_registers_reset() {
        let mut raw = Recorder::default();
        assert_eq!(write(&mut raw, 0xCF9, Width::Byte, 2), None);
        assert_eq!(
            write(&mut raw, 0xCF9, Width::Byte, 6),
            Some(PowerAction::Reset)
        );
        assert_eq!(
            write(&mut raw, 0x92, Width::Byte, 1),
            Some(PowerAction::Reset)
        );
    }

    #[test]
    fn string_output_writes_each_value_in_order() {
        let mut raw = Recorder::default();
        let mut text = *b"ok\n";
        assert_eq!(
            string(&mut raw, 0x3F8, Width::Byte, Direction::Out, &mut text),
            None
        );
        let bytes: std::vec::Vec<u32> = raw.writes.iter().map(|write| write.2).collect();
        assert_eq!(bytes, [0x6F, 0x6B, 0x0A]);
    }

    #[test]
    fn string_input_from_an_empty_port_is_all_ones() {
        let mut raw = Recorder::default();
        let mut buffer = [0; 8];
        assert_eq!(
            string(&mut raw, 0x1F0, Width::Word, Direction::In, &mut buffer),
            None
        );
        assert_eq!(buffer, [0xFF; 8]);
    }
}
