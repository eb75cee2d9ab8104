//! The small tables: MCFG, WAET, WSMT, SPCR, HPET, TPM2.

use alloc::vec::Vec;
use core::ops::Range;

use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;
use acpi_tables::tpm2::StartMethod;

use super::ports;
use super::{Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Pointer, Target, bytes_of};
use crate::layout::{ECAM_BASE, HPET_BASE, TPM_CRB_BASE};

/// Offset of the TPM's control area from the start of its locality (TCG PC Client PTP 1.05, 6.5.3).
const TPM_CONTROL_AREA: u64 = 0x40;
/// "The RTC and the PM timer need no work-arounds" (Windows ACPI Emulated Devices Table).
const RTC_GOOD: u32 = 1 << 0;
const PM_TIMER_GOOD: u32 = 1 << 1;
/// Communication buffers are fixed, nested pointers are checked, resources are locked.
const WSMT_ALL: u32 = 0b111;
/// HPET block id: vendor 8086, legacy replacement, 64-bit counter, three comparators, revision 1 (HPET 1.0a, 2.3.4).
const HPET_BLOCK_ID: u32 = 0x8086_A201;
/// The least period in which the HPET does not lose interrupts, in ticks.
const HPET_MINIMUM_TICKS: u16 = 0x0100;

/// Returns where PCI Express configuration space lies (PCI Firmware 3.3, 4.1.2).
pub(super) fn mcfg(machine: &Machine) -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM_BASE, 0, 0, machine.last_bus);
    bytes_of(&mcfg)
}

/// Returns what spares a guest the work-arounds for real chips.
pub(super) fn waet() -> Vec<u8> {
    let mut waet = Sdt::new(*b"WAET", 40, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    waet.write_u32(36, RTC_GOOD | PM_TIMER_GOOD);
    waet.as_slice().to_vec()
}

/// Returns what protects against system management mode: there is none, so nothing in it can be misled (Windows SMM Security
/// Mitigations Table 1.0).
pub(super) fn wsmt() -> Vec<u8> {
    let mut wsmt = Sdt::new(*b"WSMT", 40, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    wsmt.write_u32(36, WSMT_ALL);
    wsmt.as_slice().to_vec()
}

/// Returns where a console is: COM1 at 115,200 baud (Serial Port Console Redirection Table 1.05, revision 2).
pub(super) fn spcr() -> Vec<u8> {
    let mut spcr = Sdt::new(*b"SPCR", 80, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    // A full 16550 at an I/O port, registers of 8 bits.
    spcr.write_bytes(40, &[1, 8, 0, 1]);
    spcr.write_bytes(44, &u64::from(ports::COM1).to_le_bytes());
    // The interrupt by number at the 8259s and at the IOAPIC.
    spcr.write_bytes(52, &[0b11, ports::COM1_INTERRUPT]);
    spcr.write_u32(54, ports::COM1_INTERRUPT.into());
    // 115,200 baud, no parity, one stop bit, no flow control, a VT100.
    spcr.write_bytes(58, &[7, 0, 1, 0, 0]);
    // No PCI device.
    spcr.write_bytes(64, &[0xFF; 4]);
    spcr.as_slice().to_vec()
}

/// Returns where the HPET is (HPET 1.0a, 3.2.4).
pub(super) fn hpet() -> Vec<u8> {
    let mut hpet = Sdt::new(*b"HPET", 36, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    hpet.append_slice(&HPET_BLOCK_ID.to_le_bytes());
    // Memory space, 64 bits wide.
    hpet.append_slice(&[0, 64, 0, 0]);
    hpet.append_slice(&HPET_BASE.to_le_bytes());
    hpet.append_slice(&[0]);
    hpet.append_slice(&HPET_MINIMUM_TICKS.to_le_bytes());
    hpet.append_slice(&[0]);
    hpet.as_slice().to_vec()
}

/// Where the address of the log is.
pub(super) const TPM2_POINTERS: &[Pointer] = &[Pointer {
    offset: 68,
    bytes: 8,
    target: Target::Log,
}];

/// Returns where the TPM's control area and the log are (TCG ACPI 1.3, 7.3).
pub(super) fn tpm2(log: &Range<u64>) -> Vec<u8> {
    let mut tpm2 = Sdt::new(*b"TPM2", 76, 4, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    tpm2.write_bytes(40, &(TPM_CRB_BASE + TPM_CONTROL_AREA).to_le_bytes());
    tpm2.write_u32(48, StartMethod::Crb as u32);
    tpm2.write_bytes(64, &(log.end - log.start).to_le_bytes()[..4]);
    tpm2.write_bytes(68, &log.start.to_le_bytes());
    tpm2.as_slice().to_vec()
}
