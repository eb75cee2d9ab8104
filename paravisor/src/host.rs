//! What the run loop needs from below, as traits: the platform implements them on silicon and on the model, the tests by fakes.

use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::Vmsa;
use stockade_apic::Time;
use stockade_backend::HostBus;
use stockade_bus::Clock;

/// Why the host gave the processor back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// The guest may have run: its exit code says.
    Ran,
    /// It was not entered: the host has signalled something first.
    EventPending,
}

/// The guest's side of one vCPU: its save area and the way into it.
pub trait Processor {
    /// Returns the guest's registers.
    fn vmsa(&self) -> &Vmsa;
    /// Returns the guest's registers to be changed.
    fn vmsa_mut(&mut self) -> &mut Vmsa;
    /// Clears busy, runs the guest until it exits or the host comes back, and sets busy again.
    fn enter(&mut self) -> Result<Entered, StopReason>;
    /// Puts the registers into the state after RESET.
    fn reset(&mut self);
    /// Writes these bits to PRED_CMD, so that the guest's next branches are predicted afresh.
    fn prediction_barrier(&mut self, bits: u64);
}

/// What the host signalled through the doorbell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Our timer came due.
    pub timer: bool,
    /// The console has input.
    pub console: bool,
    /// Devices have something, a bit a vector.
    pub devices: u16,
    /// Signals nobody had asked for.
    pub dropped: u32,
}

/// The host as one vCPU sees it.
pub trait Host: HostBus {
    /// Takes what the doorbell holds and ends the interrupts in it.
    fn drain(&mut self) -> Result<Signals, StopReason>;
    /// Returns whether the doorbell is signalled.
    fn is_signalled(&self) -> bool;
    /// Sleeps until the doorbell is signalled.
    fn wait(&mut self) -> Result<(), StopReason>;
    /// Sets the one timer of this vCPU to a TSC value; an earlier setting is replaced.
    fn arm_timer(&mut self, tsc: u64) -> Result<(), StopReason>;
    /// Writes guest output.
    fn console_write(&mut self, bytes: &[u8]) -> Result<(), StopReason>;
    /// Brings another vCPU back from its guest, or wakes it.
    fn kick(&mut self, vcpu: usize) -> Result<(), StopReason>;
    /// Reads guest input that is there; returns how many bytes.
    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, StopReason>;
    /// Returns whether the host has pressed the power button since it was last asked; one without a button never has.
    fn take_button(&mut self) -> bool {
        false
    }
}

/// Time on both of its scales.
pub trait Timekeeper: Clock {
    /// Returns the moment.
    fn now(&self) -> Time;
    /// Returns the TSC.
    fn tsc(&self) -> u64;
    /// Returns the TSC value at a time in nanoseconds.
    fn tsc_at(&self, ns: u64) -> u64;
}
