//! The FADT: fixed hardware (ACPI 6.5, 5.2.9).

use alloc::vec::Vec;

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{Devices, Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Pointer, bytes_of, ports};

/// `IAPC_BOOT_ARCH` (ACPI 6.5, table 5.10): there are devices on the ISA bus.
const LEGACY_DEVICES: u16 = 1 << 0;
/// There is a keyboard controller.
const HAS_8042: u16 = 1 << 1;
/// Do not look for a VGA adapter.
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// Do not power-manage PCI Express links.
const ASPM_NOT_SUPPORTED: u16 = 1 << 4;
/// C2 and C3 latencies beyond these mean: no such state.
const NO_C2: u16 = 0xFFF;
const NO_C3: u16 = 0xFFF;

/// Where the addresses of FACS and DSDT are, the latter twice.
pub(super) const POINTERS: &[Pointer] = &[
    Pointer::to_table(36, 4),
    Pointer::to_table(40, 4),
    Pointer::to_table(140, 8),
];

/// Returns the table.
pub(super) fn fadt(machine: &Machine, dsdt: u64, facs: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::Unspecified)
        .gpe_info(ports::GPE0.into(), 0, ports::GPE0_BYTES, 0, 0);
    for flag in [
        Flags::Wbinvd,
        Flags::ProcC1,
        Flags::SlpButton,
        Flags::FixRtc,
        Flags::TmrValExt,
        Flags::ResetRegSup,
    ] {
        fadt = fadt.flag(flag);
    }
    // The tables lie below 4 GiB. For the DSDT both fields are filled, as readers disagree which one counts; two fields for
    // the FACS would be taken as two of them.
    fadt.dsdt = low(dsdt).into();
    fadt.firmware_ctrl = low(facs).into();
    fadt.sci_int = u16::from(ports::SCI).into();
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = ports::CENTURY;
    fadt.iapc_boot_arch = boot_architecture(machine).into();
    fadt.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        ports::RESET.into(),
    );
    fadt.reset_value = ports::RESET_VALUE;
    set_blocks(&mut fadt);
    bytes_of(&fadt.finalize())
}

fn set_blocks(fadt: &mut FADTBuilder) {
    let block = |port: u16, bits: u8, access| {
        GAS::new(AddressSpace::SystemIo, bits, 0, access, port.into())
    };
    fadt.pm1a_evt_blk = u32::from(ports::PM1A_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = block(ports::PM1A_EVENT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(ports::PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = block(ports::PM1A_CONTROL, 16, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(ports::PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = block(ports::PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.x_gpe0_blk = block(ports::GPE0, 8 * ports::GPE0_BYTES, AccessSize::ByteAccess);
}

fn boot_architecture(machine: &Machine) -> u16 {
    let keyboard = if machine.devices.contains(Devices::I8042) {
        HAS_8042
    } else {
        0
    };
    LEGACY_DEVICES | keyboard | VGA_NOT_PRESENT | ASPM_NOT_SUPPORTED
}

/// The tables lie in low RAM, which ends below 4 GiB; 0 would mean "see the 64-bit field".
fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(0)
}
