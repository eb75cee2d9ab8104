//! The seam behind which an engine can be replaced by another.

use stockade_devices::tpm::command::Locality;

/// Why an engine did not do as it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It has no power.
    #[error("the TPM is off")]
    Off,
    /// It gave up with a code of its own.
    #[error("the engine failed with code {0:#x} in {1}")]
    Failed(u32, &'static str),
    /// What it was to go on from is not what it saved.
    #[error("the saved state is not this engine's")]
    State,
}

/// Something that is a TPM 2.0. It keeps what must last by the records it was made with, and looks now and then, while a command takes
/// long, whether that was cancelled.
pub trait Engine {
    /// Powers on with what the records hold, and with `resumed` as everything else, if there is such. An engine whose records are empty
    /// becomes a new TPM.
    fn power_on(&mut self, resumed: Option<&[u8]>) -> Result<(), EngineError>;

    /// Powers off. What was not kept is lost.
    fn power_off(&mut self);

    /// Executes a command and returns the response.
    fn execute(&mut self, locality: Locality, command: &[u8]) -> Result<Vec<u8>, EngineError>;

    /// Begins to measure a dynamic launch (TPM 2.0 Library, part 1, 35.3).
    fn hash_start(&mut self) -> Result<(), EngineError>;

    /// Measures more of it.
    fn hash_data(&mut self, data: &[u8]) -> Result<(), EngineError>;

    /// Ends it.
    fn hash_end(&mut self) -> Result<(), EngineError>;

    /// Returns whether there was a dynamic launch since this was last reset.
    fn is_established(&mut self) -> Result<bool, EngineError>;

    /// Forgets it, if `locality` may ask for that.
    fn reset_established(&mut self, locality: Locality) -> Result<(), EngineError>;

    /// Returns everything that is lost with power, to be given to [`Engine::power_on`].
    fn save(&mut self) -> Result<Vec<u8>, EngineError>;
}
