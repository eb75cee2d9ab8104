//! The machine: which chip is plugged in where.
//!
//! [`Chips`] is everything vCPUs share, behind one lock in [`Machine`]; what a vCPU has to itself (its local APIC, its MSRs) is in
//! [`crate::vcpu`]. The wiring table is [`Chips::with_port`] and [`Chips::with_mmio`]: every port and address the guest can reach is
//! there, and what is not there reads as ones.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;
use stockade_apic::pic::Ports;
use stockade_apic::{IoApic, Mailbox, Message, MessageSink, Pic, route};
use stockade_boot::layout::{ECAM_BASE, ECAM_SIZE, IOAPIC_BASE};
use stockade_bus::{AccessError, Clock, Deadline, Gpa, IrqLine, Level, Mmio, PortIo};
use stockade_devices::i8042::Keyboard8042;
use stockade_devices::pci::PciRoot;
use stockade_devices::pit::Pit;
use stockade_devices::power::Power;
use stockade_devices::reset::ResetControl;
use stockade_devices::rtc::Rtc;
use stockade_devices::serial::Serial;

use crate::wires::{Wire, Wires};

/// ISA interrupt numbers of the chips.
const IRQ_PIT: u8 = 0;
const IRQ_COM1: u8 = 4;
const IRQ_RTC: u8 = 8;
const IRQ_SCI: u8 = 9;

/// Bytes of the IOAPIC's register window.
const IOAPIC_SIZE: u64 = 0x1000;

/// Sends messages of the IOAPIC to the vCPUs' mailboxes and notes whom to wake.
#[derive(Clone, Debug)]
pub struct Router {
    mailboxes: Arc<[Mailbox]>,
    wake: Arc<AtomicU64>,
}

impl MessageSink for Router {
    fn send(&self, message: Message) {
        route::send_message(&self.mailboxes, &message, |vcpu| self.wake(vcpu));
    }
}

impl Router {
    /// Up to 64 vCPUs can be woken one by one; the bit of any other is not there to take.
    fn wake(&self, vcpu: usize) {
        let bit = u32::try_from(vcpu)
            .ok()
            .and_then(|vcpu| 1_u64.checked_shl(vcpu));
        self.wake.fetch_or(bit.unwrap_or(0), Ordering::Relaxed);
    }
}

/// INTR of the 8259 pair goes to LINT0 of the first vCPU.
impl IrqLine for Router {
    fn set(&self, level: Level) {
        if let Some(first) = self.mailboxes.first()
            && first.set_lint0(level)
        {
            self.wake(0);
        }
    }
}

/// The chips of a Q35 PC.
pub struct Chips<C> {
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
    fn new(clock: &C, unix_seconds: u64, router: &Router) -> Self {
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

    fn reset_all(&mut self) {
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
    fn with_port(
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
    fn with_mmio(
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
    fn settle(&mut self) {
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

    fn deadline(&self) -> Deadline {
        let due = [
            self.pit.deadline(),
            self.rtc.deadline(),
            self.power.deadline(),
        ];
        due.into_iter().flatten().min()
    }

    fn advance(&mut self) {
        self.pit.advance();
        self.rtc.advance();
        self.power.advance();
    }
}

/// What the guest asked of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    None,
    /// Switch off.
    PowerOff,
    /// Start over.
    Reset,
}

/// The machine all vCPUs share.
pub struct Machine<C> {
    chips: Mutex<Chips<C>>,
    mailboxes: Arc<[Mailbox]>,
    wake: Arc<AtomicU64>,
    clock: C,
    /// When a chip is next due, in nanoseconds; `u64::MAX` while none is.
    due_ns: AtomicU64,
}

impl<C: Clock + Clone> Machine<C> {
    /// Returns a machine for `vcpus` vCPUs whose clock showed `unix_seconds` when `clock` was zero.
    #[must_use]
    pub fn new(vcpus: usize, clock: C, unix_seconds: u64) -> Self {
        let mailboxes: Arc<[Mailbox]> = (0..vcpus).map(|_| Mailbox::new()).collect();
        let router = Router {
            mailboxes: Arc::clone(&mailboxes),
            wake: Arc::new(AtomicU64::new(0)),
        };
        Self {
            chips: Mutex::new(Chips::new(&clock, unix_seconds, &router)),
            wake: router.wake,
            mailboxes,
            clock,
            due_ns: AtomicU64::new(u64::MAX),
        }
    }

    /// Returns the machine's clock.
    #[must_use]
    pub fn clock(&self) -> &C {
        &self.clock
    }

    /// Returns the mailboxes, one a vCPU.
    #[must_use]
    pub fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// Returns whom messages since the last call were for, a bit a vCPU.
    pub fn take_wakes(&self) -> u64 {
        self.wake.swap(0, Ordering::Relaxed)
    }

    /// Puts every chip back to power-on.
    pub fn reset(&self) {
        self.with_chips(Chips::reset_all);
    }

    /// Works on the chips, then passes on what their wires say.
    pub(crate) fn with_chips<R>(&self, work: impl FnOnce(&mut Chips<C>) -> R) -> R {
        let mut chips = self.chips.lock();
        let result = work(&mut chips);
        chips.settle();
        let due = chips.deadline().unwrap_or(u64::MAX);
        self.due_ns.store(due, Ordering::Relaxed);
        result
    }

    /// Returns when a chip is next due.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        let due = self.due_ns.load(Ordering::Relaxed);
        (due != u64::MAX).then_some(due)
    }

    /// Lets the chips catch up if one is due.
    pub fn advance(&self) {
        if self.due_ns.load(Ordering::Relaxed) <= self.clock.now_ns() {
            self.with_chips(Chips::advance);
        }
    }

    /// Reads a port as the guest's IN does.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        self.with_chips(|chips| {
            let outcome = chips.with_port(port, |chip, offset| chip.port_read(offset, data));
            if outcome == Err(AccessError::Width) && data.len() > 1 {
                // Chips of one byte answer each byte at its own port.
                for (byte, port) in data.iter_mut().zip(port..) {
                    let one = core::slice::from_mut(byte);
                    if chips
                        .with_port(port, |chip, offset| chip.port_read(offset, one))
                        .is_err()
                    {
                        *byte = 0xFF;
                    }
                }
            } else if outcome.is_err() {
                data.fill(0xFF);
            }
        });
    }

    /// Writes a port as the guest's OUT does.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        self.with_chips(|chips| {
            let outcome = chips.with_port(port, |chip, offset| chip.port_write(offset, data));
            if outcome == Err(AccessError::Width) && data.len() > 1 {
                for (byte, port) in data.chunks(1).zip(port..) {
                    // A port nobody takes is a write into the void, as on a PC.
                    let _ = chips.with_port(port, |chip, offset| chip.port_write(offset, byte));
                }
            }
        });
    }

    /// Reads memory-mapped registers; ones where there are none.
    pub fn mmio_read(&self, gpa: Gpa, data: &mut [u8]) {
        self.with_chips(|chips| {
            if chips
                .with_mmio(gpa, |chip, offset| chip.mmio_read(offset, data))
                .is_err()
            {
                data.fill(0xFF);
            }
        });
    }

    /// Writes memory-mapped registers.
    pub fn mmio_write(&self, gpa: Gpa, data: &[u8]) {
        self.with_chips(|chips| {
            // A write nobody takes is lost, as on a PC.
            let _ = chips.with_mmio(gpa, |chip, offset| chip.mmio_write(offset, data));
        });
    }

    /// Returns what the guest asked of the machine as a whole since the last call.
    pub fn take_request(&self) -> Request {
        let mut chips = self.chips.lock();
        let (control, keyboard) = (chips.reset.take_reset(), chips.keyboard.take_reset());
        if chips.power.is_off() {
            Request::PowerOff
        } else if control || keyboard {
            Request::Reset
        } else {
            Request::None
        }
    }
}

#[cfg(test)]
mod tests;
