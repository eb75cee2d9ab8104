//! Saved states of every device, as anybody could have written them.
//!
//! A state that is taken must be one the device could be in: it is saved again, taken again, and the device then goes on
//! like any other. So nothing a state holds may panic later, either.

use std::cell::Cell;

use stockade_apic::ioapic::SavedIoApic;
use stockade_apic::local::SavedLocalApic;
use stockade_apic::pic::SavedPic;
use stockade_apic::{Config, IoApic, LocalApic, Message, MessageSink, Pic, Role, Time, pic::Ports};
use stockade_bus::fake::{FakeIrqLine, FakeMemory};
use stockade_bus::{Deadline, Mmio, PortIo};
use stockade_devices::fw_cfg::{Facts, File, FwCfg, FwCfgState};
use stockade_devices::hpet::{ComparatorState, Hpet, HpetState, Lines};
use stockade_devices::i8042::{Keyboard8042, KeyboardState};
use stockade_devices::pci::{PciRoot, PciState};
use stockade_devices::pit::{ChannelState, Pit, PitState};
use stockade_devices::power::{Power, PowerState};
use stockade_devices::reset::{ResetControl, ResetState};
use stockade_devices::rtc::{Rtc, RtcState};
use stockade_devices::serial::{Serial, SerialState};
use stockade_devices::test_devices::{LINE_COUNT, PcTestdev, TestdevState};
use stockade_intercept::msr::{MsrFile, SavedMsrFile};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::Input;
use crate::machine::{FEATURES, HandClock, cpuid};

/// Restores one device's state and lets it go on.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let ns = Cell::new(0x1234_5678);
    let (line, clock) = (&FakeIrqLine::default(), HandClock(&ns));
    match input.u8() % 13 {
        0 => pit(&mut input, line, clock),
        1 => rtc(&mut input, line, clock),
        2 => serial(&mut input, line),
        3 => power(&mut input, line, clock),
        4 => hpet(&mut input, line, clock),
        5 => keyboard(&mut input),
        6 => reset(&mut input),
        7 => pci(&mut input),
        8 => test_device(&mut input, line),
        9 => fw_cfg(&mut input),
        10 => local_apic(&mut input),
        11 => controllers(&mut input, line),
        _ => msrs(&mut input),
    }
}

/// Accesses ports as the input says.
fn ports(device: &mut dyn PortIo, input: &mut Input<'_>) {
    while !input.is_empty() {
        let (kind, offset, mut bytes) = (input.u8(), input.u8(), input.array::<4>());
        let len = [1, 1, 2, 4][usize::from(kind >> 1 & 3)];
        let _ = if kind & 1 == 0 {
            device.port_read(u16::from(offset & 0x3F), &mut bytes[..len])
        } else {
            device.port_write(u16::from(offset & 0x3F), &bytes[..len])
        };
    }
}

/// A deadline lies ahead, or is due now.
fn pass(deadline: Deadline, clock: HandClock<'_>, input: &mut Input<'_>) {
    let ns = u64::from(input.u16()) << (input.u8() & 31);
    let until_due = deadline.map_or(u64::MAX, |due| due.saturating_sub(clock.0.get()));
    clock.advance(ns.min(until_due));
}

fn pit(input: &mut Input<'_>, line: &FakeIrqLine, clock: HandClock<'_>) {
    let mut channel = || ChannelState {
        control: (input.u8() & 3, input.u8() & 7, input.bool()),
        reload: input.u16(),
        pending_low: input.bool().then(|| input.u8()),
        running_for: input.bool().then(|| input.u64()),
        stopped_after: input.bool().then(|| input.u64()),
        gate: input.bool(),
        status: input.bool().then(|| input.u8()),
        latch: input.bool().then(|| (input.u16(), input.u8() & 3)),
        read_high_next: input.bool(),
    };
    let state = PitState {
        version: 2,
        channels: [channel(), channel(), channel()],
        port_b: 0xFF,
        late: input.u64(),
    };
    let mut pit = Pit::new(line, clock);
    if pit.restore(&state).is_ok() {
        let saved = pit.save();
        assert_eq!(pit.restore(&saved), Ok(()));
        for _ in 0..4 {
            pass(pit.deadline(), clock, input);
            pit.advance();
        }
        ports(&mut pit, input);
    }
}

fn rtc(input: &mut Input<'_>, line: &FakeIrqLine, clock: HandClock<'_>) {
    let mut cells = [0; 128];
    let filled = input.bytes(16);
    cells[..filled.len()].copy_from_slice(filled);
    let state = RtcState {
        version: 1,
        index: input.u8(),
        cells,
        register_b: input.u8(),
        register_c: input.u8(),
        unix_ns: i128::from_le_bytes(input.array()),
        held: input.bool().then(|| input.u64().cast_signed()),
    };
    let mut rtc = Rtc::new(line, clock, 0);
    if rtc.restore(&state).is_ok() {
        let saved = rtc.save();
        assert_eq!(rtc.restore(&saved), Ok(()));
        for _ in 0..4 {
            pass(rtc.deadline(), clock, input);
            rtc.advance();
        }
        ports(&mut rtc, input);
    }
}

fn serial(input: &mut Input<'_>, line: &FakeIrqLine) {
    let mut state = Serial::new(line).save();
    state = SerialState {
        divisor: input.u16(),
        registers: input.array(),
        overrun: input.bool(),
        transmitter_empty_pending: input.bool(),
        fifo: (input.array(), usize::from(input.u8() & 31)),
        ..state
    };
    let mut serial = Serial::new(line);
    if serial.restore(&state).is_ok() {
        let saved = serial.save();
        assert_eq!(serial.restore(&saved), Ok(()));
        let pushed = input.bytes(20);
        let _ = serial.push_input(pushed);
        ports(&mut serial, input);
        let _ = serial.take_output(&mut [0; 64]);
    }
}

fn power(input: &mut Input<'_>, line: &FakeIrqLine, clock: HandClock<'_>) {
    let state = PowerState {
        version: 1,
        pm1: [input.u16(), input.u16(), input.u16()],
        gpe: [input.u64(), input.u64()],
        smi_enable: input.u32(),
        is_off: input.bool(),
    };
    let mut power = Power::new(line, clock);
    if power.restore(&state).is_ok() {
        let saved = power.save();
        assert_eq!(power.restore(&saved), Ok(()));
        for _ in 0..4 {
            pass(power.deadline(), clock, input);
            power.advance();
        }
        ports(&mut power, input);
    }
}

fn hpet(input: &mut Input<'_>, line: &FakeIrqLine, clock: HandClock<'_>) {
    // The read-only bits as they must be, or nothing would be taken.
    let fixed = [0x00F0_0000, 0x00F0_0000, 0x00F0_0800].map(|routes: u64| routes << 32 | 0x30);
    let state = HpetState {
        version: 1,
        configuration: u64::from(input.u8() & 3),
        counter: input.u64(),
        comparators: fixed.map(|fixed| ComparatorState {
            configuration: fixed | u64::from(input.u16() & 0x3FCE),
            value: input.u64(),
            period: input.u32().into(),
            is_asking: input.bool(),
        }),
    };
    let lines = Lines {
        timer: line,
        clock: line,
        irq11: line,
        pins: [line; 4],
    };
    let mut hpet = Hpet::new(lines, clock);
    if hpet.restore(&state).is_err() {
        return;
    }
    let saved = hpet.save();
    assert_eq!(hpet.restore(&saved), Ok(()));
    while !input.is_empty() {
        pass(hpet.deadline(), clock, input);
        hpet.advance();
        let (offset, bytes) = (u64::from(input.u8()) << 2, input.array::<8>());
        let _ = hpet.mmio_write(offset, &bytes);
        let _ = hpet.mmio_read(offset, &mut [0; 4]);
    }
}

fn keyboard(input: &mut Input<'_>) {
    let state = KeyboardState {
        version: 1,
        command_byte: input.u8(),
        output: input.bool().then(|| (input.u8(), input.u8())),
        command: input.bool().then(|| input.u8()),
        was_command: input.bool(),
    };
    let mut keyboard = Keyboard8042::new();
    if keyboard.restore(&state).is_ok() {
        assert_eq!(keyboard.restore(&keyboard.save()), Ok(()));
        ports(&mut keyboard, input);
    }
}

fn reset(input: &mut Input<'_>) {
    let state = ResetState {
        version: 1,
        cf9: input.u8(),
        port_92: input.u8(),
    };
    let mut control = ResetControl::new();
    if control.restore(&state).is_ok() {
        assert_eq!(control.restore(&control.save()), Ok(()));
        ports(&mut control, input);
    }
}

fn pci(input: &mut Input<'_>) {
    let mut state: PciState = PciRoot::default().save();
    state.address = input.u32();
    for _ in 0..input.u8() & 15 {
        let at = usize::from(input.u8());
        state.host_bridge[at] = input.u8();
        state.lpc_bridge[at] = input.u8();
    }
    let mut root = PciRoot::default();
    if root.restore(&state).is_ok() {
        assert_eq!(root.restore(&root.save()), Ok(()));
        ports(&mut root, input);
    }
}

fn test_device(input: &mut Input<'_>, line: &FakeIrqLine) {
    let len = if input.bool() {
        0x1_0000
    } else {
        usize::from(input.u16())
    };
    let state = TestdevState {
        version: 1,
        latch: input.u32(),
        levels: input.u32() >> (input.u8() & 15),
        memory: vec![0; len],
    };
    let mut device = PcTestdev::new([line; LINE_COUNT]);
    if device.restore(&state).is_ok() {
        assert_eq!(device.save(), state);
        ports(&mut device, input);
    }
}

fn fw_cfg(input: &mut Input<'_>) {
    let memory = FakeMemory::new(0x1000);
    let facts = Facts {
        cpu_count: 1,
        ram_bytes: 1 << 30,
    };
    let files = File::try_writable("etc/ramfb", 4);
    let state = FwCfgState {
        version: 2,
        key: input.u16(),
        offset: input.u32(),
        dma_high: input.u32(),
        writable: input.u32().to_le_bytes().to_vec(),
    };
    if let Ok(mut device) = FwCfg::try_new(&memory, facts, files)
        && device.restore(&state).is_ok()
    {
        assert_eq!(device.save(), state);
        ports(&mut device, input);
    }
}

fn local_apic(input: &mut Input<'_>) {
    let mut apic = LocalApic::new(Config {
        id: 0,
        role: Role::Bootstrap,
        features: FEATURES,
        physical_address_bits: 46,
    });
    // A good state with a few bytes changed.
    let mut bytes = apic.save().as_bytes().to_vec();
    for _ in 0..input.u8() & 15 {
        let at = usize::from(input.u8()) % bytes.len();
        bytes[at] = input.u8();
    }
    let Ok(state) = SavedLocalApic::read_from_bytes(&bytes) else {
        return;
    };
    if apic.restore(&state).is_err() {
        return;
    }
    // What means nothing (the moment of a stopped timer) may be lost once.
    let saved = apic.save();
    assert_eq!(apic.restore(&saved), Ok(()));
    assert_eq!(apic.save(), saved);
    let mut now = Time::default();
    while !input.is_empty() {
        now.ns = now.ns.saturating_add(u64::from(input.u32()));
        now.tsc = now.tsc.saturating_add(u64::from(input.u32()));
        let _ = apic.advance(now);
        let _ = apic.deadline();
        let offset = u16::from(input.u8()) << 4;
        let _ = apic.read_mmio(offset, &mut [0; 4], now);
        let _ = apic.write_mmio(offset, &input.array::<4>(), now);
        if let Some(vector) = apic.deliverable_vector() {
            assert!(apic.accept(vector));
        }
    }
}

struct Nowhere;

impl MessageSink for Nowhere {
    fn send(&self, _: Message) {}
}

fn controllers(input: &mut Input<'_>, line: &FakeIrqLine) {
    let (mut ioapic, mut pic) = (IoApic::new(Nowhere), Pic::new(line));
    let mut bytes = ioapic.save().as_bytes().to_vec();
    let mut pair = pic.save().as_bytes().to_vec();
    for _ in 0..input.u8() & 15 {
        let (at, byte) = (usize::from(input.u8()), input.u8());
        let (a, b) = (at % bytes.len(), at % pair.len());
        bytes[a] = byte;
        pair[b] = byte;
    }
    if let Ok(state) = SavedIoApic::read_from_bytes(&bytes)
        && ioapic.restore(&state).is_ok()
    {
        let saved = ioapic.save();
        assert_eq!(ioapic.restore(&saved), Ok(()));
        assert_eq!(ioapic.save(), saved);
    }
    if let Ok(state) = SavedPic::read_from_bytes(&pair)
        && pic.restore(&state).is_ok()
    {
        // The cascade's level follows from the second chip, whatever the state says.
        let saved = pic.save();
        assert_eq!(pic.restore(&saved), Ok(()));
        assert_eq!(pic.save(), saved);
        for group in [Ports::Primary, Ports::Secondary, Ports::EdgeLevel] {
            let mut rest = Input::new(input.bytes(40));
            ports(&mut pic.ports(group), &mut rest);
        }
        if let Some(vector) = pic.peek() {
            assert_eq!(pic.acknowledge(), vector);
        }
    }
    while !input.is_empty() {
        let (pin, value) = (input.u8(), input.array::<4>());
        ioapic.set_pin(usize::from(pin & 31), (pin & 32 != 0).into());
        let _ = ioapic.mmio_write(u64::from(pin & 0x10), &value);
        ioapic.end_of_interrupt(value[0]);
    }
}

fn msrs(input: &mut Input<'_>) {
    let Some(policy) = cpuid() else {
        return;
    };
    let mut file = MsrFile::new(policy.msr_features());
    let mut bytes = file.save().as_bytes().to_vec();
    for _ in 0..input.u8() & 15 {
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] = input.u8();
    }
    let Ok(state) = SavedMsrFile::read_from_bytes(&bytes) else {
        return;
    };
    if file.restore(&state).is_ok() {
        let saved = file.save();
        assert_eq!(file.restore(&saved), Ok(()));
        assert_eq!(file.save(), saved);
        let mut vmsa = stockade_abi::vmsa::Vmsa::new_zeroed();
        while !input.is_empty() {
            let number = stockade_intercept::msr::Msr(input.u32());
            let _ = file.write(number, input.u64(), &mut vmsa);
            let _ = file.read(number, &vmsa);
        }
    }
}

/// A clock held at the end of all time, whose date overflowed once.
fn absurd_clock() -> Vec<u8> {
    let mut seed = vec![1];
    seed.resize(1 + 16 + 3 + 16, 0);
    seed.push(1);
    seed.extend(i64::MIN.to_le_bytes());
    seed
}

/// One of each kind, with values that are often possible.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    (0..13)
        .map(|kind| {
            let mut seed = vec![kind, 3, 2, 0, 0x10, 0x27];
            seed.extend([0, 1, 0, 0, 0, 0, 0, 0]);
            seed.resize(160, 0);
            seed
        })
        .chain([absurd_clock()])
        .collect()
}
