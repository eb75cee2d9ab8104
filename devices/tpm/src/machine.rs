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
const MADE_P256_KEY: u8 = 1 << 4;

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
        let mut wanted = MADE_BANKS | MADE_ECC_KEY | MADE_P256_KEY;
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
        if missing & MADE_P256_KEY != 0 {
            Key::ecc_p256().persist(&mut self.engine)?;
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
            // The index has the report of before, which does not have the guest's nonce: it may ask again.
            eprintln!("no attestation: {error}");
            return Ok(command::failed(ResponseCode::RETRY).to_vec());
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;
    use std::rc::Rc;

    use stockade_devices::tpm::command::{HEADER_BYTES, Header};

    use super::*;
    use crate::MemoryRecords;
    use crate::endorsement::{ATTESTATION_KEY, ECC_KEY, ECC_P256_KEY, NV_DEFINED, RSA_KEY, sized};

    const FLAGS: u16 = MAKE_RSA_ENDORSEMENT_KEY;
    const EVICT_CONTROL: u32 = 0x120;
    const NV_DEFINE: u32 = 0x12A;
    const PCR_ALLOCATE: u32 = 0x12B;
    const CREATE_PRIMARY: u32 = 0x131;
    const READ_PUBLIC: u32 = 0x173;

    /// A store that is gone after so many writes, as after a power cut.
    struct Dying {
        records: MemoryRecords,
        puts_left: usize,
    }

    impl Dying {
        fn alive(&self) -> Result<(), RecordError> {
            match self.puts_left {
                0 => Err(io::Error::other("no power").into()),
                _ => Ok(()),
            }
        }
    }

    impl Records for Dying {
        fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
            self.alive()?;
            self.records.get(name)
        }

        fn put(&mut self, name: &str, value: &[u8]) -> Result<(), RecordError> {
            self.alive()?;
            self.puts_left -= 1;
            self.records.put(name, value)?;
            self.alive()
        }

        fn delete(&mut self, name: &str) -> Result<(), RecordError> {
            self.alive()?;
            self.records.delete(name)
        }
    }

    type Store = Rc<RefCell<Dying>>;

    /// An engine that keeps what it is given under its handle or index, with the start in which that was.
    struct Fake {
        store: Store,
        start: u8,
        commands: Rc<RefCell<Vec<u32>>>,
    }

    impl Fake {
        /// Keeps something, unless it is there already.
        fn keep(&mut self, name: &str) -> ResponseCode {
            let start = self.start;
            match self.store.get(name) {
                Ok(Some(_)) => NV_DEFINED,
                Ok(None) if self.store.put(name, &[start]).is_ok() => ResponseCode::SUCCESS,
                _ => ResponseCode::FAILURE,
            }
        }

        fn public(&mut self, handle: u32) -> Option<Vec<u8>> {
            let made = self.store.get(&name(handle)).ok()??;
            let mut body = Vec::new();
            sized(&mut body, b"public");
            sized(&mut body, &[&handle.to_be_bytes()[..], &made].concat());
            Some(body)
        }
    }

    fn name(number: u32) -> String {
        format!("object {number:x}")
    }

    fn number(command: &[u8], at: usize) -> u32 {
        let bytes = command[at..].first_chunk().unwrap();
        u32::from_be_bytes(*bytes)
    }

    impl Engine for Fake {
        fn power_on(&mut self, _: Option<&[u8]>) -> Result<(), EngineError> {
            match self.keep("seeds") {
                ResponseCode::FAILURE => Err(EngineError::Failed(1, "power_on")),
                _ => Ok(()),
            }
        }

        fn power_off(&mut self) {}

        fn execute(&mut self, _: Locality, command: &[u8]) -> Result<Vec<u8>, EngineError> {
            let code = Header::read(command).unwrap().code;
            self.commands.borrow_mut().push(code);
            let mut body = Vec::new();
            let outcome = match code {
                CREATE_PRIMARY => {
                    body.extend_from_slice(&[0x80, 0, 0, 0]);
                    ResponseCode::SUCCESS
                }
                // Behind two handles and an authorization.
                EVICT_CONTROL => self.keep(&name(number(command, HEADER_BYTES + 8 + 13))),
                // Behind a handle, an authorization, an empty value and a size.
                NV_DEFINE => self.keep(&name(number(command, HEADER_BYTES + 4 + 13 + 4))),
                PCR_ALLOCATE => self.keep("banks"),
                READ_PUBLIC => match self.public(number(command, HEADER_BYTES)) {
                    Some(public) => {
                        body = public;
                        ResponseCode::SUCCESS
                    }
                    None => ResponseCode::FAILURE,
                },
                _ => ResponseCode::SUCCESS,
            };
            // Chosen once more, banks are what they were.
            let outcome = match (code, outcome) {
                (PCR_ALLOCATE, NV_DEFINED) => ResponseCode::SUCCESS,
                _ => outcome,
            };
            let mut response = [&command::failed(outcome)[..], &body].concat();
            let len = u32::try_from(response.len()).unwrap();
            response[2..6].copy_from_slice(&len.to_be_bytes());
            Ok(response)
        }

        fn hash_start(&mut self) -> Result<(), EngineError> {
            Ok(())
        }

        fn hash_data(&mut self, _: &[u8]) -> Result<(), EngineError> {
            Ok(())
        }

        fn hash_end(&mut self) -> Result<(), EngineError> {
            Ok(())
        }

        fn is_established(&mut self) -> Result<bool, EngineError> {
            Ok(false)
        }

        fn reset_established(&mut self, _: Locality) -> Result<(), EngineError> {
            Ok(())
        }

        fn save(&mut self) -> Result<Vec<u8>, EngineError> {
            Ok(Vec::new())
        }
    }

    struct NoReports;

    impl Attester for NoReports {
        fn report(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Powers a TPM on that has this store, and returns what it was asked for.
    fn start(store: &Store, number: u8) -> Result<Vec<u32>, TpmError> {
        let commands = Rc::default();
        let engine = Fake {
            store: Rc::clone(store),
            start: number,
            commands: Rc::clone(&commands),
        };
        let mut tpm = Tpm::new(engine, Box::new(Rc::clone(store)));
        tpm = tpm.attested_by(Box::new(NoReports));
        tpm.power_on(FLAGS)?;
        assert!(tpm.is_on());
        Ok(commands.take())
    }

    /// A first start cut short at any write is made up for by the second: all there, what was made made once, and the names in reports
    /// those of the keys that lie at the handles.
    #[test]
    fn a_manufacture_cut_short_is_completed_by_the_next_start() {
        const WRITES: usize = 10;
        for puts in 1..=WRITES + 1 {
            let store = Rc::new(RefCell::new(Dying {
                records: MemoryRecords::default(),
                puts_left: puts,
            }));
            let first = start(&store, 1);
            assert_eq!(first.is_ok(), puts > WRITES, "{puts} writes");
            store.borrow_mut().puts_left = usize::MAX;
            let second = start(&store, 2).unwrap();
            assert_eq!(second.is_empty(), puts >= WRITES, "{puts} writes");
            assert_eq!(start(&store, 3).unwrap(), [0; 0], "{puts} writes");

            let records = &mut store.borrow_mut().records;
            let mut names = Vec::new();
            for handle in [RSA_KEY, ECC_KEY, ATTESTATION_KEY] {
                let made = records.get(&name(handle)).unwrap().unwrap();
                let it = [&handle.to_be_bytes()[..], &made].concat();
                sized(&mut names, &it);
            }
            assert_eq!(records.get("names").unwrap(), Some(names), "{puts} writes");
            for index in [ECC_P256_KEY, 0x0140_0001, 0x0140_0002] {
                assert!(records.get(&name(index)).unwrap().is_some());
            }
            assert_eq!(records.get("banks").unwrap().map(|it| it.len()), Some(1));
            assert_eq!(records.get("seeds").unwrap(), Some(vec![1]));
        }
    }

    /// A TPM made before there was a key is given it, and its reports name what they named.
    #[test]
    fn a_tpm_of_before_is_given_a_key_and_keeps_its_names() {
        let store = Rc::new(RefCell::new(Dying {
            records: MemoryRecords::default(),
            puts_left: usize::MAX,
        }));
        start(&store, 1).unwrap();
        {
            let records = &mut store.borrow_mut().records;
            let made = records.get(MADE).unwrap().unwrap()[0] & !MADE_P256_KEY;
            records.put(MADE, &[made]).unwrap();
            records.delete(&name(ECC_P256_KEY)).unwrap();
            // Its owner has put another one there since.
            records.put(&name(ECC_KEY), b"another").unwrap();
        }
        let names = store.borrow_mut().records.get("names").unwrap();
        let asked = start(&store, 2).unwrap();
        let made = asked.iter().filter(|code| **code == CREATE_PRIMARY);
        assert_eq!(made.count(), 1);
        let records = &mut store.borrow_mut().records;
        assert!(records.get(&name(ECC_P256_KEY)).unwrap().is_some());
        assert_eq!(records.get("names").unwrap(), names);
    }

    /// A guest that was told that all is well would take the evidence of before for an answer.
    #[test]
    fn a_nonce_without_evidence_is_to_be_written_again() {
        const NV_WRITE: CommandCode = CommandCode(0x137);
        let store = Rc::new(RefCell::new(Dying {
            records: MemoryRecords::default(),
            puts_left: usize::MAX,
        }));
        let engine = Fake {
            store: Rc::clone(&store),
            start: 1,
            commands: Rc::default(),
        };
        let mut tpm = Tpm::new(engine, Box::new(store)).attested_by(Box::new(NoReports));
        tpm.power_on(0).unwrap();
        let nonce = 0x0140_0002;
        let mut write = |index| {
            let write = command::authorized(NV_WRITE, &[index, index], &[0; 4]);
            let response = tpm.execute(Locality::ZERO, &write).unwrap();
            command::response_code(&response)
        };
        assert_eq!(write(nonce), ResponseCode::RETRY);
        assert_eq!(write(nonce + 1), ResponseCode::SUCCESS);
    }

    #[test]
    fn a_tpm_without_power_executes_nothing() {
        let store = Rc::new(RefCell::new(Dying {
            records: MemoryRecords::default(),
            puts_left: 2,
        }));
        let engine = Fake {
            store: Rc::clone(&store),
            start: 1,
            commands: Rc::default(),
        };
        let mut tpm = Tpm::new(engine, Box::new(store));
        assert!(tpm.power_on(0).is_err());
        assert!(!tpm.is_on());
        let refused = tpm.execute(Locality::ZERO, &command::self_test());
        assert!(matches!(refused, Err(TpmError::Engine(EngineError::Off))));
    }
}
