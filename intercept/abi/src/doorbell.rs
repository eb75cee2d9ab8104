//! The #HV doorbell page: how a host signals under restricted injection (GHCB 5.1 and 5.2).
//!
//! Shared with the host, hence atomics. A consumer swaps words out and believes nothing twice.

use bitfield_struct::bitfield;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32};
use zerocopy::{FromBytes, FromZeros, IntoBytes, KnownLayout};

/// Flags beside the vector (GHCB 5.1).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct DoorbellFlags {
    /// An NMI waits.
    pub nmi: bool,
    /// A machine check waits.
    pub machine_check: bool,
    #[bits(5)]
    __: u8,
    /// The host has signalled and does so only once more after this is cleared.
    pub no_further_signal: bool,
}

/// Status of a lower VMPL's block (GHCB 5.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct VmplStatus {
    /// The only vector pending, if not `multiple_vectors`.
    pub vector: u8,
    /// An NMI waits.
    pub nmi: bool,
    /// A machine check waits.
    pub machine_check: bool,
    /// The vector is level-triggered.
    pub level_sensitive: bool,
    #[bits(3)]
    __: u8,
    /// Look at the IRR.
    pub multiple_vectors: bool,
    #[bits(12)]
    __: u16,
    /// The host asks for an IPI.
    pub ipi_requested: bool,
    #[bits(3)]
    __: u8,
    /// Vector 31 is pending.
    pub vector_31: bool,
}

/// One lower VMPL's interrupts (GHCB 5.2).
#[repr(C)]
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
pub struct VmplInterrupts {
    /// [`VmplStatus`].
    pub status: AtomicU32,
    /// Requested vectors 32 to 255.
    pub irr: [AtomicU32; 7],
    /// Vectors in service.
    pub isr: [AtomicU32; 8],
}

/// The page. Keep it on a page boundary.
#[repr(C)]
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
pub struct Doorbell {
    /// Pending vector, or 0.
    pub vector: AtomicU8,
    /// [`DoorbellFlags`].
    pub flags: AtomicU8,
    /// Not zero: the host wants no EOI for the last vector.
    pub no_eoi_required: AtomicU8,
    /// Bit *n* − 1: the block of VMPL *n* has news.
    pub vmpl_events: AtomicU8,
    reserved: [u8; 0x3C],
    /// Blocks of VMPL1 to VMPL3.
    pub vmpl: [VmplInterrupts; 3],
    reserved_100: [u8; 0xF00],
}

impl Doorbell {
    /// Returns a page of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

const _: () = assert!(size_of::<VmplInterrupts>() == 0x40);
const _: () = assert!(
    size_of::<Doorbell>() == 4096
        && offset_of!(Doorbell, vector) == 0
        && offset_of!(Doorbell, flags) == 1
        && offset_of!(Doorbell, no_eoi_required) == 2
        && offset_of!(Doorbell, vmpl_events) == 3
        && offset_of!(Doorbell, vmpl) == 0x40
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_bits_are_where_the_specification_says() {
        assert_eq!(VmplStatus::new().with_nmi(true).into_bits(), 1 << 8);
        assert_eq!(
            VmplStatus::new().with_level_sensitive(true).into_bits(),
            1 << 10
        );
        assert_eq!(
            VmplStatus::new().with_multiple_vectors(true).into_bits(),
            1 << 14
        );
        assert_eq!(
            VmplStatus::new().with_ipi_requested(true).into_bits(),
            1 << 27
        );
        assert_eq!(VmplStatus::new().with_vector_31(true).into_bits(), 1 << 31);
        assert_eq!(
            DoorbellFlags::new()
                .with_no_further_signal(true)
                .into_bits(),
            0x80
        );
    }
}
