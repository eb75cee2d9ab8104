//! What a machine does to its TPM: gives it power, has it made when there is none, and saves it.

use stockade_devices::tpm::command::{self, CommandCode, Locality, ResponseCode};
use stockade_devices::tpm::message::{MAKE_RSA_ENDORSEMENT_KEY, RESET_ESTABLISHED, RESUME, SAVE};

use crate::attestation::{self, Attester};
use crate::blob::Blob;
use crate::endorsement::{Key, allocate_banks, run};
use crate::records::{RecordError, Records};
use crate::{Engine, EngineError};

/// What the TPM has been given, a bit each.
const MADE: &str = "made";
const MADE_BANKS: u8 = 1 << 0;
const MADE_ECC_KEY: u8 = 1 << 1;
const MADE_RSA_KEY: u8 = 1 << 2;
/// Indexes and a key for attestation, and the names of all keys so far.
const MADE_ATTESTATION: u8 = 1 << 3;

/// Why a TPM did not do as its machine asked.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The engine did not.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What must last could not be read or written.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// There is no report.
    #[error("no attestation report: {0}")]
    Report(std::io::Error),
    /// A new TPM refused what it was to be given.
    #[error("a new TPM answers {:#x} to command {:#x}", .1.0, .0.0)]
    Manufacture(CommandCode, ResponseCode),
}

/// An engine, and what lasts of it besides what it keeps itself.
pub struct Tpm<E> {
    engine: E,
    records: Box<dyn Records>,
    saved: Blob,
    attester: Option<Box<dyn Attester>>,
    is_on: bool,
}

impl<E: Engine> Tpm<E> {
    /// Returns the TPM that is `engine`, without power. The engine keeps its own in the same store as `records`.
    #[must_use]
    pub fn new(engine: E, records: Box<dyn Records>) -> Self {
        Self {
            engine,
            records,
            saved: Blob::new("saved"),
            attester: None,
            is_on: false,
        }
    }

    /// Has the guest find reports of `attester` at an NV index.
    #[must_use]
    pub fn attested_by(mut self, attester: Box<dyn Attester>) -> Self {
        self.attester = Some(attester);
        self
    }

    /// Returns whether it has power.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Powers on; a TPM that has power is reset.
    pub fn power_on(&mut self, flags: u16) -> Result<(), TpmError> {
        self.is_on = false;
        let saved = self.saved.load(&mut *self.records)?;
        if saved.is_some() {
            // To go on twice from one place would use nonces twice.
            self.saved.delete(&mut *self.records)?;
        }
        let resumed = saved.filter(|_| flags & RESUME != 0);
        self.engine.power_on(resumed.as_deref())?;
        if resumed.is_none() {
            self.manufacture(flags)?;
        }
        self.is_on = true;
        Ok(())
    }

    /// Gives the TPM what it has not been given yet.
    fn manufacture(&mut self, flags: u16) -> Result<(), TpmError> {
        let made = self
            .records
            .get(MADE)?
            .and_then(|made| made.first().copied());
        let made = made.unwrap_or(0);
        let mut wanted = MADE_BANKS | MADE_ECC_KEY;
        if flags & MAKE_RSA_ENDORSEMENT_KEY != 0 {
            wanted |= MADE_RSA_KEY;
        }
        if self.attester.is_some() {
            wanted |= MADE_ATTESTATION;
        }
        let missing = wanted & !made;
        if missing == 0 {
            return Ok(());
        }
        run(&mut self.engine, &command::startup_clear(), &[])?;
        if missing & MADE_ECC_KEY != 0 {
            Key::ecc_p384().persist(&mut self.engine)?;
        }
        if missing & MADE_RSA_KEY != 0 {
            Key::rsa_2048().persist(&mut self.engine)?;
        }
        if missing & MADE_ATTESTATION != 0 {
            attestation::prepare(&mut self.engine)?;
        }
        if self.attester.is_some() {
            // A key made later has a name to be kept, too.
            attestation::keep_names(&mut self.engine, &mut *self.records)?;
        }
        if missing & MADE_BANKS != 0 {
            allocate_banks(&mut self.engine)?;
        }
        run(&mut self.engine, &command::shutdown_clear(), &[])?;
        self.engine.power_on(None)?;
        self.records.put(MADE, &[made | wanted])?;
        Ok(())
    }

    /// Powers off; with [`SAVE`] it can later go on where it was.
    pub fn power_off(&mut self, flags: u16) -> Result<(), TpmError> {
        if self.is_on && flags & SAVE != 0 {
            let state = self.engine.save()?;
            self.saved.store(&mut *self.records, &state)?;
        }
        self.is_on = false;
        self.engine.power_off();
        Ok(())
    }

    /// Executes a command and returns the response.
    pub fn execute(&mut self, locality: Locality, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.check_on()?;
        let response = self.engine.execute(locality, command)?;
        if let Some(attester) = &mut self.attester
            && attestation::is_asked(command, &response)
            && let Err(error) =
                attestation::answer(&mut self.engine, &mut *self.records, &mut **attester)
        {
            // The guest finds the report of before, which does not have its nonce.
            eprintln!("no attestation: {error}");
        }
        Ok(response)
    }

    /// Begins to measure a dynamic launch.
    pub fn hash_start(&mut self) -> Result<(), TpmError> {
        self.check_on()?;
        Ok(self.engine.hash_start()?)
    }

    /// Measures more of it.
    pub fn hash_data(&mut self, data: &[u8]) -> Result<(), TpmError> {
        self.check_on()?;
        Ok(self.engine.hash_data(data)?)
    }

    /// Ends it.
    pub fn hash_end(&mut self) -> Result<(), TpmError> {
        self.check_on()?;
        Ok(self.engine.hash_end()?)
    }

    /// Returns whether there was a dynamic launch, after forgetting it if `flags` and `locality` say so.
    pub fn established(&mut self, locality: Locality, flags: u16) -> Result<bool, TpmError> {
        self.check_on()?;
        if flags & RESET_ESTABLISHED != 0 {
            self.engine.reset_established(locality)?;
        }
        Ok(self.engine.is_established()?)
    }

    fn check_on(&self) -> Result<(), TpmError> {
        if self.is_on {
            Ok(())
        } else {
            Err(EngineError::Off.into())
        }
    }
}
