//! QEMU: found, new enough, able to emulate SVM.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::SetupError;

/// The oldest QEMU the model was seen on.
pub const MINIMUM_VERSION: Version = Version { major: 7, minor: 2 };

const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86";
const DEFAULT: &str = "qemu-system-x86_64";

/// A QEMU release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Before the first dot.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A QEMU that will do.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
}

impl Qemu {
    /// Checks `program`, or finds the default one and, as root, installs it.
    pub fn find(program: Option<&Path>, say: &mut dyn FnMut(&str)) -> Result<Self, SetupError> {
        if let Some(program) = program {
            return Self::check(program);
        }
        let default = Path::new(DEFAULT);
        match Self::check(default) {
            Err(SetupError::QemuMissing { .. }) if nix::unistd::geteuid().is_root() => {
                install(say);
                Self::check(default)
            }
            checked => checked,
        }
    }

    fn check(program: &Path) -> Result<Self, SetupError> {
        let text = ask(program, &["--version"])?;
        let unfit = |what: &str| SetupError::QemuUnfit {
            program: program.into(),
            what: what.to_owned(),
        };
        let version = parse_version(&text).ok_or_else(|| unfit("does not say a QEMU version"))?;
        if version < MINIMUM_VERSION {
            return Err(SetupError::QemuTooOld {
                program: program.into(),
                found: version,
            });
        }
        let processors = ask(program, &["-cpu", "help"])?;
        if !has_word(&processors, "svm") || !has_word(&processors, "EPYC-Milan") {
            return Err(unfit("cannot emulate an AMD processor with SVM"));
        }
        Ok(Self {
            program: program.into(),
            version,
        })
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|found| found == word)
}

fn parse_version(text: &str) -> Option<Version> {
    let number = text.split_once("QEMU emulator version ")?.1;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next()?.parse().ok();
    Some(Version {
        major: next()?,
        minor: next()?,
    })
}

fn ask(program: &Path, arguments: &[&str]) -> Result<String, SetupError> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|source| SetupError::QemuMissing {
            program: program.into(),
            source,
            command: INSTALL,
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Installs QEMU; what goes wrong shows when it is looked for again.
fn install(say: &mut dyn FnMut(&str)) {
    say("installing QEMU (apt-get install qemu-system-x86)");
    let apt = |arguments: &[&str]| {
        let _ = Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments)
            .output();
    };
    apt(&["update", "-q"]);
    apt(&[
        "install",
        "-q",
        "-y",
        "--no-install-recommends",
        "qemu-system-x86",
    ]);
}

#[cfg(test)]
mod tests {
    use super::{MINIMUM_VERSION, Qemu, Version, parse_version};
    use crate::setup::SetupError;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions_parse_from_what_qemu_prints() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\n";
        assert_eq!(parse_version(debian), Some(Version { major: 7, minor: 2 }));
        assert_eq!(parse_version("bash 5.2"), None);
        assert!(
            Version {
                major: 10,
                minor: 0
            } > MINIMUM_VERSION
        );
    }

    #[test]
    fn an_old_qemu_is_refused_by_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qemu");
        std::fs::write(&program, "#!/bin/sh\necho QEMU emulator version 5.2.0\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Qemu::find(Some(&program), &mut |_| {}).unwrap_err();
        assert!(matches!(error, SetupError::QemuTooOld { .. }), "{error}");
        assert!(error.to_string().contains("version 5.2, at least 7.2"));
    }

    #[test]
    fn a_missing_qemu_names_the_command_to_type() {
        let error = Qemu::find(Some("/nonexistent/qemu".as_ref()), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("apt-get install"), "{error}");
    }
}
