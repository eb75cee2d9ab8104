//! Where the interrupt wires INTA# of the slots end (ICH9 data sheet 316972, 5.9 and 13.1.16).
//!
//! Eight wires PIRQA to PIRQH, each shared by every fourth device and its neighbours' other pins, go to pins 16 to 23 of the IOAPIC. The LPC
//! bridge has a register for each that connects it to an interrupt of the 8259s too, for guests without an IOAPIC.

use super::ConfigSpace;

/// Offset of PIRQA's register in the LPC bridge; B to D follow.
const ROUTES_LOW: u8 = 0x60;
/// Offset of PIRQE's register; F to H follow.
const ROUTES_HIGH: u8 = 0x68;
/// A register's bit that disconnects it from the 8259s.
const DISCONNECTED: u8 = 0x80;
/// Interrupts a register can name; the others are reserved.
const CONNECTABLE: u16 = 0b1101_1110_1111_1000;
/// The IOAPIC's pin of PIRQA.
const FIRST_PIN: u32 = 16;

/// The levels on the interrupt controllers' inputs, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// Pins of the IOAPIC.
    pub pins: u32,
    /// Interrupts of the 8259s.
    pub isa: u16,
}

/// Returns the number (0 to 7, for PIRQA to PIRQH) of the wire that a device's interrupt pin (0 is INTA#) is connected to.
#[must_use]
pub const fn wire(device: u8, pin: u8) -> u8 {
    device.wrapping_add(pin) & 7
}

/// Follows the wires: `asserted` has a bit for each device that holds its INTA#.
pub(super) fn route(lpc_bridge: &ConfigSpace, asserted: u32) -> Routed {
    let mut routed = Routed::default();
    if asserted == 0 {
        return routed;
    }
    for device in (0..32_u8).filter(|device| asserted >> device & 1 != 0) {
        let wire = wire(device, 0);
        routed.pins |= 1 << (FIRST_PIN + u32::from(wire));
        let connection = lpc_bridge.byte(register(wire));
        if connection & DISCONNECTED == 0 {
            routed.isa |= 1 << (connection & 0xF) & CONNECTABLE;
        }
    }
    routed
}

/// Returns the offset of a wire's register.
pub(super) const fn register(wire: u8) -> u8 {
    if wire < 4 {
        ROUTES_LOW + wire
    } else {
        ROUTES_HIGH + (wire & 3)
    }
}

#[cfg(test)]
mod tests {
    use stockade_bus::PciConfig;

    use super::{Routed, route};
    use crate::pci::q35;

    #[test]
    fn wires_end_at_pins_16_to_23() {
        let bridge = q35::lpc_bridge(q35::Condition::SetUp);
        for device in 0..32 {
            let routed = route(&bridge, 1 << device);
            assert_eq!(routed.pins, 1 << (16 + device % 8));
            assert_eq!(routed.isa, 0, "disconnected at power-on");
        }
    }

    #[test]
    fn connected_wire_reaches_its_isa_interrupt_and_reserved_ones_reach_none() {
        let mut bridge = q35::lpc_bridge(q35::Condition::SetUp);
        for connection in 0..16_u32 {
            bridge.config_write(0x68, connection << 8, 0xFF00);
            let reserved = [0, 1, 2, 8, 13].contains(&connection);
            let isa = if reserved { 0 } else { 1 << connection };
            assert_eq!(route(&bridge, 1 << 5).isa, isa, "{connection}");
        }
    }

    #[test]
    fn devices_on_one_wire_are_ored() {
        let bridge = q35::lpc_bridge(q35::Condition::SetUp);
        let routed = Routed {
            pins: 0b1_0010 << 16,
            isa: 0,
        };
        assert_eq!(route(&bridge, 1 << 1 | 1 << 9 | 1 << 4), routed);
    }
}
