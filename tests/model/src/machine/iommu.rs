//! The machine's IOMMU, where it has one: which memory its devices reach. Intel VT-d, revision 3.3.
//!
//! Found by the DMAR table, pointed at tables by [`enable`], told by [`forget`] when they change. Invalidation goes by
//! registers, which are done when the write is; there is no queue to wait for.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::clock;
use super::memory::HostPa;
use super::mmio::{self, Width};

/// Where its registers are; 0 when there is none.
static BASE: AtomicU64 = AtomicU64::new(0);
/// One command at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Registers. VT-d, 10.4.
const CAPABILITY: u64 = 0x08;
const EXTENDED_CAPABILITY: u64 = 0x10;
const GLOBAL_COMMAND: u64 = 0x18;
const GLOBAL_STATUS: u64 = 0x1C;
const ROOT_TABLE: u64 = 0x20;
const CONTEXT_COMMAND: u64 = 0x28;
const FAULT_STATUS: u64 = 0x34;

/// Set root table pointer and translation enable, in command and status alike.
const ROOT_POINTER: u32 = 1 << 30;
const TRANSLATION: u32 = 1 << 31;
/// Invalidate the context cache, all of it.
const CONTEXT_GLOBAL: u64 = 1 << 63 | 1 << 61;
/// Invalidate the IOTLB, all of it. VT-d, 10.4.8.1.
const IOTLB_GLOBAL: u64 = 1 << 63 | 1 << 60;
/// Adjusted guest address width of 48 bits. VT-d, 10.4.2.
const FOUR_LEVELS: u64 = 1 << 10;
/// A fault is recorded, or more than could be.
const FAULT_PENDING: u32 = 0b11;
/// A fault record is in use.
const RECORDED: u64 = 1 << 63;

/// How long a command may take.
const PATIENCE_NS: u64 = 1_000_000_000;

/// Why devices cannot be kept apart from private memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IommuError {
    /// It has not the table levels asked for.
    #[error("the IOMMU has no four-level tables: start QEMU with -device intel-iommu,aw-bits=48")]
    Levels,
    /// It does not answer.
    #[error("the IOMMU does not do what it is told: status {0:#x}")]
    Deaf(u32),
}

/// What a device was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Bus, device and function.
    pub source: u16,
    /// The page it asked for.
    pub address: u64,
    /// Why. VT-d, 7.1.3.
    pub reason: u8,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [function, bus] = self.source.to_le_bytes();
        write!(
            f,
            "{bus:02x}:{:02x}.{} at {:#x}, reason {}",
            function >> 3,
            function & 7,
            self.address,
            self.reason
        )
    }
}

/// Remembers where the registers are.
pub(super) fn found(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

/// Whether the machine has one.
#[must_use]
pub fn is_there() -> bool {
    BASE.load(Ordering::Relaxed) != 0
}

/// Lets devices reach what the tables at `root` say, and nothing else.
///
/// # Errors
///
/// An [`IommuError`]; nothing is enabled then.
///
/// # Safety
///
/// 1. A root table is at `root`, and all it leads to are tables and memory that devices may have, for good.
pub unsafe fn enable(root: HostPa) -> Result<(), IommuError> {
    if read(CAPABILITY, Width::Quad) & FOUR_LEVELS == 0 {
        return Err(IommuError::Levels);
    }
    write(ROOT_TABLE, Width::Quad, root.as_u64());
    command(ROOT_POINTER, ROOT_POINTER)?;
    write(CONTEXT_COMMAND, Width::Quad, CONTEXT_GLOBAL);
    forget();
    command(TRANSLATION, TRANSLATION)
}

/// Makes it forget every translation: a table was changed.
pub fn forget() {
    if is_there() {
        let _turn = TURN.lock();
        let registers = (read(EXTENDED_CAPABILITY, Width::Quad) >> 8 & 0x3FF) * 16;
        write(registers + 8, Width::Quad, IOTLB_GLOBAL);
    }
}

/// Returns and forgets the first thing a device was refused since the last look, of which only one is kept.
#[must_use]
pub fn refused() -> Option<Refused> {
    let is_pending = is_there() && read_double(FAULT_STATUS) & FAULT_PENDING != 0;
    if !is_pending {
        return None;
    }
    let record = (read(CAPABILITY, Width::Quad) >> 24 & 0x3FF) * 16;
    let [low, high] = [record, record + 8].map(|register| read(register, Width::Quad));
    write(record + 8, Width::Quad, RECORDED);
    write(FAULT_STATUS, Width::Double, u64::from(FAULT_PENDING));
    let [a, b, _, _, reason, ..] = high.to_le_bytes();
    Some(Refused {
        source: u16::from_le_bytes([a, b]),
        address: low & !0xFFF,
        reason,
    })
}

fn command(bits: u32, expected: u32) -> Result<(), IommuError> {
    // The status has what is on; one-shot commands of it must not be repeated, and none but the root pointer stays set.
    let keep = read_double(GLOBAL_STATUS) & TRANSLATION;
    write(GLOBAL_COMMAND, Width::Double, u64::from(keep | bits));
    let deadline = clock::tsc().saturating_add(clock::ns_to_ticks(PATIENCE_NS));
    loop {
        let status = read_double(GLOBAL_STATUS);
        if status & expected == expected {
            return Ok(());
        }
        if clock::tsc() > deadline {
            return Err(IommuError::Deaf(status));
        }
    }
}

fn read_double(register: u64) -> u32 {
    let [a, b, c, d, ..] = read(register, Width::Double).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn read(register: u64, width: Width) -> u64 {
    let address = HostPa::new(BASE.load(Ordering::Relaxed) + register);
    // SAFETY: the IOMMU's registers, as the firmware says; reads have no side effect.
    unsafe { mmio::read(address, width) }
}

fn write(register: u64, width: Width, value: u64) {
    let address = HostPa::new(BASE.load(Ordering::Relaxed) + register);
    // SAFETY: as for reads; what is written above only narrows what devices reach, but for the root table, which `enable` vouches for.
    unsafe { mmio::write(address, width, value) };
}
