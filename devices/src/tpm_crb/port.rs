//! The way from the interface to an engine.

use crate::tpm::command::{Locality, MAX_BYTES};

/// Where a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The engine is at it.
    Running,
    /// The response has so many bytes.
    Done(usize),
    /// The engine is gone; there will be no response.
    Failed,
}

/// The way to the engine. Nothing here waits for it.
pub trait TpmPort {
    /// Hands over a command. The one before is done.
    fn begin(&mut self, locality: Locality, command: &[u8]);
    /// Asks the engine to give up what it is at.
    fn cancel(&mut self);
    /// Looks for the response, which is written to the start of `response`. After [`Progress::Done`] it is gone.
    fn poll(&mut self, response: &mut [u8; MAX_BYTES]) -> Progress;
    /// Returns whether there was a dynamic launch, as far as known.
    fn is_established(&self) -> bool;
    /// Has that forgotten, if the engine allows it from there.
    fn reset_established(&mut self, locality: Locality);
}
