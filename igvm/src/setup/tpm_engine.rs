//! The TPM's engine, built from our source and two static libraries of the distribution.
//!
//! The libraries are fetched like the kernel and not installed. Which they were, to the bit, goes into the program and is printed by its
//! `--about`: an update of the distribution's changes every image with a TPM.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use super::{Cache, SetupError, package, unwind_tables};

/// Packages, and the archive of each.
const LIBRARIES: [(&str, &str); 2] = [("libtpms-dev", "libtpms.a"), ("libssl-dev", "libcrypto.a")];
const ARCHIVES: &str = "usr/lib/x86_64-linux-gnu";
const NAME: &str = "stockade-tpm";

/// The engine, ready to run.
#[derive(Clone, Debug)]
pub struct TpmEngine {
    /// A static ELF program.
    pub program: PathBuf,
    /// What it is linked from besides our source.
    pub libraries: Vec<Library>,
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

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} sha256:", self.package, self.version)?;
        self.sha256
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
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
    let folder = path.parent().unwrap_or(Path::new("."));
    let executable = fs::Permissions::from_mode(0o755);
    let mut file = tempfile::Builder::new()
        .permissions(executable)
        .tempfile_in(folder)
        .map_err(SetupError::io(folder))?;
    file.write_all(&program).map_err(SetupError::io(&path))?;
    file.persist(&path)
        .map_err(|error| SetupError::io(&path)(error.error))?;
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
    let path = root.join(format!("usr/share/doc/{name}/changelog.Debian.gz"));
    let file = fs::File::open(&path).map_err(SetupError::io(&path))?;
    let mut line = String::new();
    BufReader::new(GzDecoder::new(file))
        .read_line(&mut line)
        .map_err(SetupError::io(&path))?;
    Ok(between_brackets(&line).unwrap_or("unknown").to_owned())
}

fn between_brackets(line: &str) -> Option<&str> {
    Some(line.split_once('(')?.1.split_once(')')?.0)
}

fn build(cache: &Cache, libraries: &[Library]) -> Result<(), SetupError> {
    let failed = |reason: String| SetupError::Build {
        program: NAME,
        reason,
    };
    let about: Vec<String> = libraries.iter().map(Library::to_string).collect();
    let folders = libraries.iter().map(|library| library.folder.as_path());
    let folders = std::env::join_paths(folders).map_err(|error| failed(error.to_string()))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(cache.workspace())
        .env("STOCKADE_TPM_LIBRARIES", about.join("; "))
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
    use super::*;

    #[test]
    fn version_is_what_the_changelog_begins_with() {
        let line = "libtpms (0.9.2-3.1+deb12u1) bookworm; urgency=medium\n";
        assert_eq!(between_brackets(line), Some("0.9.2-3.1+deb12u1"));
        assert_eq!(between_brackets("nothing"), None);
    }

    #[test]
    fn library_is_named_by_package_version_and_digest() {
        let library = Library {
            package: "libtpms-dev",
            version: "0.9".to_owned(),
            sha256: [0xA5; 32],
            folder: PathBuf::new(),
        };
        let words = library.to_string();
        assert!(words.starts_with("libtpms-dev 0.9 sha256:a5a5"));
        assert_eq!(words.len(), "libtpms-dev 0.9 sha256:".len() + 64);
    }
}
