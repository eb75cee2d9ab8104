//! The interface's saved state.

use alloc::vec::Vec;

use super::localities::Localities;
use super::{State, TpmCrb, TpmPort};
use crate::RestoreError;
use crate::state::check_version;
use crate::tpm::command::MAX_BYTES;

/// The interface's state, version 1. There is none while a command is executed: its end is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmCrbState {
    /// Format version: 1.
    pub version: u32,
    /// The locality that has the TPM.
    pub active: Option<u8>,
    /// The localities that wait for it, a bit each.
    pub waiting: u8,
    /// The localities that lost it, a bit each.
    pub seized: u8,
    /// 0 idle, 1 ready, 2 reception, 4 completion.
    pub state: u8,
    /// Whether the driver has asked for a cancellation and not taken it back.
    pub is_cancel_set: bool,
    /// Whether the engine is gone for good.
    pub is_failed: bool,
    /// The buffer.
    pub buffer: Vec<u8>,
}

impl<P: TpmPort> TpmCrb<P> {
    /// Returns the state to save; `None` while a command is executed.
    #[must_use]
    pub fn save(&self) -> Option<TpmCrbState> {
        let Self {
            port: _,
            reach: _,
            localities,
            state,
            is_cancel_set,
            is_failed,
            buffer,
        } = self;
        let state = match state {
            State::Idle => 0,
            State::Ready => 1,
            State::Reception => 2,
            State::Execution(_) => return None,
            State::Completion => 4,
        };
        let (active, waiting, seized) = localities.save();
        Some(TpmCrbState {
            version: 1,
            active,
            waiting,
            seized,
            state,
            is_cancel_set: *is_cancel_set,
            is_failed: *is_failed,
            buffer: buffer.to_vec(),
        })
    }

    /// Takes a saved state. The engine is at no command then.
    pub fn restore(&mut self, saved: &TpmCrbState) -> Result<(), RestoreError> {
        check_version(saved.version, 1)?;
        let localities = Localities::restore((saved.active, saved.waiting, saved.seized))?;
        let state = match saved.state {
            0 => State::Idle,
            1 => State::Ready,
            2 => State::Reception,
            4 => State::Completion,
            _ => return Err(RestoreError::Impossible("TPM interface")),
        };
        if localities.active().is_none() && state != State::Idle {
            return Err(RestoreError::Impossible("TPM interface without a locality"));
        }
        let buffer: &[u8; MAX_BYTES] = saved
            .buffer
            .as_slice()
            .try_into()
            .map_err(|_| RestoreError::Impossible("length of the TPM's buffer"))?;
        *self.buffer = *buffer;
        (self.localities, self.state) = (localities, state);
        (self.is_cancel_set, self.is_failed) = (saved.is_cancel_set, saved.is_failed);
        Ok(())
    }
}
