//! The chips all vCPUs share, and the wiring table: [`Chips::with_port`] and [`Chips::with_mmio`] have every port and address the
//! guest can reach; what is not there reads as ones.

use alloc::sync::Arc;

use stockade_apic::pic::Ports;
use stockade_apic::{IoApic, Pic};
use stockade_boot::layout::{HPET_BASE, IOAPIC_BASE};
use stockade_boot::manifest::Start;
use stockade_bus::{AccessError, Clock, Deadline, Gpa, Level, Mmio, PortIo};
use stockade_devices::hpet::{self, Hpet};
use stockade_devices::i8042::{Keyboard8042, ResetLine};
use stockade_devices::pci::{Condition, PciRoot};
use stockade_devices::pit::Pit;
use stockade_devices::power::{self, Power};
use stockade_devices::reset::ResetControl;
use stockade_devices::rtc::Rtc;
use stockade_devices::serial::Serial;
use stockade_devices::test_devices;

use super::firmware::{FirmwareDevices, memory_cells};
use super::fittings::{Fittings, TestDevices};
use super::slots::PciSlots;
use super::{Request, Router};
use crate::wires::{Wire, Wires};

/// ISA interrupt numbers of the chips.
const IRQ_PIT: u8 = 0;
const IRQ_COM1: u8 = 4;
const IRQ_RTC: u8 = 8;
const IRQ_SCI: u8 = 9;
const IRQ_HPET: u8 = 11;
/// The first of the four IOAPIC pins an HPET can use.
const PIN_HPET: u8 = 20;
/// Wires of the HPET that take the places of those of PIT and RTC in legacy replacement.
const HPET_TIMER: u8 = 24;
const HPET_CLOCK: u8 = 25;

/// Pins of the IOAPIC; the first 16 are the ISA interrupts.
const PINS: u8 = 24;
const ISA_INTERRUPTS: u8 = 16;
/// Interrupts 10 and 11, which firmware connects the PCI wires to.
const LEVEL_TRIGGERED: u16 = 1 << 10 | 1 << 11;

/// Bytes of the IOAPIC's register window.
const IOAPIC_SIZE: u64 = 0x1000;

/// The chips of a Q35 PC.
pub(crate) struct Chips<C> {
    wires: Arc<Wires>,
    slots: Arc<PciSlots>,
    start: Start,
    /// The levels the controllers were last given; on the 8259s besides those by number, those of connected PCI wires.
    shown: u32,
    shown_isa: u16,

    pub(crate) pic: Pic<Router>,
    pub(crate) ioapic: IoApic<Router>,
    pub(crate) pit: Pit<Wire, C>,
    pub(crate) rtc: Rtc<Wire, C>,
    pub(crate) power: Power<Wire, C>,
    pub(crate) com1: Serial<Wire>,
    pub(crate) pci: PciRoot<Arc<PciSlots>>,
    pub(crate) keyboard: Keyboard8042,
    pub(crate) reset: ResetControl,
    hpet: Option<Hpet<Wire, C>>,
    firmware: Option<FirmwareDevices>,
    test_devices: Option<TestDevices>,
}

impl<C: Clock + Clone> Chips<C> {
    pub(super) fn new(
        clock: &C,
        unix_seconds: u64,
        router: &Router,
        slots: Arc<PciSlots>,
        fittings: &Fittings,
    ) -> Self {
        let wires = Arc::new(Wires::default());
        let wire = |irq| Wire::new(&wires, irq);
        let hpet_lines = hpet::Lines {
            timer: wire(HPET_TIMER),
            clock: wire(HPET_CLOCK),
            irq11: wire(IRQ_HPET),
            pins: [0, 1, 2, 3].map(|pin| wire(PIN_HPET + pin)),
        };
        let mut chips = Self {
            firmware: fittings
                .firmware
                .as_ref()
                .and_then(FirmwareDevices::try_new),
            hpet: fittings.hpet.then(|| Hpet::new(hpet_lines, clock.clone())),
            test_devices: fittings
                .test_devices
                .and_then(|test| TestDevices::try_new(test, Arc::clone(&fittings.modules), wire)),
            pic: Pic::new(router.clone()),
            ioapic: IoApic::new(router.clone()),
            pit: Pit::new(wire(IRQ_PIT), clock.clone()),
            rtc: Rtc::new(wire(IRQ_RTC), clock.clone(), unix_seconds),
            power: Power::new(wire(IRQ_SCI), clock.clone()),
            com1: Serial::new(wire(IRQ_COM1)),
            pci: PciRoot::new(Arc::clone(&slots), condition(fittings.start)),
            keyboard: Keyboard8042::new(),
            reset: ResetControl::new(),
            wires,
            slots,
            start: fittings.start,
            shown: 0,
            shown_isa: 0,
        };
        if let Some(firmware) = &fittings.firmware {
            for (cell, value) in memory_cells(&firmware.ram) {
                chips.rtc.set_cell(cell, value);
            }
        }
        chips.set_up_slots();
        chips
    }

    /// Does for the functions in the slots what firmware would, if there is none.
    fn set_up_slots(&mut self) {
        if self.start == Start::Firmware {
            return;
        }
        let mut windows = PciSlots::windows();
        for slot in self.slots.taken() {
            self.pci.configure(slot.address(), &mut windows);
            // The 8259s' inputs the wires are connected to are level-triggered.
            let levels = &LEVEL_TRIGGERED.to_le_bytes()[1..];
            let _ = self.pic.ports(Ports::EdgeLevel).port_write(1, levels);
        }
    }

    pub(super) fn reset_all(&mut self) {
        self.pic.reset();
        self.ioapic.reset();
        self.pit.reset();
        self.rtc.reset();
        self.power.reset();
        self.com1.reset();
        self.pci.reset();
        self.keyboard.reset();
        self.reset.reset();
        if let Some(hpet) = &mut self.hpet {
            hpet.reset();
        }
        if let Some(firmware) = &mut self.firmware {
            firmware.reset();
        }
        if let Some(devices) = &mut self.test_devices {
            devices.reset();
        }
        self.slots.reset();
        self.set_up_slots();
        self.settle();
    }

    /// The wiring table of I/O ports: hands the chip at `port` and the offset within it to `access`.
    pub(super) fn with_port(
        &mut self,
        port: u16,
        access: impl FnOnce(&mut dyn PortIo, u16) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        if let Some(offset) = self
            .pci
            .pm_offset(port)
            .filter(|offset| *offset < power::PORTS)
        {
            return access(&mut self.power, offset);
        }
        match port {
            0x3F8..=0x3FF => access(&mut self.com1, port - 0x3F8),
            0x20..=0x21 => access(&mut self.pic.ports(Ports::Primary), port - 0x20),
            0xA0..=0xA1 => access(&mut self.pic.ports(Ports::Secondary), port - 0xA0),
            0x4D0..=0x4D1 => access(&mut self.pic.ports(Ports::EdgeLevel), port - 0x4D0),
            0x40..=0x43 | 0x61 => access(&mut self.pit, port - 0x40),
            0x60 | 0x64 if self.start == Start::Firmware => {
                access(&mut ResetLine(&mut self.keyboard), port - 0x60)
            }
            0x60 | 0x64 => access(&mut self.keyboard, port - 0x60),
            0x70..=0x71 => access(&mut self.rtc, port - 0x70),
            0x92 | 0xCF9 => access(&mut self.reset, port),
            0xCF8..=0xCFF => access(&mut self.pci, port - 0xCF8),
            _ => match (&mut self.firmware, &mut self.test_devices) {
                (Some(devices), _) if FirmwareDevices::has(port) => devices.with_port(port, access),
                (_, Some(devices)) => devices.with_port(port, access),
                _ => Err(AccessError::NoRegister),
            },
        }
    }

    /// The wiring table of memory-mapped registers.
    pub(super) fn with_mmio(
        &mut self,
        gpa: Gpa,
        access: impl FnOnce(&mut dyn Mmio, u64) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        const IOAPIC_END: u64 = IOAPIC_BASE + IOAPIC_SIZE;
        const HPET_END: u64 = HPET_BASE + hpet::BLOCK_SIZE;
        const TEST_MEMORY: u64 = test_devices::MEMORY_BASE;
        const TEST_MEMORY_END: u64 = TEST_MEMORY + test_devices::MEMORY_SIZE;
        match gpa.0 {
            IOAPIC_BASE..IOAPIC_END => access(&mut self.ioapic, gpa.0 - IOAPIC_BASE),
            HPET_BASE..HPET_END => match &mut self.hpet {
                Some(hpet) => access(hpet, gpa.0 - HPET_BASE),
                None => Err(AccessError::NoRegister),
            },
            TEST_MEMORY..TEST_MEMORY_END => match &mut self.test_devices {
                Some(devices) => access(&mut devices.testdev, gpa.0 - TEST_MEMORY),
                None => Err(AccessError::NoRegister),
            },
            _ => match self.pci.ecam_offset(gpa.0) {
                Some(offset) => access(&mut self.pci, offset),
                None => Err(AccessError::NoRegister),
            },
        }
    }

    /// Hands what changed on the wires to both interrupt controllers.
    pub(super) fn settle(&mut self) {
        let raw = self.wires.take();
        let routed = self.pci.route(self.slots.asserted());
        let levels = self.by_pin(raw.levels) | routed.pins;
        let rises = self.by_pin(raw.rises);
        let mut moved = rises | (levels ^ self.shown);
        while moved != 0 {
            let irq = moved.trailing_zeros().to_le_bytes()[0];
            let bit = 1 << irq;
            moved &= !bit;
            // A wire that was high and rose again fell in between.
            if rises & bit != 0 && self.shown & bit != 0 {
                self.drive(irq, Level::Low);
            }
            if rises & bit != 0 {
                self.drive(irq, Level::High);
            }
            self.drive(irq, Level::from(levels & bit != 0));
        }
        self.shown = levels;
        self.settle_isa(routed.isa);
    }

    /// Hands the PCI wires that are connected to the 8259s to them, each together with the wire of its number.
    fn settle_isa(&mut self, isa: u16) {
        let moved = isa ^ core::mem::replace(&mut self.shown_isa, isa);
        for irq in (0..ISA_INTERRUPTS).filter(|irq| moved >> irq & 1 != 0) {
            let level = isa >> irq & 1 != 0 || self.shown >> irq & 1 != 0;
            self.pic.set_irq(irq, Level::from(level));
        }
    }

    /// Puts the wires of PIT and RTC, or in legacy replacement those of the HPET, at their interrupts (HPET 1.0a, 2.3.5).
    fn by_pin(&self, wires: u32) -> u32 {
        const REPLACED: u32 = 1 << IRQ_PIT | 1 << IRQ_RTC;
        let is_replaced = self
            .hpet
            .as_ref()
            .is_some_and(|hpet| hpet.is_legacy_replacement());
        let pins = wires & ((1 << PINS) - 1);
        if !is_replaced {
            return pins;
        }
        let timer = wires >> HPET_TIMER & 1;
        let clock = wires >> HPET_CLOCK & 1;
        pins & !REPLACED | timer << IRQ_PIT | clock << IRQ_RTC
    }

    fn drive(&mut self, irq: u8, level: Level) {
        // The MADT says: ISA interrupt 0 is pin 2, all others are the pin of their number.
        let pin = if irq == 0 { 2 } else { usize::from(irq) };
        self.ioapic.set_pin(pin, level);
        if irq < ISA_INTERRUPTS && self.shown_isa >> irq & 1 == 0 {
            self.pic.set_irq(irq, level);
        }
    }

    pub(super) fn deadline(&self) -> Deadline {
        let due = [
            self.pit.deadline(),
            self.rtc.deadline(),
            self.power.deadline(),
            self.hpet.as_ref().and_then(Hpet::deadline),
        ];
        due.into_iter().flatten().min()
    }

    /// Returns what the guest asked of the whole machine, once.
    pub(super) fn take_request(&mut self) -> Request {
        let (control, keyboard) = (self.reset.take_reset(), self.keyboard.take_reset());
        let devices = self.test_devices.as_mut();
        if let Some(status) = devices.and_then(|devices| devices.exit.take_exit()) {
            return Request::Exit(status);
        }
        if self.power.is_off() {
            Request::PowerOff
        } else if control || keyboard {
            Request::Reset
        } else {
            Request::None
        }
    }

    pub(super) fn advance(&mut self) {
        self.pit.advance();
        self.rtc.advance();
        self.power.advance();
        if let Some(hpet) = &mut self.hpet {
            hpet.advance();
        }
    }
}

/// How what starts the guest expects the chipset.
fn condition(start: Start) -> Condition {
    match start {
        Start::Kernel => Condition::SetUp,
        Start::Firmware => Condition::PowerOn,
    }
}
