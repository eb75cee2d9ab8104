//! One function of bus 0: its windows, and where its virtio registers and its message table are.

use super::ConfigSpace;
use alloc::vec::Vec;

/// A function's place: bus, device, function, as bits 8 to 23 of the address port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address(u32);

impl Address {
    /// A function of bus 0 by device and function number (device × 8 + function).
    #[must_use]
    pub const fn on_bus_0(number: u8) -> Self {
        Self((number as u32) << 8)
    }

    /// The function the address port names.
    #[must_use]
    pub const fn of_port(value: u32) -> Self {
        Self(value & 0x00FF_FF00)
    }

    /// What the address port is to be given for `register`.
    #[must_use]
    pub const fn port_value(self, register: u8) -> u32 {
        1 << 31 | self.0 | (register & 0xFC) as u32
    }

    /// Bus 0's device number.
    #[must_use]
    pub const fn device(self) -> u8 {
        let [_, number, ..] = self.0.to_le_bytes();
        number >> 3
    }
}

/// A window of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Number of its (first) register, 0 to 5.
    pub index: u8,
    /// Bytes, a power of two.
    pub len: u64,
    /// Whether the address takes two registers.
    pub is_wide: bool,
    /// Where it is now.
    pub base: Option<u64>,
}

/// What kind of virtio function it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VirtioKind {
    /// A network card.
    Net,
    /// A disk.
    Block,
    /// Another.
    Other(u16),
}

/// Part of a window that a capability names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VirtioRegion {
    /// Register number.
    pub bar: u8,
    /// Bytes into it.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl VirtioRegion {
    fn within(&self, bar: u8, offset: u64) -> Option<u64> {
        let inside = offset.checked_sub(self.offset)?;
        (self.bar == bar && inside < self.len).then_some(inside)
    }
}

/// The table of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msix {
    /// Where it is.
    pub table: VirtioRegion,
}

/// What an offset in a window is; the number is relative to that part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// Virtio common configuration (Virtio 1.2, 4.1.4.3).
    Common(u64),
    /// A queue's notification.
    Notify(u64),
    /// The interrupt status.
    Isr(u64),
    /// The device's own configuration.
    Device(u64),
    /// The table of messages.
    MessageTable(u64),
    /// Something else.
    Other,
}

/// A function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where.
    pub address: Address,
    /// Its windows.
    pub bars: Vec<Bar>,
    /// What it is, if virtio.
    pub virtio: Option<VirtioKind>,
    /// Its table of messages.
    pub messages: Option<Msix>,
    /// Bytes between two queues' notification registers.
    pub notify_step: u32,
    /// Common, notify, ISR and device configuration.
    regions: [VirtioRegion; 4],
}

/// Registers of the header. PCI Local Bus 3.0, 6.1.
const VENDOR: u8 = 0x00;
const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const HEADER_TYPE: u8 = 0x0E;
const BASES: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
/// Status: there is a capability list.
const HAS_CAPABILITIES: u32 = 1 << 4;
/// Command: answers in memory space.
const MEMORY: u32 = 1 << 1;
/// Base address: I/O; 64 bits.
const IO: u32 = 1;
const WIDE: u32 = 1 << 2;
/// Capabilities.
const VENDOR_SPECIFIC: u32 = 0x09;
const MSIX: u32 = 0x11;
/// Virtio's vendor and its first modern device number. Virtio 1.2, 4.1.2.
const VIRTIO: u32 = 0x1AF4;
const MODERN: u16 = 0x1040;

impl Function {
    /// The function at `address`, if there is one.
    pub fn find(address: Address, space: &mut impl ConfigSpace) -> Option<Self> {
        let id = space.read(address, VENDOR, 4);
        if id & 0xFFFF == 0xFFFF {
            return None;
        }
        let [_, _, c, d] = id.to_le_bytes();
        let virtio = (id & 0xFFFF == VIRTIO)
            .then(|| u16::from_le_bytes([c, d]).checked_sub(MODERN))
            .flatten()
            .map(|number| match number {
                1 => VirtioKind::Net,
                2 => VirtioKind::Block,
                other => VirtioKind::Other(other),
            });
        let mut found = Self {
            address,
            bars: Vec::new(),
            virtio,
            messages: None,
            notify_step: 0,
            regions: [VirtioRegion::default(); 4],
        };
        if space.read(address, HEADER_TYPE, 1) & 0x7F == 0 {
            found.measure(space);
        }
        found.capabilities(space);
        found.place(space);
        Some(found)
    }

    /// The part of a window `[start, end)` of memory space lies in: register number and offset.
    #[must_use]
    pub fn decode(&self, start: u64, end: u64) -> Option<(u8, u64)> {
        self.bars.iter().find_map(|bar| {
            let offset = start.checked_sub(bar.base?)?;
            let last = end.checked_sub(bar.base?)?;
            (last <= bar.len).then_some((bar.index, offset))
        })
    }

    /// What lies there.
    #[must_use]
    pub fn register(&self, bar: u8, offset: u64) -> Register {
        let wrap: [fn(u64) -> Register; 4] = [
            Register::Common,
            Register::Notify,
            Register::Isr,
            Register::Device,
        ];
        let table = self
            .messages
            .and_then(|messages| messages.table.within(bar, offset));
        let mut regions = self.regions.iter().zip(wrap);
        let found = regions.find_map(|(region, wrap)| region.within(bar, offset).map(wrap));
        found
            .or(table.map(Register::MessageTable))
            .unwrap_or(Register::Other)
    }

    /// Where `register` lies in memory space now; the reverse of [`register`](Self::register) for virtio's parts.
    #[must_use]
    pub fn locate(&self, register: Register) -> Option<u64> {
        let (region, offset) = match register {
            Register::Common(offset) => (self.regions[0], offset),
            Register::Notify(offset) => (self.regions[1], offset),
            Register::Isr(offset) => (self.regions[2], offset),
            Register::Device(offset) => (self.regions[3], offset),
            Register::MessageTable(offset) => (self.messages?.table, offset),
            Register::Other => return None,
        };
        let bar = self.bars.iter().find(|bar| bar.index == region.bar)?;
        bar.base?.checked_add(region.offset)?.checked_add(offset)
    }

    /// Reads where the windows are now.
    pub fn place(&mut self, space: &mut impl ConfigSpace) {
        let answers = space.read(self.address, COMMAND, 2) & MEMORY != 0;
        for bar in &mut self.bars {
            let low = space.read(self.address, BASES + 4 * bar.index, 4);
            let high = if bar.is_wide {
                space.read(self.address, BASES + 4 * bar.index + 4, 4)
            } else {
                0
            };
            let base = u64::from(high) << 32 | u64::from(low & !0xF);
            bar.base = answers.then_some(base);
        }
    }

    /// Finds the windows and their sizes, by writing ones. PCI Local Bus 3.0, 6.2.5.1.
    fn measure(&mut self, space: &mut impl ConfigSpace) {
        let address = self.address;
        let command = space.read(address, COMMAND, 2);
        space.write(address, COMMAND, 2, command & !0b11);
        let mut index = 0;
        while index < 6 {
            let register = BASES + 4 * index;
            let low = space.read(address, register, 4);
            let is_wide = low & IO == 0 && low & WIDE != 0 && index < 5;
            let mut mask = u64::from(probe(space, address, register)) | !0 << 32;
            if is_wide {
                mask = mask & 0xFFFF_FFFF | u64::from(probe(space, address, register + 4)) << 32;
            }
            let len = (mask & !0xF).wrapping_neg();
            let is_there = mask & 0xFFFF_FFF0 != 0 || is_wide && mask >> 32 != 0;
            if low & IO == 0 && is_there && len.is_power_of_two() {
                self.bars.push(Bar {
                    index,
                    len,
                    is_wide,
                    base: None,
                });
            }
            index += 1 + u8::from(is_wide);
        }
        space.write(address, COMMAND, 2, command);
    }

    /// Walks the capability list, a chain that hardware made and that is followed no farther than it can be long.
    fn capabilities(&mut self, space: &mut impl ConfigSpace) {
        let address = self.address;
        if space.read(address, STATUS, 2) & HAS_CAPABILITIES == 0 {
            return;
        }
        let mut at = space.read(address, CAPABILITIES, 1);
        for _ in 0..48 {
            let Some(register) = u8::try_from(at & 0xFC).ok().filter(|at| *at >= 0x40) else {
                return;
            };
            let head = space.read(address, register, 4);
            match head & 0xFF {
                VENDOR_SPECIFIC if self.virtio.is_some() => self.region(register, head, space),
                MSIX => {
                    let entries = u64::from(head >> 16 & 0x7FF) + 1;
                    let place = space.read(address, register.saturating_add(4), 4);
                    let [bar, ..] = (place & 7).to_le_bytes();
                    self.messages = Some(Msix {
                        table: VirtioRegion {
                            bar,
                            offset: u64::from(place & !7),
                            len: entries * 16,
                        },
                    });
                }
                _ => {}
            }
            at = head >> 8 & 0xFF;
        }
    }

    /// A virtio capability. Virtio 1.2, 4.1.4.
    fn region(&mut self, register: u8, head: u32, space: &mut impl ConfigSpace) {
        let mut read = |offset: u8| space.read(self.address, register.saturating_add(offset), 4);
        let [bar, ..] = read(4).to_le_bytes();
        let region = VirtioRegion {
            bar,
            offset: u64::from(read(8)),
            len: u64::from(read(12)),
        };
        let kind = head >> 24;
        if kind == 2 {
            self.notify_step = read(16);
        }
        let slot = usize::try_from(kind)
            .ok()
            .and_then(|kind| self.regions.get_mut(kind.checked_sub(1)?));
        if let Some(slot) = slot.filter(|slot| slot.len == 0) {
            *slot = region;
        }
    }
}

fn probe(space: &mut impl ConfigSpace, address: Address, register: u8) -> u32 {
    let kept = space.read(address, register, 4);
    space.write(address, register, 4, u32::MAX);
    let mask = space.read(address, register, 4);
    space.write(address, register, 4, kept);
    mask
}
