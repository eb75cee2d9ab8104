//! A disk, as an argument: a file and words, looked at before anything runs.

use std::fs::File;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use stockade::disk::{self, Content, Lock, check_sealed};
use stockade::run::devices::{self, Disk, DiskFormat, DiskMedium};
use stockade_boot::manifest::{DiskAccess, DiskEntry, DiskMode};

use crate::failure::Failure;
use crate::key_arguments::KeyArgument;

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskArgument {
    pub(crate) path: PathBuf,
    pub(crate) mode: DiskMode,
    is_mode_said: bool,
    pub(crate) access: DiskAccess,
    format: Option<DiskFormat>,
    boot_index: Option<u8>,
    /// Released elsewhere; without one a sealed disk has a key of the image's own.
    pub(crate) key: Option<KeyArgument>,
}

impl FromStr for DiskArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = split(text);
        let Some((path, words)) = words.split_first().filter(|(path, _)| !path.is_empty()) else {
            return Err("give a file, such as disk.img".to_owned());
        };
        let mut disk = Self {
            path: path.into(),
            mode: DiskMode::PLAIN,
            is_mode_said: false,
            access: DiskAccess::ReadWrite,
            format: None,
            boot_index: None,
            key: None,
        };
        let mut mode = None;
        for word in words {
            match word.split_once('=').unwrap_or((word.as_str(), "")) {
                ("readonly", "") => disk.access = DiskAccess::ReadOnly,
                ("mode", "plain") => mode = Some(DiskMode::PLAIN),
                ("mode", "sealed") => mode = Some(DiskMode::SEALED),
                ("mode", other) => {
                    return Err(format!("there is no mode {other:?}; take plain or sealed"));
                }
                ("format", "raw") => disk.format = Some(DiskFormat::Raw),
                ("format", "qcow2") => disk.format = Some(DiskFormat::Qcow2),
                ("format", other) => {
                    return Err(format!("there is no format {other:?}; take raw or qcow2"));
                }
                ("bootindex", number) => disk.boot_index = Some(parse_boot_index(number)?),
                ("key", file) => disk.key = Some(file.parse()?),
                ("key-id", id) => disk.key = Some(KeyArgument::of_id(id)?),
                _ => {
                    return Err(format!(
                        "{word:?} says nothing of a disk; there are mode=plain, mode=sealed, readonly, format=raw, \
                         format=qcow2, key=FILE, key-id=HEX, bootindex=N; a comma in a file's name is written twice"
                    ));
                }
            }
        }
        disk.is_mode_said = mode.is_some();
        // Only a sealed disk has a key.
        disk.mode = match (mode, &disk.key) {
            (Some(DiskMode::PLAIN), Some(_)) => {
                return Err("a plain disk has no key; leave mode=plain out, or the key".to_owned());
            }
            (None, Some(_)) => DiskMode::SEALED,
            (mode, _) => mode.unwrap_or(DiskMode::PLAIN),
        };
        Ok(disk)
    }
}

/// Takes a list apart at its commas; as in QEMU's lists, two of them are one that belongs to a word.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match words.last_mut() {
            Some(word) if character != ',' || rest.next_if_eq(&',').is_some() => {
                word.push(character)
            }
            _ => words.push(String::new()),
        }
    }
    words
}

fn parse_boot_index(text: &str) -> Result<u8, String> {
    let number = text.parse().ok();
    let number = number.filter(|number| *number <= DiskEntry::MAX_BOOT_INDEX);
    number.ok_or_else(|| {
        let most = DiskEntry::MAX_BOOT_INDEX;
        format!("{text:?} is no boot index; give a number from 0 to {most}")
    })
}

impl DiskArgument {
    /// Returns what the manifest says of it, but for its key.
    pub(crate) fn entry(&self, host_device: u8) -> DiskEntry {
        let entry = DiskEntry::new(self.mode, self.access, host_device);
        match self.boot_index {
            Some(index) => entry.with_boot_index(index),
            None => entry,
        }
    }

    /// Returns whether it has a place in the firmware's boot order.
    pub(crate) fn has_boot_index(&self) -> bool {
        self.boot_index.is_some()
    }

    /// Sees that the file is there, can be used as asked, and is nobody else's now.
    pub(crate) fn open(&self) -> Result<(Disk, File), Failure> {
        let failed = |source| Failure::File {
            path: self.path.clone(),
            source,
        };
        let lock = match self.access {
            DiskAccess::ReadWrite => Lock::Exclusive,
            DiskAccess::ReadOnly => Lock::Shared,
        };
        let file = disk::open(&self.path, lock)?;
        let content = Content::of(&file).map_err(failed)?;
        let format = self.format(content)?;
        self.check_mode(content)?;
        self.check_content(&file, format)?;
        let path = self.path.canonicalize().map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        let disk = Disk {
            format,
            medium: match kind.is_block_device() {
                true => DiskMedium::BlockDevice,
                false => DiskMedium::File,
            },
            access: match self.access {
                DiskAccess::ReadWrite => devices::DiskAccess::ReadWrite,
                DiskAccess::ReadOnly => devices::DiskAccess::ReadOnly,
            },
            ..Disk::new(path)
        };
        Ok((disk, file))
    }

    /// QEMU would end without a word of ours, or a guest find a disk without a sector.
    fn check_content(&self, file: &File, format: DiskFormat) -> Result<(), Failure> {
        let failed = |source| Failure::File {
            path: self.path.clone(),
            source,
        };
        let bytes = disk::length(file).map_err(failed)?;
        if format == DiskFormat::Raw && (bytes == 0 || !bytes.is_multiple_of(512)) {
            let path = self.path.clone();
            return Err(Failure::DiskSize { path, bytes });
        }
        if format == DiskFormat::Raw && self.mode == DiskMode::SEALED {
            // The paravisor would leave it out, and the guest miss it.
            check_sealed(file, &self.path)?;
        }
        Ok(())
    }

    /// Returns the format the user said. What a file holds never decides: a guest could write a header into its raw disk, and with it name a file of
    /// the host for QEMU to open.
    fn format(&self, content: Content) -> Result<DiskFormat, Failure> {
        let path = || self.path.clone();
        match (self.format, content) {
            (None, Content::Qcow2) => Err(Failure::UnsaidQcow2(path())),
            (None, Content::Foreign(name)) => Err(Failure::ForeignDisk { path: path(), name }),
            (None, _) => Ok(DiskFormat::Raw),
            (Some(DiskFormat::Qcow2), Content::Qcow2) => Ok(DiskFormat::Qcow2),
            (Some(DiskFormat::Qcow2), _) => Err(Failure::NotQcow2(path())),
            (Some(DiskFormat::Raw), _) => Ok(DiskFormat::Raw),
        }
    }

    /// Sees that nobody hands out by mistake, for a guest to format, what only a paravisor can read.
    fn check_mode(&self, content: Content) -> Result<(), Failure> {
        let is_plain_by_default = self.mode == DiskMode::PLAIN && !self.is_mode_said;
        match content {
            Content::Sealed if is_plain_by_default => Err(Failure::UnsaidSealed(self.path.clone())),
            Content::Store if is_plain_by_default => Err(Failure::UnsaidStore(self.path.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_file_and_words() {
        let disk: DiskArgument = "a.img,mode=sealed,readonly,format=qcow2".parse().unwrap();
        assert_eq!(disk.path, PathBuf::from("a.img"));
        assert_eq!(disk.mode, DiskMode::SEALED);
        assert_eq!(disk.access, DiskAccess::ReadOnly);
        assert_eq!(disk.format, Some(DiskFormat::Qcow2));
        for (nonsense, words) in [
            ("", "give a file"),
            (",readonly", "give a file"),
            ("a,mode=open", "plain or sealed"),
            ("a,format=vmdk", "raw or qcow2"),
            ("a,bootindex=", "no boot index"),
            ("a,bootindex=-1", "no boot index"),
            ("a,bootindex=255", "0 to 254"),
            ("a,readonly=1", "says nothing"),
            ("a,key=", "give a file"),
            ("a,key-id=00", "64 hexadecimal digits"),
            ("a,key=k,mode=plain", "no key"),
            ("a,", "says nothing"),
        ] {
            let error = nonsense.parse::<DiskArgument>().unwrap_err();
            assert!(error.contains(words), "{nonsense}: {error}");
        }
    }

    #[test]
    fn two_commas_are_one_in_a_name() {
        let disk: DiskArgument = "a,,b.img,key=c,,,readonly".parse().unwrap();
        assert_eq!(disk.path, PathBuf::from("a,b.img"));
        assert_eq!(disk.key, Some(KeyArgument::File("c,".into())));
        assert_eq!(disk.access, DiskAccess::ReadOnly);
        let disk: DiskArgument = ",,,,".parse().unwrap();
        assert_eq!(disk.path, PathBuf::from(",,"));
        let error = "a,b.img".parse::<DiskArgument>().unwrap_err();
        assert!(error.contains("a comma in a file's name"), "{error}");
    }

    /// A file with this content, given with these words.
    fn opened(content: &[u8], words: &str) -> Result<Disk, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let text = format!("{}{words}", file.path().display());
        let (disk, _) = text.parse::<DiskArgument>().unwrap().open()?;
        Ok(disk)
    }

    /// Or a guest would have the next run open any file of the host's as a qcow2 file's backing file.
    #[test]
    fn a_file_is_qcow2_by_its_users_word_alone() {
        let mut header = [0; 512];
        header[..8].copy_from_slice(b"QFI\xFB\0\0\0\x03");
        for words in ["", ",readonly", ",mode=plain", ",mode=sealed"] {
            let refused = opened(&header, words);
            assert!(matches!(refused, Err(Failure::UnsaidQcow2(_))), "{words}");
        }
        let format = |words| opened(&header, words).unwrap().format;
        assert_eq!(format(",format=raw"), DiskFormat::Raw);
        assert_eq!(format(",format=qcow2"), DiskFormat::Qcow2);
        let other = opened(&[7; 512], ",format=qcow2");
        assert!(matches!(other, Err(Failure::NotQcow2(_))));
    }

    /// A guest would find nothing on it, and format it.
    #[test]
    fn a_disk_of_another_program_is_raw_by_its_users_word_alone() {
        let mut header = [0; 512];
        header[..8].copy_from_slice(b"vhdxfile");
        let error = opened(&header, "").unwrap_err().to_string();
        assert!(
            error.contains("vhdx") && error.contains("qemu-img"),
            "{error}"
        );
        assert!(opened(&header, ",format=raw").is_ok());
    }

    /// A guest would find nothing on it, and format it.
    #[test]
    fn a_sealed_disk_or_a_store_is_plain_by_its_users_word_alone() {
        let content = |magic: [u8; 8]| [&magic[..], &[7; 504]].concat();
        let disk = content(stockade_storage::disk::format::MAGIC);
        let store = content(stockade_storage::store::format::MAGIC);
        for words in ["", ",readonly", ",format=raw"] {
            let refused = opened(&disk, words);
            assert!(matches!(refused, Err(Failure::UnsaidSealed(_))), "{words}");
            let refused = opened(&store, words);
            assert!(matches!(refused, Err(Failure::UnsaidStore(_))), "{words}");
        }
        assert!(opened(&disk, ",mode=plain").is_ok());
        assert!(opened(&store, ",mode=plain").is_ok());
    }
}
