//! The TPM's engine, built from our source and two static libraries of the distribution.
//!
//! The libraries are fetched like the kernel and not installed. Which they were, to the bit, goes into the program, which prints it by its
//! `--about`, and into the image, as the module's words: an update of the distribution's changes every image with a TPM.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use super::{Cache, SetupError, package, unwind_tables};
use crate::output;

/// Packages, and the archive of each.
const LIBRARIES: [(&str, &str); 2] = [("libtpms-dev", "libtpms.a"), ("libssl-dev", "libcrypto.a")];
const ARCHIVES: &str = "usr/lib/x86_64-linux-gnu";
/// Where a package's version stands first: a rebuild without a change of the source has a changelog of its own.
const CHANGELOGS: [&str; 2] = ["changelog.Debian.amd64.gz", "changelog.Debian.gz"];
const NAME: &str = "stockade-tpm";

/// The engine, ready to run.
#[derive(Clone, Debug)]
pub struct TpmEngine {
    /// A static ELF program.
    pub program: PathBuf,
    /// What it is linked from besides our source.
    pub libraries: Vec<Library>,
}

impl TpmEngine {
    /// Returns what it is linked from as the program itself says it, and wants to be told when it is a module.
    #[must_use]
    pub fn about(&self) -> String {
        about(&self.libraries)
    }
}

/// A static library of the distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Its package.
    pub package: &'static str,
    /// The package's version.
    pub version: String,
    /// Digest of the archive.
    pub sha256: [u8; 32],
    folder: PathBuf,
}

/// One word, which is the library's among those of the module.
impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = hex::encode(self.sha256);
        write!(f, "{}={},sha256:{digest}", self.package, self.version)
    }
}

/// Builds the engine, which is quick when nothing changed.
pub fn tpm_engine(cache: &Cache, say: &mut dyn FnMut(&str)) -> Result<TpmEngine, SetupError> {
    let libraries = LIBRARIES
        .iter()
        .map(|(name, archive)| library(cache, name, archive, say))
        .collect::<Result<Vec<_>, _>>()?;
    build(cache, &libraries)?;
    Ok(TpmEngine {
        program: slim(cache)?,
        libraries,
    })
}

/// Returns the program without what it never reads.
fn slim(cache: &Cache) -> Result<PathBuf, SetupError> {
    let built = cache.target().join("image").join(NAME);
    let mut program = fs::read(&built).map_err(SetupError::io(&built))?;
    unwind_tables::leave_out(&mut program);
    let path = cache.folder("tpm")?.join(NAME);
    // Others may be executing it, or about to.
    if fs::read(&path).is_ok_and(|old| old == program) {
        return Ok(path);
    }
    output::write_program(&path, &program).map_err(SetupError::io(&path))?;
    Ok(path)
}

fn library(
    cache: &Cache,
    name: &'static str,
    archive: &str,
    say: &mut dyn FnMut(&str),
) -> Result<Library, SetupError> {
    let root = package(cache, name, say)?;
    let folder = root.join(ARCHIVES);
    let path = folder.join(archive);
    let bytes = fs::read(&path).map_err(SetupError::io(&path))?;
    Ok(Library {
        package: name,
        version: version(&root, name)?,
        sha256: Sha256::digest(&bytes).into(),
        folder,
    })
}

/// The first line of a package's changelog: `libtpms (0.9.2-3.1+deb12u1) bookworm; urgency=medium`.
fn version(root: &Path, name: &str) -> Result<String, SetupError> {
    let folder = root.join("usr/share/doc").join(name);
    let mut paths = CHANGELOGS.iter().map(|file| folder.join(file));
    let path = paths.find(|path| path.is_file()).unwrap_or(folder);
    let file = fs::File::open(&path).map_err(SetupError::io(&path))?;
    let mut line = String::new();
    BufReader::new(GzDecoder::new(file))
        .read_line(&mut line)
        .map_err(SetupError::io(&path))?;
    let none = || SetupError::io(&path)(io::Error::other("it does not begin with a version"));
    between_brackets(&line).map(str::to_owned).ok_or_else(none)
}

fn between_brackets(line: &str) -> Option<&str> {
    Some(line.split_once('(')?.1.split_once(')')?.0)
}

fn about(libraries: &[Library]) -> String {
    let words: Vec<String> = libraries.iter().map(Library::to_string).collect();
    words.join(" ")
}

fn build(cache: &Cache, libraries: &[Library]) -> Result<(), SetupError> {
    let failed = |reason: String| SetupError::Build {
        program: NAME,
        reason,
    };
    let folders = libraries.iter().map(|library| library.folder.as_path());
    let folders = std::env::join_paths(folders).map_err(|error| failed(error.to_string()))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(cache.workspace())
        .env("STOCKADE_TPM_LIBRARIES", about(libraries))
        .env("STOCKADE_TPM_ARCHIVES", folders)
        .args(["rustc", "--quiet", "--profile", "image"])
        .args(["--package", NAME, "--bin", NAME, "--features", "libtpms"])
        .arg("--target-dir")
        .arg(cache.target())
        // A program for a loader as simple as can be: nothing dynamic, nothing to relocate.
        .args(["--", "-C", "target-feature=+crt-static"])
        .args(["-C", "relocation-model=static", "-C", "strip=symbols"])
        .output()
        .map_err(|error| failed(format!("cargo: {error}")))?;
    if output.status.success() {
        Ok(())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(failed(text.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn version_is_what_the_changelog_begins_with() {
        let line = "libtpms (0.9.2-3.1+deb12u1) bookworm; urgency=medium\n";
        assert_eq!(between_brackets(line), Some("0.9.2-3.1+deb12u1"));
        assert_eq!(between_brackets("nothing"), None);
    }

    /// The program compares what it is told with what it was built with, and the module's words end at blanks.
    #[test]
    fn library_is_one_word_of_package_version_and_digest() {
        let library = |package| Library {
            package,
            version: "0.9~1+b2".to_owned(),
            sha256: [0xA5; 32],
            folder: PathBuf::new(),
        };
        let about = about(&[library("libtpms-dev"), library("libssl-dev")]);
        let words: Vec<&str> = about.split(' ').collect();
        let digest = "a5".repeat(32);
        let expected =
            ["libtpms-dev", "libssl-dev"].map(|it| format!("{it}=0.9~1+b2,sha256:{digest}"));
        assert_eq!(words, expected);
    }

    #[test]
    fn a_rebuild_of_the_package_is_another_version() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/share/doc/p");
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, line: &str| {
            let file = fs::File::create(folder.join(name)).unwrap();
            let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            packed.write_all(line.as_bytes()).unwrap();
            packed.finish().unwrap();
        };
        assert!(version(root.path(), "p").is_err());
        write("changelog.Debian.gz", "p (1-1) bookworm; urgency=medium\n");
        assert_eq!(version(root.path(), "p").unwrap(), "1-1");
        write(
            "changelog.Debian.amd64.gz",
            "p (1-1+b1) bookworm; binary-only=yes\n",
        );
        assert_eq!(version(root.path(), "p").unwrap(), "1-1+b1");
        write("changelog.Debian.amd64.gz", "\n");
        assert!(version(root.path(), "p").is_err());
    }
}
