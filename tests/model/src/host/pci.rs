//! The host's PCI bus as a guest reaches it: the configuration ports and the windows of the functions' memory.
//!
//! The address port is a latch of this host's own, so that its own looks at configuration space do not disturb a guest's.
//! [`Pci::window`] tells which accesses to memory space are a function's; nothing else of the machine can be named.

mod function;
#[cfg(test)]
mod tests;

pub use function::{Address, Bar, Function, Msix, Register, VirtioKind, VirtioRegion};

use super::ghcb::Width;
use alloc::vec::Vec;
use core::ops::Range;

/// The configuration space of the machine the host runs on: `address` as the address port takes it, without bit 31.
pub trait ConfigSpace {
    /// Reads `bytes` (1, 2 or 4) at `register`.
    fn read(&mut self, address: Address, register: u8, bytes: usize) -> u32;
    /// Writes them.
    fn write(&mut self, address: Address, register: u8, bytes: usize, value: u32);
}

/// The address port; the data port is the four bytes from [`DATA`] on.
const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
/// Enable, bus, device, function, register: what of the address port can be written.
const ENABLE: u32 = 1 << 31;
const WRITABLE: u32 = 0x80FF_FFFC;

/// Command register, and what decides where a function's windows are: all from there to the last base address.
const COMMAND: u8 = 0x04;
const LAST_BASE: u8 = 0x27;

/// The host's PCI bus 0.
pub struct Pci {
    latch: u32,
    functions: Vec<Function>,
    /// Where windows can be: memory space without RAM and chipset.
    space: [Range<u64>; 2],
}

/// What a configuration access names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigAccess {
    /// The function.
    pub address: Address,
    /// The register.
    pub register: u8,
    /// Bytes.
    pub bytes: usize,
}

/// A place in a function's window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Index among [`Pci::functions`].
    pub function: usize,
    /// The base address register.
    pub bar: u8,
    /// Bytes into the window.
    pub offset: u64,
}

impl Default for Pci {
    fn default() -> Self {
        Self::new([0..0, 0..0])
    }
}

impl Pci {
    /// A bus nobody has looked at; windows only count within `space`.
    #[must_use]
    pub const fn new(space: [Range<u64>; 2]) -> Self {
        Self {
            latch: 0,
            functions: Vec::new(),
            space,
        }
    }

    /// Finds the functions and the sizes of their windows. Before the guest runs.
    pub fn scan(&mut self, space: &mut impl ConfigSpace) {
        for number in 0..=u8::MAX {
            let address = Address::on_bus_0(number);
            if let Some(function) = Function::find(address, space) {
                self.functions.push(function);
            }
        }
    }

    /// The functions there are.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// What the guest's access to `port` names: `None` for one that is the latch's own or nobody's.
    #[must_use]
    pub fn access(&self, port: u16, width: Width) -> Option<ConfigAccess> {
        let lane = port.checked_sub(DATA)?;
        let bytes = width.bytes();
        let is_whole = usize::from(lane) + bytes <= 4;
        if self.latch & ENABLE == 0 || !is_whole {
            return None;
        }
        let [register, ..] = self.latch.to_le_bytes();
        let [lane, _] = lane.to_le_bytes();
        Some(ConfigAccess {
            address: Address::of_port(self.latch),
            register: register & 0xFC | lane,
            bytes,
        })
    }

    /// Reads the address port, which only double words do.
    #[must_use]
    pub fn read_latch(&self, port: u16, width: Width) -> u32 {
        match (port, width) {
            (ADDRESS, Width::Double) => self.latch,
            _ => width.mask(),
        }
    }

    /// Writes the address port, which only double words do.
    pub fn write_latch(&mut self, port: u16, width: Width, value: u32) {
        if (port, width) == (ADDRESS, Width::Double) {
            self.latch = value & WRITABLE;
        }
    }

    /// Looks again at a function whose registers were written.
    pub fn written(&mut self, access: ConfigAccess, space: &mut impl ConfigSpace) {
        if !(COMMAND..=LAST_BASE).contains(&access.register) {
            return;
        }
        let changed = |function: &&mut Function| function.address == access.address;
        if let Some(function) = self.functions.iter_mut().find(changed) {
            function.place(space);
        }
    }

    /// The window all of `[gpa, gpa + bytes)` lies in.
    #[must_use]
    pub fn window(&self, gpa: u64, bytes: u64) -> Option<Place> {
        let end = gpa.checked_add(bytes)?;
        let is_space = |range: &Range<u64>| range.start <= gpa && end <= range.end;
        if !self.space.iter().any(is_space) {
            return None;
        }
        (0..).zip(&self.functions).find_map(|(index, function)| {
            let (bar, offset) = function.decode(gpa, end)?;
            Some(Place {
                function: index,
                bar,
                offset,
            })
        })
    }

    /// What of a virtio function, or of its message table, lies at `place`.
    #[must_use]
    pub fn register(&self, place: Place) -> Register {
        match self.functions.get(place.function) {
            Some(function) => function.register(place.bar, place.offset),
            None => Register::Other,
        }
    }
}
