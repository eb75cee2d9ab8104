//! What the machine as a whole does with its TPM.

use stockade_bus::{Clock, Gpa};

use super::Machine;
use crate::tpm::{Place, StartTimes, Tpm, TpmError};

impl<C: Clock + Clone> Machine<C> {
    /// Powers the TPM on and tells it what was measured, if there is one.
    pub fn start_tpm(
        &self,
        serve: &mut dyn FnMut() -> bool,
    ) -> Option<Result<StartTimes, TpmError>> {
        let tpm = self.tpm.as_ref()?;
        Some(tpm.start(serve, &|| self.clock.now_ns()))
    }

    /// Returns whether the guest asked, by its firmware's memory, for its own to be cleared at the next reset; forgets it.
    pub fn take_clear_request(&self) -> bool {
        self.tpm.as_ref().is_some_and(Tpm::take_clear_request)
    }

    /// Returns whether `gpa` is where the TPM has its registers.
    pub(crate) fn is_tpm_register(&self, gpa: Gpa) -> bool {
        self.tpm.is_some() && matches!(Tpm::place(gpa), Some(Place::Crb(_)))
    }
}
