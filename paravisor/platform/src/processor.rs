//! Processor instructions as functions: what the compiler has no name for.
//!
//! Each wrapper is as safe as it can be made; those whose effect depends on what memory means to the rest of the program
//! stay `unsafe` and say so.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdrand64_step, _rdseed64_step, _rdtsc};

use stockade_abi::rmp::{PageSize, RmpError, RmpPermissions, VmsaPage, rmpadjust_attributes};

/// Whether PVALIDATE makes a page valid or takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validation {
    /// The page becomes usable as private memory.
    Valid,
    /// The page can no longer be used as private memory.
    Invalid,
}

/// Why an RMP instruction did not do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RmpFailure {
    /// The page already was in the state asked for: somebody validated it before us.
    #[error("the page was in that state before")]
    Unchanged,
    /// The instruction's own error.
    #[error("{0}")]
    Error(RmpError),
}

/// Executes PVALIDATE (APM vol. 3).
///
/// # Safety
/// 1. `address` is mapped with the C-bit as a page of at least `size`.
/// 2. No Rust object lives in the page: its content is lost.
pub(crate) unsafe fn pvalidate(
    address: u64,
    size: PageSize,
    validation: Validation,
) -> Result<(), RmpFailure> {
    let error: u64;
    let unchanged: u8;
    // SAFETY: 1. and 2. are the caller's promise; the instruction changes EAX and the flags only. The host may fail it at
    // will: every outcome is reported.
    unsafe {
        asm!(
            ".byte 0xf2, 0x0f, 0x01, 0xff",
            "setc {unchanged}",
            unchanged = out(reg_byte) unchanged,
            inout("rax") address => error,
            in("rcx") u64::from(size.0),
            in("rdx") u64::from(validation == Validation::Valid),
            options(nostack)
        );
    }
    rmp_outcome(error, unchanged != 0)
}

/// Executes RMPADJUST (APM vol. 3).
///
/// # Safety
/// 1. `address` is mapped with the C-bit as a page of at least `size`, and the page is validated.
/// 2. No Rust reference covers the page if `permissions` lets `vmpl` write it; nobody but [`crate::vmsa`] makes a VMSA.
pub(crate) unsafe fn rmpadjust(
    address: u64,
    size: PageSize,
    vmpl: u8,
    permissions: RmpPermissions,
    vmsa: VmsaPage,
) -> Result<(), RmpFailure> {
    let error: u64;
    // SAFETY: 1. and 2. are the caller's promise; the instruction changes EAX and the flags only.
    unsafe {
        asm!(
            ".byte 0xf3, 0x0f, 0x01, 0xfe",
            inout("rax") address => error,
            in("rcx") u64::from(size.0),
            in("rdx") rmpadjust_attributes(vmpl, permissions, vmsa),
            options(nostack)
        );
    }
    rmp_outcome(error, false)
}

fn rmp_outcome(error: u64, unchanged: bool) -> Result<(), RmpFailure> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the instructions answer in EAX"
    )]
    match RmpError(error as u32) {
        RmpError::SUCCESS if unchanged => Err(RmpFailure::Unchanged),
        RmpError::SUCCESS => Ok(()),
        error => Err(RmpFailure::Error(error)),
    }
}

/// Executes VMGEXIT: the host runs until it gives the processor back.
///
/// It changes no register and no memory but what the host can change anyway, so nothing Rust relies on.
pub(crate) fn vmgexit() {
    // SAFETY: as said above. The GHCB MSR names a request made by the caller; the adversary may answer anything, at any
    // time or never.
    unsafe { asm!(".byte 0xf3, 0x0f, 0x01, 0xd9", options(nostack)) }
}

/// Halts until something happens, whatever it is.
pub(crate) fn halt() {
    // SAFETY: HLT changes nothing; it is an automatic exit (APM vol. 2, table 15-35).
    unsafe { asm!("hlt", options(nomem, nostack)) }
}

/// Reads a model-specific register that is not intercepted.
///
/// # Safety
/// 1. The register exists on every SNP processor.
pub(crate) unsafe fn read_msr(register: u32) -> u64 {
    // SAFETY: 1. is the caller's promise.
    unsafe { x86::msr::rdmsr(register) }
}

/// Writes a model-specific register that is not intercepted.
///
/// # Safety
/// 1. The register exists on every SNP processor.
/// 2. The new value keeps what Rust relies on (mappings, segment bases in use).
pub(crate) unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: 1. and 2. are the caller's promise.
    unsafe { x86::msr::wrmsr(register, value) }
}

/// Forgets this processor's translations of the page at `address`.
pub(crate) fn flush_page(address: u64) {
    // SAFETY: INVLPG only costs time; an address without a translation is fine.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) }
}

/// Executes CPUID. At VMPL0 that is #VC, answered from the CPUID page.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = __cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Reads the time-stamp counter.
pub(crate) fn read_tsc() -> u64 {
    // SAFETY: RDTSC reads a counter; CR4.TSD is clear at CPL 0.
    unsafe { _rdtsc() }
}

/// Returns a number from RDRAND, or `None` if the processor has none ready.
pub(crate) fn rdrand() -> Option<u64> {
    let mut number = 0;
    // SAFETY: the caller checked CPUID for the instruction; it changes this number and the flags.
    let ready = unsafe { _rdrand64_step(&mut number) };
    (ready != 0).then_some(number)
}

/// Returns a number from RDSEED, or `None` if the processor has none ready.
pub(crate) fn rdseed() -> Option<u64> {
    let mut number = 0;
    // SAFETY: as for RDRAND.
    let ready = unsafe { _rdseed64_step(&mut number) };
    (ready != 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_page_is_a_failure_only_without_an_error() {
        assert_eq!(rmp_outcome(0, false), Ok(()));
        assert_eq!(rmp_outcome(0, true), Err(RmpFailure::Unchanged));
        assert_eq!(
            rmp_outcome(6, true),
            Err(RmpFailure::Error(RmpError::FAIL_SIZE_MISMATCH))
        );
    }
}
