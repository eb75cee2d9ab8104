//! Accesses to PCI functions: configuration space through both doors, windows wherever they were put, virtio registers behind them.

use std::cell::Cell;
use std::sync::Arc;

use spin::Mutex;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_devices::RestoreError;
use stockade_devices::pci::VirtioPci;
use stockade_devices::virtio::rng::{Entropy, NoEntropy, Rng};
use stockade_paravisor::machine::{Fittings, Functions, Machine};

use crate::Input;
use crate::machine::HandClock;

const ECAM: u64 = 0xB000_0000;
const FITTED: usize = 2;
const FUNCTIONS: u64 = FITTED as u64;
/// Guest memory of a function, with rings for it to find.
const MEMORY: usize = 0x1_0000;
const WIDTHS: [usize; 5] = [1, 2, 4, 8, 16];
/// Blocks of virtio registers, the MSI-X page's table and pending bits.
const PLACES: [u64; 8] = [0, 0x10, 0x20, 0x1000, 0x2000, 0x3000, 0x3FF0, 0x800];

/// Numbers that repeat.
struct Counter(u8);

impl Entropy for Counter {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        self.0 = self.0.wrapping_add(1);
        buffer.fill(self.0);
        Ok(())
    }
}

type Function = VirtioPci<Rng<Counter>, FakeMemory>;

fn function(content: &[u8]) -> Function {
    let memory = FakeMemory::new(MEMORY);
    assert_eq!(memory.write(Gpa(0x1000), content), Ok(()));
    VirtioPci::new(Rng::new(Counter(0)), memory)
}

/// Drives the functions. Others that are driven alike answer alike.
pub fn run(data: &[u8]) {
    let answers = drive(data);
    assert_eq!(drive(data), answers);
}

fn drive(data: &[u8]) -> Vec<u8> {
    let mut input = Input::new(data);
    let ns = Cell::new(0);
    let content: [u8; 64] = input.array();
    let functions = [(); FITTED].map(|()| Arc::new(Mutex::new(function(&content))));
    let mut fitted = Functions::default();
    for function in &functions {
        assert!(fitted.fit(Arc::clone(function) as _).is_some());
    }
    let fittings = Fittings {
        functions: fitted,
        ..Fittings::default()
    };
    let machine = Machine::with_fittings(2, HandClock(&ns), 0, fittings);
    let mut answers = Vec::new();
    while !input.is_empty() {
        step(&machine, &mut input, &mut answers);
        answers.extend(machine.take_wakes().to_le_bytes());
    }
    check_doors(&machine);
    for function in &functions {
        check_restored(&function.lock());
    }
    answers
}

fn step(machine: &Machine<HandClock<'_>>, input: &mut Input<'_>, answers: &mut Vec<u8>) {
    let (kind, place) = (input.u8(), input.u8());
    let slot = u64::from(place) % FUNCTIONS;
    let mut bytes = [0; 16];
    let width = input.pick(&WIDTHS);
    bytes[..8].copy_from_slice(&input.array::<8>());
    let config = ECAM + ((slot + 1) << 15);
    let gpa = match kind >> 4 {
        0..6 => window(machine, config, input),
        6..9 => Gpa(config + u64::from(input.u8() & !3)),
        9 => Gpa(0xC000_0000 + u64::from(input.u16())),
        10 => Gpa(0x100_0000_0000 + u64::from(input.u32())),
        11 => Gpa(u64::from(input.u16()) << 16),
        12 => {
            machine.port_write(0xCF8, &(0x8000_0000 | u32::from(input.u16())).to_le_bytes());
            return;
        }
        13 => return machine.port_write(0xCFC, &bytes[..width.min(4)]),
        14 => return machine.port_read(0xCFC, &mut bytes[..width.min(4)]),
        _ => return machine.reset(),
    };
    if kind & 1 == 0 {
        machine.mmio_write(gpa, &bytes[..width]);
    } else {
        machine.mmio_read(gpa, &mut bytes[..width]);
        answers.extend(bytes);
    }
}

/// An address behind one of the function's windows, wherever that is now.
fn window(machine: &Machine<HandClock<'_>>, config: u64, input: &mut Input<'_>) -> Gpa {
    let read = |offset| {
        let mut word = [0; 4];
        machine.mmio_read(Gpa(config + offset), &mut word);
        u64::from(u32::from_le_bytes(word))
    };
    let choice = input.u8();
    let base = if choice & 1 == 0 {
        read(0x20) & !0xF | read(0x24) << 32
    } else {
        read(0x14) & !0xF
    };
    let offset = PLACES[usize::from(choice >> 1 & 7)] + u64::from(input.u8() & 0x3F);
    Gpa(base.wrapping_add(offset))
}

/// Both doors show the same, once the second is where it was: a guest may close or move it.
fn check_doors(machine: &Machine<HandClock<'_>>) {
    for (register, value) in [(0x64, 0), (0x60, 0xB000_0001_u32)] {
        machine.port_write(0xCF8, &(0x8000_0000_u32 | register).to_le_bytes());
        machine.port_write(0xCFC, &value.to_le_bytes());
    }
    for slot in 0..FUNCTIONS {
        for register in (0..0x40_u64).step_by(4) {
            let (mut by_port, mut by_memory) = ([0; 4], [0; 4]);
            let address = 0x8000_0000 | (slot + 1) << 11 | register;
            machine.port_write(0xCF8, &address.to_le_bytes()[..4]);
            machine.port_read(0xCFC, &mut by_port);
            machine.mmio_read(Gpa(ECAM + ((slot + 1) << 15) + register), &mut by_memory);
            assert_eq!(by_port, by_memory);
        }
    }
}

/// What was saved can be taken back and is the same then.
fn check_restored(function: &Function) {
    let state = function.save();
    let mut restored = self::function(&[]);
    let taken = restored.restore(&state, |_| Ok::<(), RestoreError>(()));
    assert_eq!(taken, Ok(()));
    assert_eq!(restored.save(), state);
}

/// What a driver does first: size the windows, start the device, notify it.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let content = [0_u8; 64];
    let config = |register: u8, value: u32| {
        let mut step = vec![0x60, 0, 2];
        step.extend(u64::from(value).to_le_bytes());
        step.push(register);
        step
    };
    let virtio = |place: u8, within: u8, width: u8, value: u64| {
        let mut step = vec![0, 0, width];
        step.extend(value.to_le_bytes());
        step.extend([place << 1, within]);
        step
    };
    let sizing = [config(0x20, u32::MAX), config(0x24, u32::MAX), config(4, 6)];
    let start = [
        config(4, 6),
        config(0x40, 1 << 31),
        virtio(0, 0x14, 0, 3),
        virtio(0, 0x08, 2, 1),
        virtio(0, 0x0C, 2, 1),
        virtio(0, 0x14, 0, 0xB),
        virtio(0, 0x18, 1, 4),
        virtio(0, 0x20, 2, 0x1000),
        virtio(0, 0x28, 2, 0x2000),
        virtio(0, 0x30, 2, 0x3000),
        virtio(0, 0x1C, 1, 1),
        virtio(0, 0x14, 0, 0xF),
        virtio(5, 0, 1, 0),
    ];
    [sizing.concat(), start.concat()]
        .into_iter()
        .map(|steps| [content.to_vec(), steps].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    /// PCIEXBAR without its enable bit, by CF8 and CFC.
    #[test]
    fn a_guest_may_close_the_door_to_configuration_space_in_memory() {
        let mut data = vec![0; 64];
        data.extend([0xC0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, 0]);
        data.extend([0xD0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        super::run(&data);
    }
}
