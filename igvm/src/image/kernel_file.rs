//! Kernel files and modules as people have them on disk.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use stockade_boot::manifest::MAX_KERNEL_BYTES;

use super::error::ImageError;
use super::file::read;

/// A module of a multiboot or PVH kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// The file.
    pub content: Vec<u8>,
    /// The command line; by custom it begins with the file's name.
    pub command_line: String,
}

impl Module {
    /// Reads a module given as `FILE` or as `FILE WORDS...`. The first blank ends the file's name.
    pub fn open(text: &str) -> Result<Self, ImageError> {
        let (path, words) = text.split_once(' ').unwrap_or((text, ""));
        let path = Path::new(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            content: read(path)?,
            command_line: if words.is_empty() {
                name.into_owned()
            } else {
                format!("{name} {words}")
            },
        })
    }

    /// Returns the first word of the command line, by which the paravisor knows a module of its own.
    #[must_use]
    pub fn name(&self) -> &str {
        let mut words = self.command_line.split_ascii_whitespace();
        words.next().unwrap_or_default()
    }
}

/// Reads a kernel, unpacked if it was packed with gzip, as some distributions ship theirs and boot loaders take them.
pub fn read_kernel(path: &Path) -> Result<Vec<u8>, ImageError> {
    let bytes = read(path)?;
    if !bytes.starts_with(&[0x1F, 0x8B]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    // One byte more than allowed shows what is too long; the manifest says so.
    let mut limited = MultiGzDecoder::new(&*bytes).take(MAX_KERNEL_BYTES + 1);
    limited
        .read_to_end(&mut unpacked)
        .map_err(|source| ImageError::Read {
            path: path.into(),
            source,
        })?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn packed_kernel_is_unpacked_and_a_plain_one_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        std::fs::write(&plain, b"kernel").unwrap();
        assert_eq!(read_kernel(&plain).unwrap(), b"kernel");
        let packed = directory.path().join("packed.gz");
        let mut encoder = GzEncoder::new(File::create(&packed).unwrap(), Compression::fast());
        encoder.write_all(&[7; 100_000]).unwrap();
        encoder.finish().unwrap();
        assert_eq!(read_kernel(&packed).unwrap(), [7; 100_000]);
        std::fs::write(&packed, [0x1F, 0x8B, 8, 0, 1]).unwrap();
        let text = read_kernel(&packed).unwrap_err().to_string();
        assert!(
            text.starts_with("cannot read") && text.contains("packed.gz"),
            "{text}"
        );
    }

    #[test]
    fn module_is_a_file_and_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinuz");
        std::fs::write(&path, b"x").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(Module::open(path).unwrap().command_line, "vmlinuz");
        let module = Module::open(&format!("{path} root=/dev/vda ro")).unwrap();
        assert_eq!(module.command_line, "vmlinuz root=/dev/vda ro");
        assert_eq!(module.content, b"x");
        assert!(Module::open("/no/such/file words").is_err());
    }
}
