//! A holder of keys: asks a machine what it is, judges the answer, seals the keys for it.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use stockade_storage::release::message::{
    HEADER_BYTES, Kind, Malformed, frame, read_header, refusal,
};
use stockade_storage::release::{Evidence, Nonce, RefusalCode, envelope};
use stockade_storage::{DiskKey, KeyId};

use super::ledger::{Ledger, LedgerError, Stale};
use crate::attest::{Certificates, Machine, Refusal, RootChoice, check_report};

/// Where the certificates of a chip are found, at the time they are needed.
pub type FindCertificates = Box<dyn Fn() -> io::Result<Vec<Certificates>> + Send + Sync>;

/// Keys, and what a machine must be to get them.
pub struct Holder {
    /// The keys.
    pub keys: Arc<Vec<DiskKey>>,
    /// The launch digests of images that may have them.
    pub measurements: Vec<[u8; 48]>,
    /// The chips that are known.
    pub certificates: FindCertificates,
    /// Which roots are trusted.
    pub root: RootChoice,
    /// What is remembered of machines' starts, if it is.
    pub ledger: Option<Ledger>,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(DiskKey::id);
        f.debug_list().entries(ids).finish()
    }
}

/// What was given, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Which keys.
    pub ids: Vec<KeyId>,
    /// To whom.
    pub machine: Machine,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.ids.iter().map(KeyId::to_string).collect();
        write!(f, "gave {} to {}", ids.join(", "), self.machine)
    }
}

/// Why a machine got nothing.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// The connection.
    #[error("gave nothing: {0}")]
    Io(#[from] io::Error),
    /// What came is no question.
    #[error("gave nothing: the question is {0}")]
    Malformed(#[from] Malformed),
    /// What the machine says does not stand.
    #[error("refused: {0}")]
    Refusal(#[from] Refusal),
    /// The machine wants another key.
    #[error("refused: there is no key {0} here; the image was built with another")]
    NoKey(KeyId),
    /// Its store is an older copy.
    #[error("refused: {0}")]
    Stale(Stale),
    /// What is to be remembered of it cannot be.
    #[error("gave nothing: {0}")]
    Ledger(#[from] LedgerError),
    /// Too many ask.
    #[error("turned away: {0} machines ask already")]
    Crowd(usize),
    /// Nothing can be sealed for it.
    #[error("refused: {0}")]
    Unsealed(#[from] envelope::Unsealed),
}

impl HolderError {
    /// Returns what the machine is told.
    fn code(&self) -> RefusalCode {
        match self {
            Self::Refusal(refusal) => RefusalCode(u16::from(refusal.exit_code())),
            Self::NoKey(_) => RefusalCode::NO_KEY,
            Self::Stale(_) => RefusalCode::OLD_STORE,
            Self::Io(_) | Self::Ledger(_) | Self::Crowd(_) => RefusalCode::GONE,
            Self::Malformed(_) | Self::Unsealed(_) => RefusalCode::EVIDENCE,
        }
    }
}

impl Holder {
    /// Answers one machine's question.
    ///
    /// # Errors
    /// Why it got nothing; it was told so, if it can be.
    pub fn answer(&self, stream: &mut (impl Read + Write)) -> Result<Given, HolderError> {
        let answered = self.converse(stream, rand::random());
        if let Err(error) = &answered {
            // Who does not listen any more need not be told.
            let _ = stream.write_all(&refusal(error.code()));
        }
        answered
    }

    fn converse(
        &self,
        stream: &mut (impl Read + Write),
        nonce: Nonce,
    ) -> Result<Given, HolderError> {
        receive(stream, Kind::HELLO)?;
        stream.write_all(&frame(Kind::CHALLENGE, &nonce))?;
        let content = receive(stream, Kind::EVIDENCE)?;
        let evidence = Evidence::parse(&content)?;
        let machine = self.judge(&evidence, &nonce)?;
        let keys = evidence.document.ids.iter().map(|id| self.key(id));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        // Last: what is remembered of a machine is what was given to it.
        if let Some(ledger) = &self.ledger {
            let admitted = ledger.admit(&evidence.document.ids, evidence.document.starts)?;
            admitted.map_err(HolderError::Stale)?;
        }
        let public = &evidence.document.public;
        let envelope = envelope::seal(keys, public, &content, &mut rand::rng())?;
        stream.write_all(&frame(Kind::ANSWER, &envelope))?;
        Ok(Given {
            ids: evidence.document.ids,
            machine,
        })
    }

    /// Judges the evidence by each chip that is known. Of several refusals that counts which came furthest: by the machine's own chip.
    fn judge(&self, evidence: &Evidence, nonce: &Nonce) -> Result<Machine, HolderError> {
        let mut last = Refusal::Untrusted("none are here".to_owned());
        let mut machine = None;
        for certificates in (self.certificates)()? {
            let checked = check_report(
                &evidence.report,
                &evidence.report_data,
                (&certificates, self.root),
                &self.measurements,
            );
            match checked {
                Ok(found) => machine = Some(found),
                Err(refusal) if matches!(last, Refusal::Untrusted(_)) => last = refusal,
                Err(_) => {}
            }
        }
        let machine = machine.ok_or(last)?;
        if evidence.document.nonce != *nonce {
            let digits = hex::encode(evidence.document.nonce);
            return Err(Refusal::Nonce(digits).into());
        }
        Ok(machine)
    }

    fn key(&self, id: &KeyId) -> Result<&DiskKey, HolderError> {
        let key = self.keys.iter().find(|key| key.id() == *id);
        key.ok_or(HolderError::NoKey(*id))
    }
}

/// Reads a message of this kind.
fn receive(stream: &mut impl Read, kind: Kind) -> Result<Vec<u8>, HolderError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let (found, len) = read_header(&header)?;
    if found != kind {
        return Err(Malformed.into());
    }
    let mut content = vec![0; len];
    stream.read_exact(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use stockade_storage::release::{Line, REPORT_BYTES, ReleaseError, Silent, Wanted, ask};

    use super::*;

    /// A machine's line by a socket.
    struct Socket(UnixStream);

    impl Line for Socket {
        fn send(&mut self, bytes: &[u8]) -> Result<(), Silent> {
            self.0.write_all(bytes).map_err(|_| Silent)
        }

        fn receive(&mut self, bytes: &mut [u8]) -> Result<(), Silent> {
            self.0.read_exact(bytes).map_err(|_| Silent)
        }
    }

    fn holder() -> Holder {
        Holder {
            keys: Arc::new(vec![DiskKey::new([1; 32])]),
            measurements: vec![[0; 48]],
            certificates: Box::new(|| Ok(Vec::new())),
            root: RootChoice::Amd,
            ledger: None,
        }
    }

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for stream in [&ours, &theirs] {
            let limit = Some(Duration::from_secs(20));
            stream.set_read_timeout(limit).unwrap();
        }
        (ours, theirs)
    }

    /// Genuine reports are for `tests/cases`: here nothing can sign one.
    #[test]
    fn a_machine_nobody_vouches_for_is_told_so() {
        let (mut ours, theirs) = pair();
        let machine = std::thread::spawn(move || {
            let ids = [DiskKey::new([1; 32]).id()];
            let report = [0; REPORT_BYTES];
            let (ids, starts) = (&ids[..], None);
            let wanted = Wanted { ids, starts };
            ask(&mut Socket(theirs), |_| Some(report), &[7; 32], wanted).err()
        });
        let answered = holder().answer(&mut ours).unwrap_err();
        assert!(matches!(
            answered,
            HolderError::Refusal(Refusal::Untrusted(_))
        ));
        let told = machine.join().unwrap();
        assert_eq!(told, Some(ReleaseError::Refused(RefusalCode::UNTRUSTED)));
    }

    #[test]
    fn nonsense_and_silence_are_no_questions() {
        for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], b""] {
            let (mut ours, mut theirs) = pair();
            theirs.write_all(nonsense).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(holder().answer(&mut ours).is_err());
        }
    }

    #[test]
    fn keys_do_not_show_in_words() {
        let words = format!("{:?}", holder());
        assert!(
            !words.contains("[1, 1") && !words.contains("0101"),
            "{words}"
        );
    }
}
