//! Keys of disks, as arguments: which key a disk has, and who gives it to the machine.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use stockade::disk::read_key;
use stockade::keys::Address;
use stockade::run::KeySource;
use stockade_storage::{DiskKey, KeyId};

use crate::failure::Failure;
use crate::values;

/// The key of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyArgument {
    /// It is in this file.
    File(PathBuf),
    /// Somebody else has it.
    Elsewhere(KeyId),
}

impl FromStr for KeyArgument {
    type Err = String;

    /// Reads the name of a file.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("give a file with the key".to_owned()),
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl KeyArgument {
    /// Reads a key's id.
    pub(crate) fn of_id(text: &str) -> Result<Self, String> {
        let mut id = KeyId([0; 32]);
        hex::decode_to_slice(text, &mut id.0)
            .map_err(|_| "give 64 hexadecimal digits, as `stockade keys id` prints them")?;
        Ok(Self::Elsewhere(id))
    }

    /// Returns what the image names the key by.
    pub(crate) fn id(&self) -> Result<KeyId, Failure> {
        match self {
            Self::File(path) => Ok(read_key(path)?.id()),
            Self::Elsewhere(id) => Ok(*id),
        }
    }

    fn key(&self) -> Result<DiskKey, Failure> {
        match self {
            Self::File(path) => Ok(read_key(path)?),
            Self::Elsewhere(id) => Err(Failure::KeyElsewhere(*id)),
        }
    }
}

/// Returns who gives these keys to a machine with this launch digest: the server, or without one ourselves.
pub(crate) fn source<'a>(
    keys: impl Iterator<Item = &'a KeyArgument>,
    server: Option<&Address>,
    measurement: &str,
) -> Result<Option<KeySource>, Failure> {
    let mut keys = keys.peekable();
    match (keys.peek(), server) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Failure::NoKeys),
        (Some(_), Some(server)) => Ok(Some(KeySource::Server(server.clone()))),
        (Some(_), None) => {
            let keys = keys.map(KeyArgument::key).collect::<Result<Vec<_>, _>>()?;
            Ok(Some(KeySource::Here {
                keys: Arc::new(keys),
                measurement: values::parse_digest(measurement)
                    .map_err(Failure::OtherDevices)?
                    .0,
            }))
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_as_good_as_a_key_for_an_image_and_no_key_for_a_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, [7; 32]).unwrap();
        let file: KeyArgument = path.to_str().unwrap().parse().unwrap();
        let id = KeyArgument::of_id(&file.id().unwrap().to_string()).unwrap();
        assert_eq!(id.id().unwrap(), DiskKey::new([7; 32]).id());
        let digest = "00".repeat(48);
        let here = source([&file].into_iter(), None, &digest).unwrap();
        assert!(matches!(here, Some(KeySource::Here { .. })));
        let nobody = source([&id].into_iter(), None, &digest).unwrap_err();
        assert!(nobody.to_string().contains("--key-server"), "{nobody}");
        let server = "keys:1".parse().unwrap();
        let there = source([&id].into_iter(), Some(&server), &digest).unwrap();
        assert!(matches!(there, Some(KeySource::Server(_))));
    }

    #[test]
    fn a_server_for_nothing_and_nonsense_are_refused() {
        let server: Address = "keys:1".parse().unwrap();
        assert!(source([].into_iter(), Some(&server), "").is_err());
        assert!(source([].into_iter(), None, "").unwrap().is_none());
        for nonsense in ["", "00", &"zz".repeat(32), &"0".repeat(63)] {
            assert!(KeyArgument::of_id(nonsense).is_err(), "{nonsense}");
        }
    }
}
