//! The IOAPIC: 24 pins, as in the ICH9 (Intel 82093AA data sheet; ICH9 data sheet, 13.5).
//!
//! A pin's wire carries assertion, not voltage: the board is taken to match the polarity that the guest programs, and the
//! polarity bit is kept but has no effect. An edge on a masked pin is lost, a level waits. Several devices on one pin are the
//! wiring's to combine.

use bitfield_struct::bitfield;
use stockade_bus::{AccessError, Level, Mmio};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::msi::{DeliveryMode, DestinationMode, Message, MessageSink, Trigger, widen};
use crate::saved::{Register, RestoreError, check, check_version};

/// How many pins there are.
pub const PINS: usize = 24;

/// Offsets in the register page.
const INDEX: u64 = 0x00;
const WINDOW: u64 = 0x10;
const END_OF_INTERRUPT: u64 = 0x40;

/// Indices behind the window.
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const REDIRECTION: u8 = 0x10;

/// Version 0x20, the first with an EOI register; the number of the last pin above it.
const VERSION_VALUE: u32 = 0x0017_0020;
const ID_WRITABLE: u32 = 0x0F00_0000;

/// A redirection table entry (82093AA, 3.2.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
struct Redirection {
    vector: u8,
    #[bits(3)]
    delivery: u8,
    is_logical: bool,
    __is_busy: bool,
    is_active_low: bool,
    remote_irr: bool,
    is_level: bool,
    is_masked: bool,
    #[bits(39)]
    __reserved: u64,
    destination: u8,
}

impl Redirection {
    const RESET: Self = Self::new().with_is_masked(true);
    const WRITABLE: u64 = Self::new()
        .with_vector(0xFF)
        .with_delivery(7)
        .with_is_logical(true)
        .with_is_active_low(true)
        .with_is_level(true)
        .with_is_masked(true)
        .with_destination(0xFF)
        .into_bits();

    /// Returns whether the pin is level-triggered; only vectors are, whatever the bit says (82093AA, 3.2.4, delivery mode).
    fn is_level_triggered(self) -> bool {
        self.is_level()
            && DeliveryMode::from_bits(self.delivery()).is_some_and(DeliveryMode::has_vector)
    }

    /// Returns the message a pin sends, `None` for the reserved delivery modes.
    fn message(self) -> Option<Message> {
        let mode = DestinationMode::from(self.is_logical());
        let delivery = DeliveryMode::from_bits(self.delivery())?;
        (delivery != DeliveryMode::StartUp).then(|| Message {
            destination: widen(u32::from(self.destination()), mode),
            mode,
            vector: self.vector(),
            trigger: Trigger::from(self.is_level_triggered()),
            delivery,
        })
    }
}

/// An IOAPIC.
#[derive(Debug)]
pub struct IoApic<S> {
    sink: S,

    index: u8,
    id: u32,
    redirections: [Redirection; PINS],

    /// The pins that are high, a bit each.
    pins: u32,
}

impl<S: MessageSink> IoApic<S> {
    /// Returns an IOAPIC with all pins masked that sends to `sink`.
    pub const fn new(sink: S) -> Self {
        Self {
            sink,
            index: 0,
            id: 0,
            redirections: [Redirection::RESET; PINS],
            pins: 0,
        }
    }

    /// Resets to the power-on state; the pins keep their levels.
    pub fn reset(&mut self) {
        let Self {
            sink: _,
            index,
            id,
            redirections,
            pins: _,
        } = self;
        *index = 0;
        *id = 0;
        *redirections = [Redirection::RESET; PINS];
    }

    /// Drives a pin. There are no pins from [`PINS`] on.
    pub fn set_pin(&mut self, pin: usize, level: Level) {
        let Some(redirection) = self.redirections.get(pin) else {
            return;
        };
        let before = self.pins;
        match level {
            Level::High => self.pins |= 1 << pin,
            Level::Low => self.pins &= !(1 << pin),
        }
        if redirection.is_level_triggered() {
            self.evaluate(pin);
        } else if self.pins & !before != 0 && !redirection.is_masked() {
            self.send(*redirection);
        }
    }

    /// Takes the end of a level-triggered vector: those pins are served and send again if they still are high.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PINS {
            let redirection = &mut self.redirections[pin];
            if redirection.remote_irr() && redirection.vector() == vector {
                redirection.set_remote_irr(false);
                self.evaluate(pin);
            }
        }
    }

    /// Returns the state.
    #[must_use]
    pub fn save(&self) -> SavedIoApic {
        let Self {
            sink: _,
            index,
            id,
            redirections,
            pins,
        } = self;
        SavedIoApic {
            version: SAVED_VERSION,
            index: u32::from(*index),
            id: *id,
            pins: *pins,
            redirections: redirections.map(Redirection::into_bits),
        }
    }

    /// Takes over a saved state, or refuses it and changes nothing.
    pub fn restore(&mut self, saved: &SavedIoApic) -> Result<(), RestoreError> {
        let SavedIoApic {
            version,
            index,
            id,
            pins,
            redirections,
        } = *saved;
        check_version(version, SAVED_VERSION)?;
        let index = u8::try_from(index).map_err(|_| RestoreError::Register(Register::Identity))?;
        check(id & !ID_WRITABLE == 0, Register::Identity)?;
        check(pins >> PINS == 0, Register::Wires)?;
        let remote_irr = Redirection::new().with_remote_irr(true).into_bits();
        for bits in redirections {
            let redirection = Redirection::from_bits(bits);
            let is_served = redirection.is_level_triggered() || !redirection.remote_irr();
            let is_possible = bits & !(Redirection::WRITABLE | remote_irr) == 0;
            check(is_possible && is_served, Register::Redirection)?;
        }
        self.index = index;
        self.id = id;
        self.pins = pins;
        self.redirections = redirections.map(Redirection::from_bits);
        // A state that was saved at rest sends nothing here.
        for pin in 0..PINS {
            self.evaluate(pin);
        }
        Ok(())
    }

    /// Sends for a level-triggered pin that is high, unmasked and not being served.
    fn evaluate(&mut self, pin: usize) {
        let redirection = self.redirections[pin];
        let is_due = self.pins & 1 << pin != 0
            && redirection.is_level_triggered()
            && !redirection.is_masked()
            && !redirection.remote_irr();
        if is_due {
            self.redirections[pin].set_remote_irr(true);
            self.send(redirection);
        }
    }

    fn send(&self, redirection: Redirection) {
        if let Some(message) = redirection.message() {
            self.sink.send(message);
        }
    }

    fn read_window(&self) -> u32 {
        match self.index {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            index => match redirection_half(index) {
                Some((pin, shift)) => {
                    let [b0, b1, b2, b3, ..] =
                        (self.redirections[pin].into_bits() >> shift).to_le_bytes();
                    u32::from_le_bytes([b0, b1, b2, b3])
                }
                None => 0,
            },
        }
    }

    fn write_window(&mut self, value: u32) {
        if self.index == ID {
            self.id = value & ID_WRITABLE;
        } else if let Some((pin, shift)) = redirection_half(self.index) {
            let writable = Redirection::WRITABLE & u64::from(u32::MAX) << shift;
            let before = self.redirections[pin];
            let bits = before.into_bits() & !writable | u64::from(value) << shift & writable;
            let mut redirection = Redirection::from_bits(bits);
            // Software without the EOI register clears remote IRR by going to edge and back.
            let is_served = before.remote_irr() && redirection.is_level_triggered();
            redirection.set_remote_irr(is_served);
            self.redirections[pin] = redirection;
            self.evaluate(pin);
        }
    }
}

/// Returns the pin an index belongs to, and how far up in its redirection entry the index reaches.
fn redirection_half(index: u8) -> Option<(usize, u32)> {
    let place = index.checked_sub(REDIRECTION)?;
    let pin = usize::from(place >> 1);
    (pin < PINS).then_some((pin, 32 * u32::from(place & 1)))
}

impl<S: MessageSink> Mmio for IoApic<S> {
    fn mmio_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let value = match offset & !3 {
            INDEX => u32::from(self.index),
            WINDOW => self.read_window(),
            END_OF_INTERRUPT => 0,
            _ => return Err(AccessError::NoRegister),
        };
        let bytes = value.to_le_bytes();
        let start = usize::from(offset.to_le_bytes()[0] & 3);
        let part = bytes
            .get(start..start + data.len())
            .ok_or(AccessError::Width)?;
        data.copy_from_slice(part);
        Ok(())
    }

    fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let &[low, ..] = data else {
            return Err(AccessError::Width);
        };
        match (offset, <[u8; 4]>::try_from(data)) {
            (INDEX, _) if data.len() <= 4 => self.index = low,
            (END_OF_INTERRUPT, _) if data.len() <= 4 => self.end_of_interrupt(low),
            (WINDOW, Ok(bytes)) => self.write_window(u32::from_le_bytes(bytes)),
            _ if matches!(offset & !3, INDEX | WINDOW | END_OF_INTERRUPT) => {
                return Err(AccessError::Width);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

const SAVED_VERSION: u32 = 1;

/// The state of an IOAPIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SavedIoApic {
    version: u32,
    index: u32,
    id: u32,
    pins: u32,
    redirections: [u64; PINS],
}

const _: () = assert!(size_of::<SavedIoApic>() == 208);

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use std::vec::Vec;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use stockade_bus::{AccessError, Level, Mmio};

    use super::{IoApic, PINS, SavedIoApic};
    use crate::msi::{BROADCAST, DeliveryMode, DestinationMode, Message, MessageSink, Trigger};

    #[derive(Default)]
    struct Sent(RefCell<Vec<Message>>);

    impl MessageSink for Sent {
        fn send(&self, message: Message) {
            self.0.borrow_mut().push(message);
        }
    }

    impl Sent {
        fn vectors(&self) -> Vec<u8> {
            self.0.take().iter().map(|message| message.vector).collect()
        }
    }

    fn write(ioapic: &mut IoApic<&Sent>, index: u8, value: u32) {
        ioapic
            .mmio_write(0x00, &u32::from(index).to_le_bytes())
            .unwrap();
        ioapic.mmio_write(0x10, &value.to_le_bytes()).unwrap();
    }

    fn read(ioapic: &mut IoApic<&Sent>, index: u8) -> u32 {
        let mut bytes = [0; 4];
        ioapic
            .mmio_write(0x00, &u32::from(index).to_le_bytes())
            .unwrap();
        ioapic.mmio_read(0x10, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn rte(pin: u8) -> u8 {
        0x10 + 2 * pin
    }

    const LEVEL: u32 = 1 << 15;
    const MASKED: u32 = 1 << 16;

    #[test]
    fn version_says_24_pins_and_an_eoi_register() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
    }

    #[test]
    fn all_pins_are_masked_after_reset() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        for pin in 0..24 {
            assert_eq!(read(&mut ioapic, rte(pin)), MASKED);
            ioapic.set_pin(usize::from(pin), Level::High);
        }
        assert_eq!(sent.vectors(), []);
    }

    #[test]
    fn edge_pin_sends_on_each_rise() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        write(&mut ioapic, rte(4), 0x34);
        for level in [Level::High, Level::High, Level::Low, Level::High] {
            ioapic.set_pin(4, level);
        }
        assert_eq!(sent.vectors(), [0x34, 0x34]);
    }

    #[test]
    fn edge_on_a_masked_pin_is_lost() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        write(&mut ioapic, rte(4), 0x34 | MASKED);
        ioapic.set_pin(4, Level::High);
        write(&mut ioapic, rte(4), 0x34);
        assert_eq!(sent.vectors(), []);
    }

    #[test]
    fn level_pin_sends_once_until_its_end_and_again_while_high() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        write(&mut ioapic, rte(9), 0x59 | LEVEL);
        ioapic.set_pin(9, Level::High);
        ioapic.set_pin(9, Level::Low);
        ioapic.set_pin(9, Level::High);
        assert_eq!(sent.vectors(), [0x59]);
        ioapic.end_of_interrupt(0x58);
        assert_eq!(sent.vectors(), [], "another vector's end");
        ioapic.end_of_interrupt(0x59);
        assert_eq!(sent.vectors(), [0x59]);
        ioapic.set_pin(9, Level::Low);
        ioapic.end_of_interrupt(0x59);
        assert_eq!(sent.vectors(), []);
    }

    #[test]
    fn level_on_a_masked_pin_waits_for_the_mask_to_go() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        write(&mut ioapic, rte(9), 0x59 | LEVEL | MASKED);
        ioapic.set_pin(9, Level::High);
        assert_eq!(sent.vectors(), []);
        write(&mut ioapic, rte(9), 0x59 | LEVEL);
        assert_eq!(sent.vectors(), [0x59]);
    }

    #[test]
    fn eoi_register_ends_like_a_broadcast() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        write(&mut ioapic, rte(9), 0x59 | LEVEL);
        ioapic.set_pin(9, Level::High);
        assert_eq!(read(&mut ioapic, rte(9)) & 1 << 14, 1 << 14);
        ioapic.mmio_write(0x40, &0x59u32.to_le_bytes()).unwrap();
        assert_eq!(sent.vectors(), [0x59, 0x59]);
    }

    #[test]
    fn going_to_edge_and_back_clears_remote_irr() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        write(&mut ioapic, rte(9), 0x59 | LEVEL);
        ioapic.set_pin(9, Level::High);
        ioapic.set_pin(9, Level::Low);
        write(&mut ioapic, rte(9), 0x59 | MASKED);
        write(&mut ioapic, rte(9), 0x59 | LEVEL);
        assert_eq!(read(&mut ioapic, rte(9)) & 1 << 14, 0);
    }

    #[test]
    fn message_carries_destination_and_modes() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        write(&mut ioapic, rte(2) + 1, 0x0300_0000);
        write(&mut ioapic, rte(2), 0x0930);
        ioapic.set_pin(2, Level::High);
        write(&mut ioapic, rte(3) + 1, 0xFF00_0000);
        write(&mut ioapic, rte(3), 0x0400 | LEVEL);
        ioapic.set_pin(3, Level::High);
        assert_eq!(
            sent.0.take(),
            [
                Message {
                    destination: 3,
                    mode: DestinationMode::Logical,
                    vector: 0x30,
                    trigger: Trigger::Edge,
                    delivery: DeliveryMode::LowestPriority,
                },
                Message {
                    destination: BROADCAST,
                    mode: DestinationMode::Physical,
                    vector: 0,
                    trigger: Trigger::Edge,
                    delivery: DeliveryMode::Nmi,
                },
            ]
        );
    }

    #[test]
    fn read_only_and_reserved_bits_do_not_stick() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        write(&mut ioapic, rte(5), u32::MAX);
        write(&mut ioapic, rte(5) + 1, u32::MAX);
        assert_eq!(read(&mut ioapic, rte(5)), 0x0001_AFFF);
        assert_eq!(read(&mut ioapic, rte(5) + 1), 0xFF00_0000);
        write(&mut ioapic, 0, u32::MAX);
        assert_eq!(read(&mut ioapic, 0), 0x0F00_0000);
    }

    #[test]
    fn window_takes_whole_double_words_only() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        assert_eq!(ioapic.mmio_write(0x10, &[0]), Err(AccessError::Width));
        assert_eq!(ioapic.mmio_write(0x10, &[0; 8]), Err(AccessError::Width));
        assert_eq!(
            ioapic.mmio_write(0x20, &[0; 4]),
            Err(AccessError::NoRegister)
        );
        assert_eq!(ioapic.mmio_read(0x10, &mut [0; 8]), Err(AccessError::Width));
        assert_eq!(
            ioapic.mmio_read(0xFF0, &mut [0; 4]),
            Err(AccessError::NoRegister)
        );
    }

    #[test]
    fn impossible_states_are_refused() {
        let sent = Sent::default();
        let mut ioapic = IoApic::new(&sent);
        let good = ioapic.save();
        let mut redirections = good.redirections;
        redirections[3] |= 1 << 14;
        let bad = [
            SavedIoApic { version: 2, ..good },
            SavedIoApic { index: 256, ..good },
            SavedIoApic { id: 1, ..good },
            SavedIoApic {
                pins: 1 << 24,
                ..good
            },
            SavedIoApic {
                redirections,
                ..good
            },
        ];
        for state in bad {
            assert!(ioapic.restore(&state).is_err(), "{state:?}");
            assert_eq!(ioapic.save(), good);
        }
    }

    proptest! {
        /// Whatever the guest and the wires do, a level pin at rest that is high and unmasked is being served, and a restored IOAPIC
        /// goes on like the saved one.
        #[test]
        fn level_pins_are_never_forgotten_and_restore_changes_nothing(
            steps in proptest::collection::vec((0u8..4, any::<u8>(), any::<u32>()), 0..200),
            split in 0usize..200,
        ) {
            let (sent, sent_too) = (Sent::default(), Sent::default());
            let mut ioapic = IoApic::new(&sent);
            let mut twin = IoApic::new(&sent_too);
            for (number, &(kind, place, value)) in steps.iter().enumerate() {
                if number == split {
                    twin.restore(&ioapic.save()).unwrap();
                    sent.0.take();
                    prop_assert_eq!(sent_too.0.take(), std::vec![]);
                }
                let both = if number < split { 1 } else { 2 };
                for ioapic in [&mut ioapic, &mut twin].into_iter().take(both) {
                    match kind {
                        0 => write(ioapic, place % 0x42, value & 0xFFFE_FFFF),
                        1 => ioapic.set_pin(usize::from(place % 25), Level::from(value & 1 != 0)),
                        2 => ioapic.end_of_interrupt(place),
                        _ => write(ioapic, place, value),
                    }
                }
                for (pin, redirection) in ioapic.redirections.iter().enumerate() {
                    let is_due = ioapic.pins & 1 << pin != 0
                        && redirection.is_level_triggered()
                        && !redirection.is_masked();
                    prop_assert!(!is_due || redirection.remote_irr());
                }
                if number >= split {
                    prop_assert_eq!(ioapic.save(), twin.save());
                    prop_assert_eq!(&sent.0, &sent_too.0);
                }
            }
            prop_assert_eq!(ioapic.redirections.len(), PINS);
        }
    }
}
