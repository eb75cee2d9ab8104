//! The chips all vCPUs share, and the wiring table: [`Chips::with_port`] and [`Chips::with_mmio`] have every port and address the
//! guest can reach; what is not there reads as ones.

use alloc::sync::Arc;

use stockade_apic::pic::Ports;
use stockade_apic::{IoApic, Pic};
use stockade_boot::layout::{ECAM_BASE, ECAM_SIZE, IOAPIC_BASE};
use stockade_bus::{AccessError, Clock, Deadline, Gpa, Level, Mmio, PortIo};
use stockade_devices::i8042::Keyboard8042;
use stockade_devices::pci::PciRoot;
use stockade_devices::pit::Pit;
use stockade_devices::power::Power;
use stockade_devices::reset::ResetControl;
use stockade_devices::rtc::Rtc;
use stockade_devices::serial::Serial;

use super::{Request, Router};
use crate::wires::{Wire, Wires};

/// ISA interrupt numbers of the chips.
const IRQ_PIT: u8 = 0;
const IRQ_COM1: u8 = 4;
const IRQ_RTC: u8 = 8;
const IRQ_SCI: u8 = 9;

/// Bytes of the IOAPIC's register window.
const IOAPIC_SIZE: u64 = 0x1000;

/// The chips of a Q35 PC.
pub(crate) struct Chips<C> {
    wires: Arc<Wires>,
    /// The levels the controllers were last given.
    shown: u32,

    pub(crate) pic: Pic<Router>,
    pub(crate) ioapic: IoApic<Router>,
    pub(crate) pit: Pit<Wire, C>,
    pub(crate) rtc: Rtc<Wire, C>,
    pub(crate) power: Power<Wire, C>,
    pub(crate) com1: Serial<Wire>,
    pub(crate) pci: PciRoot,
    pub(crate) keyboard: Keyboard8042,
    pub(crate) reset: ResetControl,
}

impl<C: Clock + Clone> Chips<C> {
    pub(super) fn new(clock: &C, unix_seconds: u64, router: &Router) -> Self {
        let wires = Arc::new(Wires::default());
        let wire = |irq| Wire::new(&wires, irq);
        Self {
            pic: Pic::new(router.clone()),
            ioapic: IoApic::new(router.clone()),
            pit: Pit::new(wire(IRQ_PIT), clock.clone()),
            rtc: Rtc::new(wire(IRQ_RTC), clock.clone(), unix_seconds),
            power: Power::new(wire(IRQ_SCI), clock.clone()),
            com1: Serial::new(wire(IRQ_COM1)),
            pci: PciRoot::new(),
            keyboard: Keyboard8042::new(),
            reset: ResetControl::new(),
            wires,
            shown: 0,
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
        self.settle();
    }

    /// The wiring table of I/O ports: hands the chip at `port` and the offset within it to `access`.
    pub(super) fn with_port(
        &mut self,
        port: u16,
        access: impl FnOnce(&mut dyn PortIo, u16) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        match port {
            0x600..=0x67F => access(&mut self.power, port - 0x600),
            0x3F8..=0x3FF => access(&mut self.com1, port - 0x3F8),
            0x20..=0x21 => access(&mut self.pic.ports(Ports::Primary), port - 0x20),
            0xA0..=0xA1 => access(&mut self.pic.ports(Ports::Secondary), port - 0xA0),
            0x4D0..=0x4D1 => access(&mut self.pic.ports(Ports::EdgeLevel), port - 0x4D0),
            0x40..=0x43 | 0x61 => access(&mut self.pit, port - 0x40),
            0x60 | 0x64 => access(&mut self.keyboard, port - 0x60),
            0x70..=0x71 => access(&mut self.rtc, port - 0x70),
            0x92 | 0xCF9 => access(&mut self.reset, port),
            0xCF8..=0xCFF => access(&mut self.pci, port - 0xCF8),
            _ => Err(AccessError::NoRegister),
        }
    }

    /// The wiring table of memory-mapped registers.
    pub(super) fn with_mmio(
        &mut self,
        gpa: Gpa,
        access: impl FnOnce(&mut dyn Mmio, u64) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        const IOAPIC_END: u64 = IOAPIC_BASE + IOAPIC_SIZE;
        const ECAM_END: u64 = ECAM_BASE + ECAM_SIZE;
        match gpa.0 {
            IOAPIC_BASE..IOAPIC_END => access(&mut self.ioapic, gpa.0 - IOAPIC_BASE),
            ECAM_BASE..ECAM_END => access(&mut self.pci, gpa.0 - ECAM_BASE),
            _ => Err(AccessError::NoRegister),
        }
    }

    /// Hands what changed on the wires to both interrupt controllers.
    pub(super) fn settle(&mut self) {
        let changes = self.wires.take();
        let moved = changes.rises | (changes.levels ^ self.shown);
        for irq in (0..16).filter(|irq| moved & (1 << irq) != 0) {
            let bit = 1 << irq;
            // A wire that was high and rose again fell in between.
            if changes.rises & bit != 0 && self.shown & bit != 0 {
                self.drive(irq, Level::Low);
            }
            if changes.rises & bit != 0 {
                self.drive(irq, Level::High);
            }
            self.drive(irq, Level::from(changes.levels & bit != 0));
        }
        self.shown = changes.levels;
    }

    fn drive(&mut self, irq: u8, level: Level) {
        // The MADT says: ISA interrupt 0 is pin 2, all others are the pin of their number.
        let pin = if irq == 0 { 2 } else { usize::from(irq) };
        self.ioapic.set_pin(pin, level);
        self.pic.set_irq(irq, level);
    }

    pub(super) fn deadline(&self) -> Deadline {
        let due = [
            self.pit.deadline(),
            self.rtc.deadline(),
            self.power.deadline(),
        ];
        due.into_iter().flatten().min()
    }

    /// Returns what the guest asked of the whole machine, once.
    pub(super) fn take_request(&mut self) -> Request {
        let (control, keyboard) = (self.reset.take_reset(), self.keyboard.take_reset());
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
    }
}
