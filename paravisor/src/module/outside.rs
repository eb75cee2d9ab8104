//! What modules are given of the world outside: time, random numbers, CPUID, the log. Never the guest, never the host.

/// The processor gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the processor gives no random numbers")]
pub struct NoEntropy;

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
    /// Writes a line of a module to the log.
    fn log(&mut self, module: &str, line: &str);
}
