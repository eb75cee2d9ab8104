//! Accesses to every port and device address of the machine's wiring table, and time.

use std::cell::Cell;

use stockade_bus::Gpa;
use stockade_paravisor::machine::Machine;

use crate::Input;
use crate::machine::HandClock;

const PORTS: [u16; 24] = [
    0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x40, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71, 0x92, 0xCF8,
    0xCFC, 0xCF9, 0x3F8, 0x3F9, 0x3FB, 0x3FC, 0x600, 0x604, 0x620,
];
const PLACES: [u64; 6] = [
    0xFEC0_0000,
    0xFEC0_0010,
    0xFEC0_0040,
    0xB000_0000,
    0xB000_F8F0,
    0xFED0_0000,
];
const WIDTHS: [usize; 5] = [1, 2, 4, 8, 16];

/// Drives the machine. A second one that is driven alike answers alike.
pub fn run(data: &[u8]) {
    let answers = drive(data);
    assert_eq!(drive(data), answers);
}

fn drive(data: &[u8]) -> Vec<u8> {
    let mut input = Input::new(data);
    let ns = Cell::new(0);
    let clock = HandClock(&ns);
    let machine = Machine::new(2, clock, 1_700_000_000);
    let mut answers = Vec::new();
    while !input.is_empty() {
        let kind = input.u8();
        let port = match input.u8() {
            choice @ 0..24 => PORTS[usize::from(choice)],
            _ => input.u16(),
        };
        let mut bytes = input.array::<16>();
        let (wide, narrow) = (input.pick(&WIDTHS), input.pick(&WIDTHS[..3]));
        let gpa = Gpa(input.pick(&PLACES) + u64::from(input.u8() & 0xFC));
        match kind & 7 {
            0 | 1 => machine.port_read(port, &mut bytes[..narrow]),
            2 | 3 => machine.port_write(port, &bytes[..narrow]),
            4 => machine.mmio_read(gpa, &mut bytes[..wide]),
            5 => machine.mmio_write(gpa, &bytes[..wide]),
            6 => {
                clock.advance(u64::from(u16::from_le_bytes([bytes[0], bytes[1]])) << (kind >> 4));
                machine.advance(0);
                machine.advance(1);
            }
            _ if kind == 0xFF => machine.reset(),
            _ => {
                let _ = machine.take_request();
            }
        }
        answers.extend(bytes);
        answers.extend(machine.deadline(0).unwrap_or(u64::MAX).to_le_bytes());
        answers.extend(machine.take_wakes().to_le_bytes());
    }
    answers
}

/// The set-up of each chip, as guests do it.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let step = |kind: u8, choice: u8, value: u8| {
        let mut step = vec![kind, choice, value];
        step.extend([0; 15]);
        step.extend([2, 0, 0, 0]);
        step
    };
    let write = |choice, value| step(2, choice, value);
    let pic = [
        write(0, 0x11),
        write(1, 0x30),
        write(1, 4),
        write(1, 1),
        write(1, 0),
    ];
    let pit = [
        write(7, 0x34),
        write(5, 0xFF),
        write(5, 0x10),
        step(6, 0, 0xFF),
    ];
    let rtc = [
        write(11, 0x8B),
        write(12, 0x72),
        write(11, 0x0C),
        step(0, 12, 0),
    ];
    let uart = [
        write(19, 0x83),
        write(17, 1),
        write(19, 3),
        write(18, 7),
        write(17, 0x41),
    ];
    let ioapic = [step(5, 0, 0x14), step(5, 1, 0x30), step(4, 1, 0)];
    vec![
        pic.concat(),
        pit.concat(),
        rtc.concat(),
        uart.concat(),
        ioapic.concat(),
    ]
}
