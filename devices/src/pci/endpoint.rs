//! An endpoint's configuration space: type 0 header, base address registers, capabilities, MSI-X and INTA# (PCI Local Bus 3.0,
//! chapter 6).
//!
//! [`Endpoint`] is what every function of ours has in common; what is behind its registers is the function's own affair.

use bitfield_struct::bitfield;
use stockade_bus::{Level, PciConfig};

use super::ConfigSpace;
use super::bars::{BARS, Bar, BarKind, BarRange, Bars};
use super::msix::{self, Control, Gate, MsiMessage, Msix, MsixState, Vector};
use crate::RestoreError;
use crate::state::check_version;

const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const CACHE_LINE: u8 = 0x0C;
const SUBSYSTEM: u8 = 0x2C;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_LINE: u8 = 0x3C;
const INTERRUPT_PIN: u8 = 0x3D;
/// The first byte behind the header.
const HEADER_END: u8 = 0x40;
const INTA: u8 = 1;

/// Advanced Features capability (PCI-SIG ECN "Advanced Capabilities for Conventional PCI").
const ADVANCED_FEATURES: u8 = 0x13;
/// Its length, and that it has TP and FLR.
const ADVANCED_FEATURES_BODY: [u8; 4] = [6, 0b11, 0, 0];
/// Offset of its control byte, whose lowest bit resets the function.
const AF_CONTROL: u8 = 4;

/// Command register (6.2.2).
#[bitfield(u16)]
struct Command {
    io: bool,
    memory: bool,
    bus_master: bool,
    special_cycles: bool,
    write_and_invalidate: bool,
    vga_snoop: bool,
    parity: bool,
    stepping: bool,
    system_error: bool,
    fast_back_to_back: bool,
    interrupt_disable: bool,
    #[bits(5)]
    reserved: u8,
}

/// Status register (6.2.3).
#[bitfield(u16)]
struct Status {
    #[bits(3)]
    reserved: u8,
    interrupt: bool,
    has_capabilities: bool,
    #[bits(11)]
    rest: u16,
}

/// Who a function says it is (6.2.1, 6.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Programming interface, subclass, base class.
    pub class: [u8; 3],
    /// Revision id.
    pub revision: u8,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// What a write to configuration space asks of the function as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing.
    Nothing,
    /// To reset itself.
    Reset,
}

#[derive(Clone, Debug)]
struct MsixPlace {
    bar: Bar,
    /// Offset of Message Control.
    control: u8,
    table: Msix,
}

/// The configuration space of a function.
#[derive(Clone, Debug)]
pub struct Endpoint {
    bars: Bars,
    function_reset: Option<u8>,
    /// Where the next capability's offset belongs, and where it can lie.
    last_link: u8,
    free: u8,

    space: ConfigSpace,
    msix: Option<MsixPlace>,
    interrupt: Level,
}

impl Endpoint {
    /// Returns an endpoint without memory and capabilities.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let Identity {
            vendor,
            device,
            class,
            revision,
            subsystem_vendor,
            subsystem,
        } = identity;
        let mut space = ConfigSpace::new(vendor, device, class, revision);
        space.set(SUBSYSTEM, &subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM + 2, &subsystem.to_le_bytes());
        space.set(INTERRUPT_PIN, &[INTA]);
        let command = Command::new()
            .with_memory(true)
            .with_bus_master(true)
            .with_parity(true)
            .with_system_error(true)
            .with_interrupt_disable(true);
        space.set_writable(COMMAND, &command.into_bits().to_le_bytes());
        // Cache line size and latency timer: kept for whoever asks, without effect.
        space.set_writable(CACHE_LINE, &[0xFF, 0xFF]);
        space.set_writable(INTERRUPT_LINE, &[0xFF]);
        Self {
            bars: Bars::default(),
            function_reset: None,
            last_link: CAPABILITIES,
            free: HEADER_END,
            space,
            msix: None,
            interrupt: Level::Low,
        }
    }

    /// Gives it memory.
    ///
    /// # Panics
    ///
    /// If the size is no power of two of at least a page, or the register is in use: a mistake of the device's author.
    #[must_use]
    pub fn with_bar(mut self, bar: Bar, kind: BarKind, size: u64) -> Self {
        self.bars.add(&mut self.space, bar, kind, size);
        self
    }

    /// Appends a capability (6.7) and returns its offset. `body` is what follows id and link, `writable` what software may change.
    ///
    /// # Panics
    ///
    /// If the 256 bytes do not hold it: a mistake of the device's author.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.free;
        let len = 2 + u8::try_from(body.len()).unwrap_or(u8::MAX);
        let end = at.checked_add(len).map(|end| end.next_multiple_of(4));
        self.free = end.expect("capabilities fit into configuration space");
        self.space.set(at, &[id, 0]);
        self.space.set(at + 2, body);
        self.space.set_writable(at + 2, writable);
        self.space.set(self.last_link, &[at]);
        self.last_link = at + 1;
        let status = Status::new().with_has_capabilities(true);
        self.space.set(STATUS, &status.into_bits().to_le_bytes());
        at
    }

    /// Gives it MSI-X with `vectors` (1 to [`MAX_VECTORS`](super::MAX_VECTORS)) and a page of memory of its own behind `bar`.
    #[must_use]
    pub fn with_msix(mut self, bar: Bar, vectors: u16) -> Self {
        let table = Msix::new_clamped(vectors);
        let control = table.control().into_bits().to_le_bytes();
        let place = u32::from(bar.number());
        let mut body = [0; 10];
        body[..2].copy_from_slice(&control);
        body[2..6].copy_from_slice(&place.to_le_bytes());
        body[6..].copy_from_slice(&(msix::PENDING_OFFSET | place).to_le_bytes());
        let writable = Control::new().with_function_mask(true).with_enable(true);
        let at = self.add_capability(msix::CAPABILITY, &body, &writable.into_bits().to_le_bytes());
        self.msix = Some(MsixPlace {
            bar,
            control: at + 2,
            table,
        });
        self.with_bar(bar, BarKind::Memory32, msix::BAR_SIZE)
    }

    /// Lets software reset the function alone.
    #[must_use]
    pub fn with_function_reset(mut self) -> Self {
        let at = self.add_capability(ADVANCED_FEATURES, &ADVANCED_FEATURES_BODY, &[]);
        self.function_reset = Some(at + AF_CONTROL);
        self
    }

    /// Reads the aligned double word at `offset`.
    #[must_use]
    pub fn read(&self, offset: u16) -> u32 {
        let Ok(offset) = u8::try_from(offset & !3) else {
            return 0;
        };
        let word = self.space.dword(offset);
        if offset == COMMAND && self.interrupt == Level::High {
            return word | u32::from(Status::new().with_interrupt(true).into_bits()) << 16;
        }
        word
    }

    /// Writes the bytes of the double word at `offset` whose bits are set in `mask`.
    pub fn write(&mut self, offset: u16, value: u32, mask: u32) -> Written {
        self.space.config_write(offset, value, mask);
        match self.function_reset {
            Some(control) if offset & !3 == u16::from(control & !3) => {
                let bit = 1_u32 << (8 * u32::from(control & 3));
                if value & mask & bit != 0 {
                    return Written::Reset;
                }
                Written::Nothing
            }
            _ => Written::Nothing,
        }
    }

    /// Returns the byte at `offset`, which needs no more than its register.
    #[must_use]
    pub fn byte(&self, offset: u8) -> u8 {
        self.space.byte(offset)
    }

    /// Returns the aligned double word at `offset` as [`Endpoint::read`] does.
    #[must_use]
    pub fn dword(&self, offset: u8) -> u32 {
        self.space.dword(offset)
    }

    /// Returns the addresses it answers: none while COMMAND keeps it silent.
    #[must_use]
    pub fn decoded(&self) -> [Option<BarRange>; BARS] {
        if self.command().memory() {
            self.bars.ranges(&self.space)
        } else {
            [None; BARS]
        }
    }

    /// Returns whether it may write to memory and read from it, messages included.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.command().bus_master()
    }

    /// Drives the interrupt the function has; it reaches INTA# unless software disabled that.
    pub fn set_interrupt(&mut self, level: Level) {
        self.interrupt = level;
    }

    /// Returns the level of INTA#.
    #[must_use]
    pub fn interrupt(&self) -> Level {
        let is_kept_back = self.command().interrupt_disable() || self.is_msix_enabled();
        Level::from(self.interrupt == Level::High && !is_kept_back)
    }

    /// Returns whether interrupts are messages.
    #[must_use]
    pub fn is_msix_enabled(&self) -> bool {
        self.gate() != Gate::Disabled
    }

    /// Signals a vector. Its message leaves with [`Endpoint::take_messages`], at once or when nothing holds it back any longer.
    pub fn signal(&mut self, vector: Vector) {
        if let Some(msix) = &mut self.msix {
            msix.table.signal(vector);
        }
    }

    /// Sends the messages that are due.
    pub fn take_messages(&mut self, send: &mut dyn FnMut(MsiMessage)) {
        let gate = self.gate();
        if let Some(msix) = &mut self.msix {
            msix.table.take(gate, send);
        }
    }

    /// Reads from the MSI-X page; `false` if that is not behind `bar`.
    pub fn msix_read(&mut self, bar: Bar, offset: u64, data: &mut [u8]) -> bool {
        let Some(msix) = self.msix.as_mut().filter(|msix| msix.bar == bar) else {
            return false;
        };
        msix.table.read(offset, data);
        true
    }

    /// Writes to the MSI-X page; `false` if that is not behind `bar`.
    pub fn msix_write(&mut self, bar: Bar, offset: u64, data: &[u8]) -> bool {
        let Some(msix) = self.msix.as_mut().filter(|msix| msix.bar == bar) else {
            return false;
        };
        msix.table.write(offset, data);
        true
    }

    /// Puts the registers back to power-on.
    pub fn reset(&mut self) {
        self.space.restore(&[0; 256]);
        self.interrupt = Level::Low;
        if let Some(msix) = &mut self.msix {
            msix.table.reset();
        }
    }

    fn command(&self) -> Command {
        Command::from_bits(self.space.word(COMMAND))
    }

    fn gate(&self) -> Gate {
        let Some(msix) = &self.msix else {
            return Gate::Disabled;
        };
        let control = Control::from_bits(self.space.word(msix.control));
        if !control.enable() {
            Gate::Disabled
        } else if control.function_mask() || !self.is_bus_master() {
            Gate::Held
        } else {
            Gate::Open
        }
    }
}

/// An endpoint's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Format version: 1.
    pub version: u32,
    /// The registers.
    pub registers: [u8; 256],
    /// The MSI-X table, if it has one.
    pub msix: Option<MsixState>,
}

impl Endpoint {
    /// Returns the state to save. The interrupt's level is the function's to know.
    #[must_use]
    pub fn save(&self) -> EndpointState {
        let Self {
            bars: _,
            function_reset: _,
            last_link: _,
            free: _,
            space,
            msix,
            interrupt: _,
        } = self;
        EndpointState {
            version: 1,
            registers: *space.bytes(),
            msix: msix.as_ref().map(|msix| msix.table.save()),
        }
    }

    /// Takes a saved state. Registers that cannot be written keep their values; the interrupt is low.
    pub fn restore(&mut self, state: &EndpointState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        self.reset();
        self.space.restore(&state.registers);
        match (&mut self.msix, &state.msix) {
            (Some(msix), Some(table)) => msix.table.restore(table),
            (None, None) => Ok(()),
            _ => Err(RestoreError::Impossible("MSI-X")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
