//! Exits: save areas that a guest and a host have left behind, decoded and dispatched by the whole run loop.

use std::cell::{Cell, RefCell};

use stockade_abi::exit::ExitCode;
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::{SegmentAttributes, Vmsa};
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::exit::Exit;
use stockade_paravisor::host::{Entered, Host, Processor, Signals};
use stockade_paravisor::machine::Machine;
use stockade_paravisor::run_loop;
use zerocopy::{FromZeros, IntoBytes};

use crate::Input;
use crate::machine::{HandClock, vcpu};

const MEMORY_BYTES: usize = 0x1_0000;
/// Turns without an entry that the loop may take in a row: more is an endless loop.
const IDLE_TURNS: usize = 10_000;

const CODES: [ExitCode; 16] = [
    ExitCode::CPUID,
    ExitCode::IOIO,
    ExitCode::IOIO,
    ExitCode::MSR,
    ExitCode::MSR,
    ExitCode::HLT,
    ExitCode::IDLE_HLT,
    ExitCode::XSETBV,
    ExitCode::NPF,
    ExitCode::NPF,
    ExitCode::NPF,
    ExitCode::VINTR,
    ExitCode::INTR,
    ExitCode::RDTSC,
    ExitCode::VMMCALL,
    ExitCode::PAGE_NOT_VALIDATED,
];

/// Addresses of devices, and of nothing.
const PLACES: [u64; 8] = [
    0xFEC0_0000,
    0xFEC0_0010,
    0xFEE0_00B0,
    0xFEE0_0300,
    0xFEE0_0380,
    0xB000_8000,
    0xFED0_00F0,
    0x1_2345_6000,
];

struct Fuzzed<'a, 'i> {
    vmsa: Vmsa,
    input: &'i RefCell<Input<'a>>,
    clock: HandClock<'i>,
    turns: &'i Cell<usize>,
}

impl Processor for Fuzzed<'_, '_> {
    fn vmsa(&self) -> &Vmsa {
        &self.vmsa
    }

    fn vmsa_mut(&mut self) -> &mut Vmsa {
        &mut self.vmsa
    }

    fn enter(&mut self) -> Result<Entered, StopReason> {
        let mut input = self.input.borrow_mut();
        if input.is_empty() {
            return Err(StopReason::GUEST_TRIPLE_FAULT);
        }
        self.turns.set(0);
        assert!(self.vmsa.vintr_ctrl.v_gif(), "the gate is shut at an entry");
        let kind = input.u8();
        if kind & 0x80 != 0 {
            return Ok(Entered::EventPending);
        }
        if kind & 0x40 != 0 {
            // The guest took what was queued.
            self.vmsa.event_inj = FromZeros::new_zeroed();
            self.vmsa.vintr_ctrl.set_v_irq(false);
        }
        self.vmsa.guest_exit_code = match kind & 0x1F {
            choice @ 0..16 => CODES[usize::from(choice)],
            _ => ExitCode(u64::from(input.u16())),
        };
        self.vmsa.guest_exit_info1 = input.u32().into();
        self.vmsa.guest_exit_info2 = match input.u8() {
            choice @ 0..8 => PLACES[usize::from(choice)],
            _ => input.u64(),
        };
        self.vmsa.guest_nrip = self.vmsa.rip.wrapping_add(2);
        self.clock.advance(u64::from(input.u16()) << (kind & 0xF));
        for _ in 0..input.u8() & 7 {
            scribble(&mut self.vmsa, &mut input);
        }
        let _ = Exit::decode(&self.vmsa);
        Ok(Entered::Ran)
    }

    fn reset(&mut self) {
        self.vmsa = Vmsa::new_zeroed();
    }

    fn prediction_barrier(&mut self, _: u64) {}
}

/// Puts a word of the input somewhere into the save area: most often into a general register.
fn scribble(vmsa: &mut Vmsa, input: &mut Input<'_>) {
    let (place, value) = (input.u8(), u64::from(input.u32()));
    match place {
        0..64 => vmsa.rax = value,
        64..128 => vmsa.rcx = value,
        128..160 => vmsa.rdx = value,
        160..192 => vmsa.rsi = value,
        192..200 => vmsa.rip = value & 0xFFFF,
        _ => {
            let bytes = vmsa.as_mut_bytes();
            let offset = usize::from(input.u16()) % (bytes.len() / 8) * 8;
            bytes[offset..offset + 8].copy_from_slice(&input.array::<8>());
        }
    }
}

struct FuzzedHost<'a, 'i> {
    input: &'i RefCell<Input<'a>>,
    clock: HandClock<'i>,
    turns: &'i Cell<usize>,
}

stockade_backend::no_devices!(FuzzedHost<'_, '_>);

impl Host for FuzzedHost<'_, '_> {
    fn drain(&mut self) -> Result<Signals, StopReason> {
        let turns = self.turns.get() + 1;
        self.turns.set(turns);
        assert!(turns < IDLE_TURNS, "the run loop neither enters nor waits");
        let mut input = self.input.borrow_mut();
        let bits = if input.bool() { input.u8() } else { 0 };
        Ok(Signals {
            timer: bits & 1 != 0,
            console: bits & 2 != 0,
            devices: u16::from(bits >> 4),
            dropped: u32::from(bits >> 2),
        })
    }

    /// What the next look finds is drawn when it looks.
    fn is_signalled(&self) -> bool {
        true
    }

    fn wait(&mut self) -> Result<(), StopReason> {
        self.turns.set(0);
        let mut input = self.input.borrow_mut();
        if input.is_empty() {
            return Err(StopReason::GUEST_TRIPLE_FAULT);
        }
        self.clock.advance(input.u32().into());
        Ok(())
    }

    fn arm_timer(&mut self, _: u64) -> Result<(), StopReason> {
        Ok(())
    }

    fn console_write(&mut self, _: &[u8]) -> Result<(), StopReason> {
        Ok(())
    }

    fn kick(&mut self, _: usize) -> Result<(), StopReason> {
        Ok(())
    }

    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, StopReason> {
        let mut input = self.input.borrow_mut();
        let taken = input.bytes(buffer.len().min(4));
        buffer[..taken.len()].copy_from_slice(taken);
        Ok(taken.len())
    }
}

/// Runs a guest until the input ends. Every exit is answered or stops the guest with a reason.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = FakeMemory::new(MEMORY_BYTES);
    let code = input.bytes(32);
    let _ = memory.write(Gpa(0x1000), code);
    let (ns, turns) = (Cell::new(0), Cell::new(0));
    let clock = HandClock(&ns);
    let machine = Machine::new(1, clock, 1_700_000_000);
    let Some(mut vcpu) = vcpu() else {
        return;
    };
    vcpu.power_on(&machine);
    let input = RefCell::new(input);
    let mut processor = Fuzzed {
        vmsa: protected_mode(),
        input: &input,
        clock,
        turns: &turns,
    };
    let mut host = FuzzedHost {
        input: &input,
        clock,
        turns: &turns,
    };
    let _ = run_loop::run(&mut vcpu, &machine, &mut processor, &mut host, &memory);
}

/// 32-bit mode without paging, at the code, pointing at the IOAPIC.
fn protected_mode() -> Vmsa {
    let mut vmsa = Vmsa::new_zeroed();
    vmsa.cr0 = 0x11;
    vmsa.efer = 1 << 12;
    vmsa.rflags = 0x202;
    vmsa.rip = 0x1000;
    vmsa.rsi = 0xFEC0_0000;
    vmsa.rdi = 0x2000;
    vmsa.cs.attributes = SegmentAttributes::from_bits(0xC9B);
    vmsa.cs.limit = u32::MAX;
    for data in [&mut vmsa.ds, &mut vmsa.es, &mut vmsa.ss] {
        data.attributes = SegmentAttributes::from_bits(0xC93);
        data.limit = u32::MAX;
    }
    vmsa
}

/// A port access, MSR accesses, a device access by MOV, an idle guest.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mov = {
        let mut code = vec![0x8B, 0x06, 0x89, 0x06, 0xEB, 0xFA];
        code.resize(32, 0x90);
        code
    };
    // A signal byte, then an entry: kind, INFO1, place, time, scribbles.
    let entry = |kind: u8, info1: u32, place: u8, scribbles: &[u8]| {
        let mut entry = vec![0, kind];
        entry.extend(info1.to_le_bytes());
        entry.extend([place, 0x10, 0x00]);
        entry.push(u8::try_from(scribbles.len() / 5).unwrap_or(0));
        entry.extend(scribbles);
        entry
    };
    let port = |port: u32, flags: u32| entry(1, port << 16 | flags, 0, &[0, 0x41, 0, 0, 0]);
    let msr = |number: u32, flags: u32| {
        let [a, b, c, d] = number.to_le_bytes();
        entry(3, flags, 0, &[64, a, b, c, d])
    };
    let ports = [port(0x3F8, 0x10), port(0x61, 0x11), port(0xCF8, 0x40)].concat();
    let msrs = [
        msr(0x1B, 0),
        msr(0x1B, 1),
        msr(0x80B, 1),
        msr(0xC000_0080, 0),
    ]
    .concat();
    let devices = [entry(8, 4, 0, &[]), entry(8, 6, 1, &[])].concat();
    let idle = [entry(5, 0, 0, &[]), vec![0, 0xFF, 0xFF, 0, 0]].concat();
    [ports, msrs, devices, idle]
        .into_iter()
        .map(|entries| [mov.clone(), entries.repeat(3)].concat())
        .collect()
}
