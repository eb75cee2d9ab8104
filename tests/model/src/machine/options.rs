//! The model's command line: blank-separated words, architecture.md section 4.

use thiserror::Error;

/// What the command line asks for. The names in it borrow from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// `memory=BYTES`: guest RAM.
    pub memory: Option<u64>,
    /// `cpus=N`: the guest's processors.
    pub cpus: Option<u32>,
    /// `tsc-khz=N`: instead of calibration.
    pub tsc_khz: Option<u64>,
    /// `attack=NAME`: which hostile host to be.
    pub attack: Option<&'a str>,
    /// `seed=N`: for the chip's keys.
    pub seed: Option<u64>,
    /// `view`: print where guest memory and the RMP lie at the end.
    pub view: bool,
    /// `certificates`: print the chip's certificates at the start.
    pub certificates: bool,
    /// `selftest`: run no image but the self-test.
    pub selftest: bool,
    /// `probe`: run no image but the model's own guest.
    pub probe: bool,
}

/// What is wrong with a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptionError<'a> {
    /// A word nobody knows.
    #[error("unknown word on the command line: {0:?}")]
    Unknown(&'a str),
    /// A word that needs a number and has none, or one that does not fit.
    #[error("not a number on the command line: {0:?}")]
    Number(&'a str),
    /// A word whose value may not be that.
    #[error("value out of range on the command line: {0:?}")]
    Range(&'a str),
    /// A word given twice.
    #[error("given twice on the command line: {0:?}")]
    Twice(&'a str),
}

impl<'a> Options<'a> {
    /// Reads a command line.
    ///
    /// # Errors
    ///
    /// An [`OptionError`] that names the word.
    pub fn parse(line: &'a str) -> Result<Self, OptionError<'a>> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            options.word(word)?;
        }
        Ok(options)
    }

    fn word(&mut self, word: &'a str) -> Result<(), OptionError<'a>> {
        match word.split_once('=') {
            None if word == "view" => self.view = true,
            None if word == "certificates" => self.certificates = true,
            None if word == "selftest" => self.selftest = true,
            None if word == "probe" => self.probe = true,
            Some(("memory", value)) => set(&mut self.memory, positive(value, word)?, word)?,
            Some(("cpus", value)) => {
                let cpus =
                    u32::try_from(positive(value, word)?).map_err(|_| OptionError::Range(word))?;
                set(&mut self.cpus, cpus, word)?;
            }
            Some(("tsc-khz", value)) => set(&mut self.tsc_khz, positive(value, word)?, word)?,
            Some(("attack", value)) if !value.is_empty() => set(&mut self.attack, value, word)?,
            Some(("seed", value)) => set(&mut self.seed, number(value, word)?, word)?,
            _ => return Err(OptionError::Unknown(word)),
        }
        Ok(())
    }
}

fn number<'a>(value: &str, word: &'a str) -> Result<u64, OptionError<'a>> {
    value.parse().map_err(|_| OptionError::Number(word))
}

fn positive<'a>(value: &str, word: &'a str) -> Result<u64, OptionError<'a>> {
    let number = number(value, word)?;
    (number > 0)
        .then_some(number)
        .ok_or(OptionError::Range(word))
}

fn set<'a, T>(slot: &mut Option<T>, value: T, word: &'a str) -> Result<(), OptionError<'a>> {
    if slot.replace(value).is_some() {
        return Err(OptionError::Twice(word));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_architecture_is_read() {
        let line = "memory=268435456 cpus=2  tsc-khz=1000000 attack=remap seed=7 view certificates selftest probe";
        let expected = Options {
            memory: Some(0x1000_0000),
            cpus: Some(2),
            tsc_khz: Some(1_000_000),
            attack: Some("remap"),
            seed: Some(7),
            view: true,
            certificates: true,
            selftest: true,
            probe: true,
        };
        assert_eq!(Options::parse(line), Ok(expected));
        assert_eq!(Options::parse(""), Ok(Options::default()));
    }

    #[test]
    fn a_bad_word_is_named() {
        let cases = [
            ("memory=1 quiet", OptionError::Unknown("quiet")),
            ("view=1", OptionError::Unknown("view=1")),
            ("attack=", OptionError::Unknown("attack=")),
            ("cpus", OptionError::Unknown("cpus")),
            ("memory=1G", OptionError::Number("memory=1G")),
            (
                "memory=99999999999999999999",
                OptionError::Number("memory=99999999999999999999"),
            ),
            ("cpus=0", OptionError::Range("cpus=0")),
            ("cpus=4294967296", OptionError::Range("cpus=4294967296")),
            ("seed=1 seed=2", OptionError::Twice("seed=2")),
        ];
        for (line, error) in cases {
            assert_eq!(Options::parse(line), Err(error), "{line}");
        }
    }
}
