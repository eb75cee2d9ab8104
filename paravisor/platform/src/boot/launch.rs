//! What the launch left in memory: CPUID page, secrets, manifest, parameters. Each is copied, then checked.

use alloc::boxed::Box;
use core::ptr;

use stockade_abi::cpuid_page::CpuidPage;
use stockade_abi::secrets::{SECRETS_MIN_VERSION, SecretsPage, VMPCK_SIZE};
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::SevFeatures;
use stockade_boot::layout::paravisor;
use stockade_boot::manifest::Manifest;
use stockade_boot::parameters::{ParameterError, Parameters};
use zeroize::{Zeroize, Zeroizing};

use crate::cpuid::{self, CpuidTable};
use crate::processor;
use crate::stop::refuse;
use crate::time;

/// Nominal frequency of a Secure TSC in MHz, bits 17:0 (APM vol. 2, 15.36.18).
const GUEST_TSC_FREQ_MSR: u32 = 0xC001_0134;
const FREQUENCY_MHZ: u64 = 0x3_FFFF;

/// Returns a pointer to one of the pages the launch fills.
fn page<T>(address: u64) -> *mut T {
    const { assert!(size_of::<T>() == 4096) };
    let address = usize::try_from(address).expect("addresses are 64 bits");
    ptr::with_exposed_provenance_mut(address)
}

/// Takes the CPUID page over.
pub(super) fn cpuid_table() -> &'static CpuidTable {
    let page: *const CpuidPage = page(paravisor::CPUID_PAGE);
    // SAFETY: the launch filled and mapped the page; it is private, and nobody writes it any more.
    let page = unsafe { &*page };
    match CpuidTable::parse(page) {
        Ok(table) => cpuid::install(table),
        Err(error) => refuse(StopReason::CPUID_PAGE_INVALID, &error),
    }
}

/// Takes VMPL0's key out of the secrets page; none is left there, so no later mistake can leak one.
pub(super) fn take_vmpck() -> Zeroizing<[u8; VMPCK_SIZE]> {
    // SAFETY: the PSP filled the page, it is mapped writable, and this is the only reference to it.
    let secrets: &mut SecretsPage = unsafe { &mut *page(paravisor::SECRETS_PAGE) };
    if secrets.version < SECRETS_MIN_VERSION {
        let why = format_args!("the secrets page has version {}", secrets.version);
        refuse(StopReason::SECRETS_INVALID, &why);
    }
    let key = Zeroizing::new(secrets.vmpck[0]);
    secrets.vmpck.zeroize();
    key
}

fn tsc_factor() -> u32 {
    let secrets: *const SecretsPage = page(paravisor::SECRETS_PAGE);
    // SAFETY: the page is mapped, and no other reference to it is held.
    let secrets = unsafe { &*secrets };
    secrets.tsc_factor
}

/// Copies the manifest and checks it.
pub(super) fn manifest() -> Manifest {
    let page = copy(paravisor::MANIFEST_PAGE);
    Manifest::parse(page.as_slice())
        .unwrap_or_else(|error| refuse(StopReason::MANIFEST_INVALID, &error))
}

/// Copies the host's parameters and checks them.
pub(super) fn parameters(max_vcpus: u32) -> Parameters {
    let page = copy(paravisor::PARAMETERS_PAGE);
    Parameters::parse(page.as_slice(), max_vcpus).unwrap_or_else(|error| {
        let reason = match error {
            ParameterError::Vcpus { .. } => StopReason::VCPUS_INVALID,
            _ => StopReason::MEMORY_MAP_INVALID,
        };
        refuse(reason, &error)
    })
}

fn copy(address: u64) -> Box<[u8; 4096]> {
    let page: *const [u8; 4096] = page(address);
    // SAFETY: the launch filled and mapped the page; it is private, and nobody writes it.
    Box::new(unsafe { page.read() })
}

/// Returns the frequency of the time-stamp counter from what hardware or the PSP vouches for.
pub(super) fn tsc_hz(features: SevFeatures, cpuid: &CpuidTable) -> Option<u64> {
    if !features.contains(SevFeatures::SECURE_TSC) {
        return time::tsc_hz_from_cpuid(cpuid);
    }
    // SAFETY: 1. the register exists where the feature is on.
    let nominal = unsafe { processor::read_msr(GUEST_TSC_FREQ_MSR) } & FREQUENCY_MHZ;
    time::secure_tsc_hz(nominal, tsc_factor())
}
