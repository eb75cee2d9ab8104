//! An initramfs as an archive (cpio, "newc"), as the kernel unpacks it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use cpio::newc::{Builder, trailer};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// What goes into an initramfs, by its path without the first slash.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    files: BTreeMap<String, Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Returns an archive with nothing but the folders and the console every first process needs.
    #[must_use]
    pub fn new() -> Self {
        let mut archive = Self::default();
        for name in ["bin", "dev", "proc", "sys", "tmp"] {
            archive.folder(name);
        }
        archive
    }

    /// Adds an empty folder and those it lies in.
    pub fn folder(&mut self, name: &str) {
        for ancestor in Path::new(name).ancestors() {
            let ancestor = ancestor.to_string_lossy();
            if !ancestor.is_empty() {
                self.folders.insert(ancestor.into_owned());
            }
        }
    }

    /// Adds a file anybody may execute, and the folders it lies in.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        if let Some(folder) = Path::new(name).parent() {
            self.folder(&folder.to_string_lossy());
        }
        self.files.insert(name.to_owned(), content.to_vec());
    }

    /// Returns the archive's bytes: the same for the same content.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut inodes = 1..;
        let mut inode = || inodes.next().unwrap_or(u32::MAX);
        // Parents sort before what lies in them.
        for name in &self.folders {
            let entry = Builder::new(name).ino(inode()).mode(DIRECTORY);
            entry.write(&mut out, 0).finish()?;
        }
        // The kernel opens the console before /dev is mounted.
        let console = Builder::new("dev/console")
            .ino(inode())
            .mode(CHARACTER_DEVICE)
            .rdev_major(5)
            .rdev_minor(1);
        console.write(&mut out, 0).finish()?;
        for (name, content) in &self.files {
            let size = u32::try_from(content.len()).map_err(io::Error::other)?;
            let entry = Builder::new(name).ino(inode()).mode(PROGRAM);
            let mut file = entry.write(&mut out, size);
            file.write_all(content)?;
            file.finish()?;
        }
        trailer(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        let mut rest = bytes;
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return names;
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().unwrap();
        }
    }

    /// The kernel makes no folder on its own: a file before its folder is lost.
    #[test]
    fn folders_come_before_what_lies_in_them() {
        let mut archive = Archive::new();
        archive.file("usr/bin/tool", b"\x7fELF");
        let names = names(&archive.to_bytes().unwrap());
        let place = |wanted: &str| names.iter().position(|name| name == wanted);
        assert!(place("usr") < place("usr/bin") && place("usr/bin") < place("usr/bin/tool"));
        assert!(place("dev/console").is_some());
        assert_eq!(names.len(), 9);
    }

    #[test]
    fn same_content_is_the_same_archive() {
        let archive = |names: [&str; 2]| {
            let mut archive = Archive::new();
            for name in names {
                archive.file(name, b"content");
            }
            archive.to_bytes().unwrap()
        };
        assert_eq!(archive(["init", "bin/a"]), archive(["bin/a", "init"]));
    }
}
