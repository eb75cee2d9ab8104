//! Register traffic, messages and time at a local APIC, an IOAPIC and the 8259 pair.

use stockade_apic::pic::Ports;
use stockade_apic::{
    Config, IoApic, Lint, LocalApic, Mailbox, Message, MessageSink, Pic, Role, Time, Trigger, route,
};
use stockade_bus::fake::FakeIrqLine;
use stockade_bus::{Level, Mmio, PortIo};

use crate::Input;
use crate::machine::FEATURES;

/// Sends to one mailbox.
struct Router<'a>(&'a [Mailbox; 1]);

impl MessageSink for Router<'_> {
    fn send(&self, message: Message) {
        route::send_message(self.0, &message, |_| {});
    }
}

struct World<'a> {
    apic: LocalApic,
    ioapic: IoApic<Router<'a>>,
    pic: Pic<&'a FakeIrqLine>,
    mailboxes: &'a [Mailbox; 1],
    now: Time,
}

/// Drives the controllers. No exception vector is delivered, a vector taken is not offered again, INTR is what the pair says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mailboxes = [Mailbox::new()];
    let intr = FakeIrqLine::default();
    let mut world = World {
        apic: LocalApic::new(Config {
            id: 0,
            role: Role::Bootstrap,
            features: FEATURES,
            physical_address_bits: 46,
        }),
        ioapic: IoApic::new(Router(&mailboxes)),
        pic: Pic::new(&intr),
        mailboxes: &mailboxes,
        now: Time::default(),
    };
    world.apic.publish(&mailboxes[0]);
    while !input.is_empty() {
        world.step(&mut input);
        assert_eq!(world.pic.output(), intr.level());
    }
}

impl World<'_> {
    fn step(&mut self, input: &mut Input<'_>) {
        let (kind, place, value) = (input.u8(), input.u8(), input.u32());
        let bytes = value.to_le_bytes();
        let mut read = [0; 4];
        match kind & 0xF {
            0..=2 => {
                let offset = u16::from(place) << 4 | u16::from(kind >> 6);
                let effect = self.apic.write_mmio(offset, &bytes, self.now);
                self.carry_out(effect.ok());
            }
            3 => {
                let offset = u16::from(place) << 4 | u16::from(kind >> 6);
                let _ = self.apic.read_mmio(offset, &mut read, self.now);
            }
            4 | 5 => {
                let msr = 0x800 + u32::from(place);
                let wide = u64::from(value) | u64::from(kind >> 4) << 32;
                let effect = self.apic.write_msr(msr, wide, self.now);
                self.carry_out(effect.ok());
            }
            6 => {
                let effect = self.apic.set_apic_base(value.into());
                self.carry_out(effect.ok());
            }
            7 => {
                let offset = u64::from(place) & 0x50;
                let _ = self.ioapic.mmio_write(offset, &bytes);
            }
            8 => self
                .ioapic
                .set_pin(usize::from(place & 31), Level::from(value & 1 != 0)),
            9 => self.pic.set_irq(place & 15, Level::from(value & 1 != 0)),
            10 => {
                let ports =
                    [Ports::Primary, Ports::Secondary, Ports::EdgeLevel][usize::from(place % 3)];
                let _ = self
                    .pic
                    .ports(ports)
                    .port_write(u16::from(kind >> 7), &bytes[..1]);
                let _ = self
                    .pic
                    .ports(ports)
                    .port_read(u16::from(kind >> 7), &mut read[..1]);
            }
            11 => {
                let _ = self.mailboxes[0].post_vector(place, Trigger::from(value & 1 != 0));
            }
            12 => self.message(place, value),
            13 => {
                self.now.ns = self.now.ns.saturating_add(u64::from(value) >> (place & 31));
                self.now.tsc = self.now.tsc.saturating_add(u64::from(value));
                let _ = self.apic.advance(self.now);
            }
            14 => {
                let lint = if place & 1 == 0 {
                    Lint::Lint0
                } else {
                    Lint::Lint1
                };
                let _ = self.apic.set_lint(lint, Level::from(value & 1 != 0));
                if self.pic.peek().is_some() && value & 2 != 0 {
                    assert_eq!(self.pic.peek(), Some(self.pic.acknowledge()));
                }
            }
            _ => self.deliver(value),
        }
        let _ = self.apic.deadline();
    }

    fn message(&mut self, place: u8, value: u32) {
        let address = 0xFEE0_0000 | u64::from(place) << 12 | u64::from(value >> 28);
        if let Some(message) = Message::from_msi(address, value) {
            route::send_message(self.mailboxes, &message, |_| {});
        }
    }

    fn carry_out(&mut self, effect: Option<stockade_apic::Effect>) {
        use stockade_apic::Effect;
        match effect {
            None | Some(Effect::None) => {}
            Some(Effect::Ipi(ipi)) => route::send_ipi(self.mailboxes, &ipi, |_| {}),
            Some(Effect::EoiBroadcast(vector)) => self.ioapic.end_of_interrupt(vector),
            Some(Effect::AddressChanged) => self.apic.publish(&self.mailboxes[0]),
        }
    }

    /// The run loop's part: mail in, the highest vector out.
    fn deliver(&mut self, value: u32) {
        let _ = self.apic.deliver_remote(&self.mailboxes[0]);
        let Some(vector) = self.apic.deliverable_vector() else {
            return;
        };
        assert!(vector >= 16, "vector {vector} is delivered");
        if value & 1 != 0 {
            assert!(self.apic.accept(vector), "vector {vector} was deliverable");
            assert_ne!(self.apic.deliverable_vector(), Some(vector));
        }
    }
}

/// An enabled APIC that takes vectors; timers; pins through the IOAPIC; the 8259 pair.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let step = |kind: u8, place: u8, value: u32| {
        let mut step = vec![kind, place];
        step.extend(value.to_le_bytes());
        step
    };
    let enable = step(0, 0x0F, 0x1FF);
    let take = [step(15, 0, 1), step(0, 0x0B, 0)].concat();
    let vectors = [step(11, 0x55, 0), step(11, 0x66, 1)].concat();
    let timer = [
        step(0, 0x3E, 0xB),
        step(0, 0x32, 0x2_0040),
        step(0, 0x38, 1000),
        step(13, 0, 5000),
    ]
    .concat();
    let x2apic = [
        step(6, 0, 0xFEE0_0D00),
        step(4, 0x3F, 0x77),
        step(4, 0x30, 0x4_0066),
    ]
    .concat();
    let pin = [
        step(7, 0, 0x18),
        step(7, 0x10, 0x8044),
        step(8, 4, 1),
        step(15, 0, 1),
        step(8, 4, 0),
    ]
    .concat();
    let pic = [
        step(10, 0, 0x11),
        step(0x8A, 0, 0x20),
        step(0x8A, 0, 4),
        step(0x8A, 0, 1),
        step(9, 1, 1),
        step(14, 0, 3),
    ]
    .concat();
    vec![
        [enable.clone(), vectors, take.clone(), take.clone()].concat(),
        [enable.clone(), timer, take.clone()].concat(),
        [enable.clone(), x2apic, take.clone()].concat(),
        [enable.clone(), pin, take.clone()].concat(),
        [enable, pic, take].concat(),
    ]
}
