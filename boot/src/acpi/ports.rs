//! The numbers the tables promise: registers and interrupts the devices must have.

/// PM1a event block: status word, enable word (ACPI 6.5, 4.8.3.1).
pub const PM1A_EVENT: u16 = 0x600;
/// PM1a control word (ACPI 6.5, 4.8.3.2).
pub const PM1A_CONTROL: u16 = 0x604;
/// The PM timer, 32 bits wide at 3.579545 MHz (ACPI 6.5, 4.8.3.3).
pub const PM_TIMER: u16 = 0x608;
/// General-purpose event block 0: eight status bytes, eight enable bytes (ACPI 6.5, 4.8.4.1).
pub const GPE0: u16 = 0x620;
/// Bytes of [`GPE0`].
pub const GPE0_BYTES: u8 = 16;
/// Bytes of the whole block that begins at [`PM1A_EVENT`].
pub const PM_BLOCK_BYTES: u8 = 0x80;
/// The sleep type of S5 in PM1a control.
pub const S5_SLEEP_TYPE: u8 = 0;
/// The reset register.
pub const RESET: u16 = 0xCF9;
/// What resets the machine when written to [`RESET`].
pub const RESET_VALUE: u8 = 0x06;
/// CMOS register of the century.
pub const CENTURY: u8 = 0x32;
/// The system control interrupt: level-triggered, active high.
pub const SCI: u8 = 9;
/// The first serial port.
pub const COM1: u16 = 0x3F8;
/// Its ISA interrupt.
pub const COM1_INTERRUPT: u8 = 4;
/// The firmware configuration device.
pub const FW_CFG: u16 = 0x510;
/// How many ports it has.
pub const FW_CFG_PORTS: u8 = 12;
/// The only IOAPIC's id.
pub const IOAPIC_ID: u8 = 0;

/// Returns the wire (0 to 7, for PIRQA to PIRQH) of a PCI function's interrupt pin (0 is INTA#): turned by the device number.
#[must_use]
pub const fn pci_wire(device: u8, pin: u8) -> u8 {
    device.wrapping_add(pin) & 7
}

/// Returns the IOAPIC pin of a PCI function's interrupt pin: its wire's, eight pins from 16 on.
#[must_use]
pub const fn pci_interrupt(device: u8, pin: u8) -> u8 {
    16 + pci_wire(device, pin)
}
