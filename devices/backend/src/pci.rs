//! The host's bus 0: which virtio functions are on it, and where they have what (virtio 1.2, section 4.1.4).
//!
//! Configuration space is read once; a list of capabilities that runs in a circle ends after as many as fit.

use alloc::vec::Vec;

use crate::error::BackendError;
use crate::host::{Function, HostBus, HostFault};

/// Vendor of virtio functions.
const VENDOR: u16 = 0x1AF4;
/// Device ids of modern functions are this plus the device type.
const MODERN: u16 = 0x1040;
/// More capabilities than fit 192 bytes.
const MAX_CAPABILITIES: usize = 48;

const COMMAND: u8 = 0x04;
const HEADER_TYPE: u8 = 0x0C;
const FIRST_BAR: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const HAS_CAPABILITIES: u32 = 1 << 20;
const MULTIFUNCTION: u32 = 1 << 23;
/// Memory space and bus master.
const DECODE_AND_MASTER: u32 = 1 << 1 | 1 << 2;

const VENDOR_CAPABILITY: u8 = 0x09;
const MSIX_CAPABILITY: u8 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_FUNCTION_MASK: u32 = 1 << 30;

/// What a device is (virtio 1.2, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType(pub u16);

impl DeviceType {
    /// A network card.
    pub const NET: Self = Self(1);
    /// A disk.
    pub const BLOCK: Self = Self(2);
    /// A console.
    pub const CONSOLE: Self = Self(3);
}

/// One virtio function of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub function: Function,
    /// What it says it is.
    pub device_type: DeviceType,
}

/// Returns the modern virtio functions on bus 0, by rising number: the order they were given on the command line.
pub fn find(bus: &mut impl HostBus) -> Result<Vec<Found>, HostFault> {
    let mut found = Vec::new();
    for device in 0..32 {
        let first = Function {
            device,
            function: 0,
        };
        let functions = match bus.config_read(first, 0)? {
            u32::MAX => continue,
            _ if bus.config_read(first, HEADER_TYPE)? & MULTIFUNCTION != 0 => 8,
            _ => 1,
        };
        for function in 0..functions {
            let function = Function { device, function };
            let [vendor, id] = halves(bus.config_read(function, 0)?);
            if vendor == VENDOR && id > MODERN {
                found.push(Found {
                    function,
                    device_type: DeviceType(id - MODERN),
                });
            }
        }
    }
    Ok(found)
}

fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}

/// A range of a function's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Region {
    address: u64,
    len: u32,
}

impl Region {
    /// Returns the address of the `len` bytes at `offset`, if they are inside.
    pub(crate) fn at(self, offset: u32, len: usize) -> Result<u64, BackendError> {
        let outside = BackendError::Malformed("register");
        let len = u32::try_from(len).map_err(|_| outside)?;
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.address + u64::from(offset)),
            _ => Err(outside),
        }
    }
}

/// Where a function has its registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Regions {
    pub(crate) common: Region,
    pub(crate) notify: Region,
    pub(crate) notify_multiplier: u32,
    pub(crate) device: Region,
    /// The MSI-X table, and where its capability is.
    pub(crate) msix: Option<(Region, u8)>,
}

/// Reads where a function has its registers, and has it decode memory and reach memory. It must be what it is taken for.
pub(crate) fn open(
    bus: &mut impl HostBus,
    function: Function,
    device_type: DeviceType,
) -> Result<Regions, BackendError> {
    let [vendor, id] = halves(bus.config_read(function, 0)?);
    if vendor != VENDOR || id.checked_sub(MODERN) != Some(device_type.0) {
        return Err(BackendError::Malformed("identity"));
    }
    let bars = read_bars(bus, function)?;
    let mut regions = Regions::default();
    let status = bus.config_read(function, COMMAND)?;
    if status & HAS_CAPABILITIES == 0 {
        return Err(BackendError::Lacks("capabilities"));
    }
    let [mut offset, ..] = bus.config_read(function, CAPABILITIES)?.to_le_bytes();
    for _ in 0..MAX_CAPABILITIES {
        offset &= 0xFC;
        if offset < 0x40 {
            break;
        }
        let head = bus.config_read(function, offset)?;
        let [id, next, ..] = head.to_le_bytes();
        match id {
            VENDOR_CAPABILITY => read_vendor(bus, function, offset, head, &bars, &mut regions)?,
            MSIX_CAPABILITY => {
                let table = bus.config_read(function, offset.saturating_add(4))?;
                let entries = (head >> 16 & 0x7FF) + 1;
                let region = region(
                    &bars,
                    (table & 7).to_le_bytes()[0],
                    table & !7,
                    entries * 16,
                )?;
                regions.msix = Some((region, offset));
            }
            _ => {}
        }
        offset = next;
    }
    if regions.common.len == 0 || regions.notify.len == 0 {
        return Err(BackendError::Lacks("a modern interface"));
    }
    bus.config_write(function, COMMAND, status & 0xFFFF | DECODE_AND_MASTER)?;
    Ok(regions)
}

fn read_bars(bus: &mut impl HostBus, function: Function) -> Result<[u64; 6], HostFault> {
    let mut bars = [0; 6];
    let mut index = 0_usize;
    while index < 6 {
        let offset = FIRST_BAR + 4 * index.to_le_bytes()[0];
        let low = bus.config_read(function, offset)?;
        let mut address = u64::from(low & !0xF);
        let is_memory = low & 1 == 0;
        let is_wide = is_memory && low >> 1 & 3 == 2 && index < 5;
        if is_wide {
            address |= u64::from(bus.config_read(function, offset + 4)?) << 32;
        }
        if is_memory {
            bars[index] = address;
        }
        index += if is_wide { 2 } else { 1 };
    }
    Ok(bars)
}

/// A capability of virtio (virtio 1.2, section 4.1.4).
fn read_vendor(
    bus: &mut impl HostBus,
    function: Function,
    capability: u8,
    head: u32,
    bars: &[u64; 6],
    regions: &mut Regions,
) -> Result<(), BackendError> {
    const COMMON: u8 = 1;
    const NOTIFY: u8 = 2;
    const DEVICE: u8 = 4;
    let [_, _, _, kind] = head.to_le_bytes();
    if !matches!(kind, COMMON | NOTIFY | DEVICE) {
        return Ok(());
    }
    let mut word = |offset| bus.config_read(function, capability.saturating_add(offset) & 0xFC);
    let [bar, ..] = word(4)?.to_le_bytes();
    let region = region(bars, bar, word(8)?, word(12)?)?;
    let place = match kind {
        COMMON => &mut regions.common,
        NOTIFY => &mut regions.notify,
        _ => &mut regions.device,
    };
    // The first of a kind is the one the device prefers.
    if place.len != 0 {
        return Ok(());
    }
    *place = region;
    if kind == NOTIFY {
        regions.notify_multiplier = word(16)?;
    }
    Ok(())
}

fn region(bars: &[u64; 6], bar: u8, offset: u32, len: u32) -> Result<Region, BackendError> {
    let malformed = BackendError::Malformed("register block");
    let base = bars.get(usize::from(bar)).copied().unwrap_or(0);
    let address = base.checked_add(u64::from(offset)).ok_or(malformed)?;
    if base == 0 || address.checked_add(u64::from(len)).is_none() {
        return Err(malformed);
    }
    Ok(Region { address, len })
}

/// Switches MSI-X on, every entry as it is.
pub(crate) fn enable_msix(
    bus: &mut impl HostBus,
    function: Function,
    capability: u8,
) -> Result<(), HostFault> {
    let word = bus.config_read(function, capability)?;
    bus.config_write(
        function,
        capability,
        (word | MSIX_ENABLE) & !MSIX_FUNCTION_MASK,
    )
}
