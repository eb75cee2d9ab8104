//! What modules are given of the world outside: time, random numbers, CPUID, reports, the log. Never the guest, never the host.

use alloc::vec::Vec;

/// The processor gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the processor gives no random numbers")]
pub struct NoEntropy;

/// Why there is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReport {
    /// The host has no time to pass the request on: it may be asked again.
    #[error("the host is too busy to ask for a report")]
    Busy,
    /// There is none.
    #[error("the secure processor gives no report")]
    Refused,
}

/// The world as modules see it.
pub trait Outside {
    /// Returns nanoseconds since the paravisor started.
    fn monotonic_ns(&self) -> u64;
    /// Returns nanoseconds since 1970, as far as the host's word is good.
    fn realtime_ns(&self) -> u64;
    /// Fills the buffer with random bytes.
    fn random(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy>;
    /// Returns EAX, EBX, ECX and EDX of a leaf of CPUID, from the page the secure processor has checked.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Returns the secure processor's attestation report of the paravisor with this bound to it.
    fn report(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, NoReport>;
    /// Writes a line of a module to the log.
    fn log(&mut self, module: &str, line: &str);
}
