//! MSRs and control registers: what they keep and what they refuse (APM vol. 2, 3.1, 7.7, 7.8, appendix A).

use core::arch::asm;

use super::{Context, Outcome, equal, faults, needs, refuses, tests, within};
use crate::machine::memory::{NO_EXECUTE, PRESENT, SPARE, map, read8, write8};
use crate::machine::processor::{cpuid, rdmsr, rdtsc, wrmsr};
use crate::machine::trap::PAGE_FAULT;

const EFER: u32 = 0xC000_0080;
const EFER_SCE: u64 = 1;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const EFER_SVME: u64 = 1 << 12;
const PAT: u32 = 0x277;
const MTRR_CAP: u32 = 0xFE;
const MTRR_DEFAULT: u32 = 0x2FF;
const MTRR_BASE_7: u32 = 0x20E;
const MTRR_MASK_7: u32 = 0x20F;
const MTRR_FIXED_64K: u32 = 0x250;
const FS_BASE: u32 = 0xC000_0100;
const KERNEL_GS_BASE: u32 = 0xC000_0102;
const GS_BASE: u32 = 0xC000_0101;
const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
const CSTAR: u32 = 0xC000_0083;
const SFMASK: u32 = 0xC000_0084;
const TSC_AUX: u32 = 0xC000_0103;
const NON_CANONICAL: u64 = 1 << 62;

tests! {
    unknown_msr_refuses_reads, "RDMSR of an MSR nobody has is #GP(0).",
        known_qemu: "unknown MSRs read 0 and ignore writes";
    unknown_msr_refuses_writes, "WRMSR of an MSR nobody has is #GP(0).",
        known_qemu: "unknown MSRs read 0 and ignore writes";
    sev_status_refuses, "SEV_STATUS is #GP(0) for reads and writes: this is no SEV guest to itself.",
        known_qemu: "unknown MSRs read 0 and ignore writes";
    ghcb_msr_refuses, "The GHCB MSR is #GP(0).",
        known_qemu: "unknown MSRs read 0 and ignore writes";
    host_save_area_refuses, "VM_HSAVE_PA is #GP(0) where SVM is hidden.",
        known_qemu: "shows SVM";
    rdmsr_clears_the_upper_halves, "RDMSR clears bits 63:32 of RAX and RDX.";
    efer_says_long_mode, "EFER has LME and LMA.";
    efer_system_call_bit_toggles, "EFER.SCE can be set and cleared.";
    efer_reserved_bits_fault, "EFER refuses reserved bits.",
        known_qemu: "ignores reserved bits of EFER";
    efer_lme_cannot_change_under_paging, "Clearing EFER.LME with paging on is #GP(0).",
        known_qemu: "lets EFER.LME change under paging";
    efer_svme_is_refused, "Setting EFER.SVME is #GP(0) where SVM is hidden.",
        known_qemu: "shows SVM";
    nx_page_refuses_fetches, "With EFER.NXE a fetch from an NX page is #PF(11h).";
    nx_bit_is_reserved_without_nxe, "Without EFER.NXE the NX bit is reserved: #PF(9).",
        known_qemu: "leaves P clear in the error code of a reserved bit";
    pat_reads_back, "PAT reads back.";
    pat_refuses_illegal_types, "PAT refuses types 2 and 3.",
        known_qemu: "PAT takes any value";
    mtrr_capabilities_are_read_only, "MTRRcap tells eight ranges and refuses writes.",
        known_qemu: "MTRRcap ignores writes";
    mtrr_default_type_reads_back, "MTRRdefType reads back.";
    mtrr_default_type_refuses_illegal_types, "MTRRdefType refuses type 2 and reserved bits.",
        known_qemu: "MTRRs take any value";
    mtrr_variable_range_reads_back, "A variable range's base and mask read back.";
    mtrr_variable_range_refuses_illegal_types, "A variable range refuses type 7.",
        known_qemu: "MTRRs take any value";
    mtrr_fixed_range_reads_back, "A fixed range reads back.";
    mtrr_fixed_range_refuses_illegal_types, "A fixed range refuses type 2.",
        known_qemu: "MTRRs take any value";
    segment_bases_read_back, "FS, kernel GS base and their kind read back.";
    segment_bases_refuse_non_canonical_addresses, "FS base refuses a non-canonical address.",
        known_qemu: "does not look whether bases are canonical";
    swapgs_exchanges, "SWAPGS exchanges GS base and kernel GS base.";
    system_call_msrs_read_back, "STAR, LSTAR, CSTAR and SFMASK read back.";
    lstar_refuses_non_canonical_addresses, "LSTAR refuses a non-canonical address.",
        known_qemu: "does not look whether LSTAR is canonical";
    sysenter_msrs_read_back, "SYSENTER_CS, ESP and EIP read back.";
    rdtscp_tells_tsc_aux, "RDTSCP gives TSC_AUX in ECX.";
    tsc_goes_forward, "Of two reads of the TSC the second is larger, by RDTSC and RDMSR alike.",
        known_qemu: "RDMSR of the TSC reads 0";
    machine_check_banks_are_quiet, "MCG_CAP tells banks whose status reads 0.";
    patch_level_can_be_read, "The microcode's level can be read.";
}

fn unknown_msr_refuses_reads(_: &mut Context) -> Outcome {
    refuses("12345h", || rdmsr(0x1_2345))?;
    refuses("C0012345h", || rdmsr(0xC001_2345))
}

fn unknown_msr_refuses_writes(_: &mut Context) -> Outcome {
    refuses("12345h", || wrmsr(0x1_2345, 0))?;
    refuses("C0012345h", || wrmsr(0xC001_2345, 0))
}

fn absent(msr: u32) -> Outcome {
    refuses("RDMSR", || rdmsr(msr))?;
    refuses("WRMSR", || wrmsr(msr, 0))
}

fn sev_status_refuses(_: &mut Context) -> Outcome {
    absent(0xC001_0131)
}

fn ghcb_msr_refuses(_: &mut Context) -> Outcome {
    absent(0xC001_0130)
}

fn host_save_area_refuses(_: &mut Context) -> Outcome {
    absent(0xC001_0117)
}

fn rdmsr_clears_the_upper_halves(_: &mut Context) -> Outcome {
    let (low, high): (u64, u64);
    unsafe {
        asm!("rdmsr", in("ecx") PAT, inout("rax") u64::MAX => low, inout("rdx") u64::MAX => high)
    };
    equal("upper halves", (low | high) >> 32, 0_u64)
}

fn efer_says_long_mode(_: &mut Context) -> Outcome {
    equal(
        "LME and LMA",
        rdmsr(EFER) & (EFER_LME | EFER_LMA),
        EFER_LME | EFER_LMA,
    )
}

fn efer_system_call_bit_toggles(_: &mut Context) -> Outcome {
    let before = rdmsr(EFER);
    wrmsr(EFER, before | EFER_SCE);
    let set = rdmsr(EFER);
    wrmsr(EFER, before & !EFER_SCE);
    let clear = rdmsr(EFER);
    wrmsr(EFER, before);
    equal("EFER with SCE", set, before | EFER_SCE)?;
    equal("EFER without SCE", clear, before & !EFER_SCE)
}

/// Holds if the register refuses a value; puts back what it held if it does not.
fn refuses_value(what: &'static str, msr: u32, value: u64) -> Outcome {
    let before = rdmsr(msr);
    let outcome = refuses(what, || wrmsr(msr, value));
    wrmsr(msr, before);
    outcome
}

fn efer_reserved_bits_fault(_: &mut Context) -> Outcome {
    refuses_value("bit 63", EFER, rdmsr(EFER) | 1 << 63)?;
    refuses_value("bit 9", EFER, rdmsr(EFER) | 1 << 9)
}

fn efer_lme_cannot_change_under_paging(_: &mut Context) -> Outcome {
    refuses_value("LME clear", EFER, rdmsr(EFER) & !EFER_LME)
}

fn efer_svme_is_refused(_: &mut Context) -> Outcome {
    refuses_value("SVME", EFER, rdmsr(EFER) | EFER_SVME)
}

fn nx_page_refuses_fetches(_: &mut Context) -> Outcome {
    write8(SPARE[0].address(), 0xC3);
    let page = map(0, SPARE[0].address() | PRESENT | NO_EXECUTE);
    let routine: extern "C" fn() = unsafe { core::mem::transmute(page as usize) };
    let fault = faults("exception", PAGE_FAULT, 0x11, || routine())?;
    equal("CR2", fault.cr2, page)
}

fn nx_bit_is_reserved_without_nxe(_: &mut Context) -> Outcome {
    let page = map(0, SPARE[0].address() | PRESENT | NO_EXECUTE);
    let before = rdmsr(EFER);
    wrmsr(EFER, before & !EFER_NXE);
    let outcome = faults("exception", PAGE_FAULT, 9, || read8(page));
    wrmsr(EFER, before);
    outcome.map(|_| ())
}

/// Writes values and reads them back, and puts back what the register held.
fn keeps(what: &'static str, msr: u32, values: &[u64]) -> Outcome {
    let before = rdmsr(msr);
    let mut outcome = Ok(());
    for value in values {
        wrmsr(msr, *value);
        outcome = outcome.and_then(|()| equal(what, rdmsr(msr), *value));
    }
    wrmsr(msr, before);
    outcome
}

fn pat_reads_back(_: &mut Context) -> Outcome {
    keeps("PAT", PAT, &[0x0706_0504_0100_0106, 0x0007_0406_0007_0406])
}

fn pat_refuses_illegal_types(_: &mut Context) -> Outcome {
    refuses_value("type 2", PAT, 0x0007_0402_0007_0406)?;
    refuses_value("type 3 in the last", PAT, 0x0307_0406_0007_0406)
}

fn mtrr_capabilities_are_read_only(_: &mut Context) -> Outcome {
    within("ranges", rdmsr(MTRR_CAP) & 0xFF, 8, 10)?;
    let value = rdmsr(MTRR_CAP);
    refuses("WRMSR", || wrmsr(MTRR_CAP, value))
}

fn mtrr_default_type_reads_back(_: &mut Context) -> Outcome {
    keeps("MTRRdefType", MTRR_DEFAULT, &[0xC00, 0xC06, 0x806])
}

fn mtrr_default_type_refuses_illegal_types(_: &mut Context) -> Outcome {
    refuses_value("type 2", MTRR_DEFAULT, 0xC02)?;
    refuses_value("bit 12", MTRR_DEFAULT, 0x1C06)
}

fn mtrr_variable_range_reads_back(_: &mut Context) -> Outcome {
    keeps("base", MTRR_BASE_7, &[0xC000_0000, 0x1234_5006])?;
    keeps("mask", MTRR_MASK_7, &[0xF_C000_0000, 0])
}

fn mtrr_variable_range_refuses_illegal_types(_: &mut Context) -> Outcome {
    refuses_value("type 7", MTRR_BASE_7, 7)
}

fn mtrr_fixed_range_reads_back(_: &mut Context) -> Outcome {
    keeps(
        "fixed range",
        MTRR_FIXED_64K,
        &[0x0606_0606_0606_0606, 0x0001_0405_0600_0106],
    )
}

fn mtrr_fixed_range_refuses_illegal_types(_: &mut Context) -> Outcome {
    refuses_value("type 2", MTRR_FIXED_64K, 0x0606_0602_0606_0606)
}

fn segment_bases_read_back(_: &mut Context) -> Outcome {
    let values = [0x7FFF_1234_5678, 0xFFFF_8000_0000_0000];
    keeps("FS base", FS_BASE, &values)?;
    keeps("kernel GS base", KERNEL_GS_BASE, &values)
}

fn segment_bases_refuse_non_canonical_addresses(_: &mut Context) -> Outcome {
    refuses_value("FS base", FS_BASE, NON_CANONICAL)?;
    refuses_value("kernel GS base", KERNEL_GS_BASE, NON_CANONICAL)
}

fn swapgs_exchanges(_: &mut Context) -> Outcome {
    let own = rdmsr(GS_BASE);
    let kernel = rdmsr(KERNEL_GS_BASE);
    wrmsr(KERNEL_GS_BASE, 0x5678_9000);
    unsafe { asm!("swapgs") };
    let seen = (rdmsr(GS_BASE), rdmsr(KERNEL_GS_BASE));
    unsafe { asm!("swapgs") };
    let after = rdmsr(GS_BASE);
    wrmsr(KERNEL_GS_BASE, kernel);
    equal("GS base", seen.0, 0x5678_9000_u64)?;
    equal("kernel GS base", seen.1, own)?;
    equal("GS base after the second", after, own)
}

fn system_call_msrs_read_back(_: &mut Context) -> Outcome {
    keeps(
        "STAR",
        STAR,
        &[0x0023_0008_0000_0000, 0xFFFF_FFFF_FFFF_FFFF],
    )?;
    keeps("LSTAR", LSTAR, &[0xFFFF_FFFF_8100_0000, 0x1000])?;
    keeps("CSTAR", CSTAR, &[0xFFFF_FFFF_8100_1000])?;
    keeps("SFMASK", SFMASK, &[0x4_7700, 0])
}

fn lstar_refuses_non_canonical_addresses(_: &mut Context) -> Outcome {
    refuses_value("LSTAR", LSTAR, NON_CANONICAL)
}

fn sysenter_msrs_read_back(_: &mut Context) -> Outcome {
    keeps("SYSENTER_CS", 0x174, &[0x10, 0])?;
    keeps("SYSENTER_ESP", 0x175, &[0x1234_5678])?;
    keeps("SYSENTER_EIP", 0x176, &[0x9ABC_DEF0])
}

fn rdtscp_tells_tsc_aux(_: &mut Context) -> Outcome {
    needs(
        "no RDTSCP in CPUID",
        cpuid(0x8000_0001, 0).edx >> 27 & 1 != 0,
    )?;
    let before = rdmsr(TSC_AUX);
    wrmsr(TSC_AUX, 0x8765_4321);
    let aux: u64;
    unsafe { asm!("rdtscp", out("eax") _, out("edx") _, inout("rcx") u64::MAX => aux) };
    wrmsr(TSC_AUX, before);
    equal("ECX", aux, 0x8765_4321_u64)
}

fn tsc_goes_forward(_: &mut Context) -> Outcome {
    for _ in 0..100 {
        let first = rdtsc();
        let second = rdmsr(0x10);
        let third = rdtsc();
        equal("order", u64::from(first < second && second < third), 1_u64)?;
    }
    Ok(())
}

fn machine_check_banks_are_quiet(_: &mut Context) -> Outcome {
    let banks = rdmsr(0x179) & 0xFF;
    for bank in 0..banks as u32 {
        equal("status", rdmsr(0x401 + 4 * bank), 0_u64)?;
    }
    within("banks", banks, 0, 32)
}

fn patch_level_can_be_read(_: &mut Context) -> Outcome {
    rdmsr(0x8B);
    Ok(())
}
