//! Files of the distribution's packages: the stock kernel, busybox, and whatever else a guest is made of.
//!
//! A package is fetched with `apt-get download` and unpacked into the cache, never installed: no root is needed, no
//! initramfs hook runs, and the file is the distribution's to the bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, SetupError};

/// The meta package that names the current cloud kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";
const FIRMWARE_PACKAGE: &str = "ovmf";
/// Where the files of firmware are, from the root.
const FIRMWARE_FOLDER: &str = "usr/share/OVMF";

/// A kernel to boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bzImage.
    pub path: PathBuf,
    /// Its release, as in the file's name.
    pub release: String,
}

/// Returns the distribution's cloud kernel: one fetched before, one installed, or one fetched now.
pub fn kernel(cache: &Cache, say: &mut dyn FnMut(&str)) -> Result<Kernel, SetupError> {
    let folder = cache.folder("kernel")?;
    if let Some(kernel) = newest_kernel(&folder.join("boot")) {
        return Ok(kernel);
    }
    if let Some(kernel) = newest_kernel(Path::new("/boot")) {
        return Ok(kernel);
    }
    let missing = |reason| missing(KERNEL_PACKAGE, reason, "or name a kernel with --kernel");
    refresh_lists_if_root(KERNEL_PACKAGE, say);
    let package = concrete_kernel_package().map_err(missing)?;
    say(&format!("fetching {package} (the distribution's kernel)"));
    unpack(&package, &folder).map_err(missing)?;
    newest_kernel(&folder.join("boot"))
        .ok_or_else(|| missing(format!("{package} holds no vmlinuz")))
}

/// Firmware to boot.
#[derive(Clone, Debug)]
pub struct FirmwareFiles {
    /// The code.
    pub code: PathBuf,
    /// What its variables are on a new machine.
    pub variables: PathBuf,
}

impl FirmwareFiles {
    /// Returns the files in the folder of firmware below `root`, if they are there.
    fn find(root: &Path) -> Option<Self> {
        let file = |name| Some(root.join(FIRMWARE_FOLDER).join(name)).filter(|path| path.is_file());
        Some(Self {
            code: file("OVMF_CODE_4M.fd")?,
            variables: file("OVMF_VARS_4M.fd")?,
        })
    }
}

/// Returns the distribution's UEFI firmware: installed, fetched before, or fetched now.
pub fn firmware(cache: &Cache, say: &mut dyn FnMut(&str)) -> Result<FirmwareFiles, SetupError> {
    if let Some(files) = FirmwareFiles::find(Path::new("/")) {
        return Ok(files);
    }
    let folder = package(cache, FIRMWARE_PACKAGE, say)?;
    let missing = || {
        let reason = format!("it holds no {FIRMWARE_FOLDER}/OVMF_CODE_4M.fd");
        missing(FIRMWARE_PACKAGE, reason, "or name a file with --firmware")
    };
    FirmwareFiles::find(&folder).ok_or_else(missing)
}

/// Returns a static busybox: fetched before, installed, or fetched now.
pub fn busybox(cache: &Cache, say: &mut dyn FnMut(&str)) -> Result<PathBuf, SetupError> {
    let folder = cache.folder("busybox")?;
    let fetched = folder.join("bin/busybox");
    if fetched.is_file() {
        return Ok(fetched);
    }
    refresh_lists_if_root(BUSYBOX_PACKAGE, say);
    say(&format!("fetching {BUSYBOX_PACKAGE}"));
    unpack(BUSYBOX_PACKAGE, &folder)
        .map_err(|reason| missing(BUSYBOX_PACKAGE, reason, "or name an initrd with --initrd"))?;
    Ok(fetched)
}

/// Returns the folder with the files of a package: fetched before or fetched now.
pub fn package(
    cache: &Cache,
    name: &str,
    say: &mut dyn FnMut(&str),
) -> Result<PathBuf, SetupError> {
    let packages = cache.folder("packages")?;
    let folder = packages.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    refresh_lists_if_root(name, say);
    say(&format!("fetching {name}"));
    // Unpacked elsewhere first: a folder of this name is whole.
    let part = tempfile::tempdir_in(&packages).map_err(SetupError::io(&packages))?;
    let missing = |reason| SetupError::Missing {
        what: format!("Debian package {name}"),
        reason,
        remedy: "run as root: apt-get update".to_owned(),
    };
    unpack(name, part.path()).map_err(missing)?;
    match fs::rename(part.path(), &folder) {
        // Somebody else was quicker.
        Err(_) if folder.is_dir() => {}
        renamed => renamed.map_err(SetupError::io(&folder))?,
    }
    Ok(folder)
}

fn missing(package: &str, reason: String, otherwise: &str) -> SetupError {
    SetupError::Missing {
        what: format!("Debian package {package}"),
        reason,
        remedy: format!("run: apt-get update && apt-get install {package}, {otherwise}"),
    }
}

/// Returns the kernel with the greatest release in a folder, by the numbers in its name.
fn newest_kernel(folder: &Path) -> Option<Kernel> {
    let kernels = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let release = name.strip_prefix("vmlinuz-")?.to_owned();
        let path = entry.path();
        release
            .ends_with("-cloud-amd64")
            .then_some(Kernel { path, release })
    });
    kernels.max_by_key(|kernel| numbers(&kernel.release))
}

fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// A fresh container has no package lists; only root may fetch them.
fn refresh_lists_if_root(package: &str, say: &mut dyn FnMut(&str)) {
    let knows =
        output("apt-cache", &["policy", package]).is_ok_and(|text| text.contains("Candidate"));
    if !knows && nix::unistd::geteuid().is_root() {
        say("updating the package lists (apt-get update)");
        // A failure shows at the download, with its reason.
        let _ = output("apt-get", &["update", "-q"]);
    }
}

fn concrete_kernel_package() -> Result<String, String> {
    let text = output("apt-cache", &["depends", KERNEL_PACKAGE])?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .ok_or_else(|| format!("{KERNEL_PACKAGE} is not in the package lists"))
}

/// Downloads a package into `folder` and unpacks it there.
fn unpack(package: &str, folder: &Path) -> Result<(), String> {
    let download = tempfile::tempdir_in(folder).map_err(|e| e.to_string())?;
    run(Command::new("apt-get")
        .args(["download", "-q", package])
        .current_dir(download.path()))?;
    let archive = fs::read_dir(download.path())
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| format!("apt-get download {package} left no package"))?;
    run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(folder))?;
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    run(Command::new(program).args(arguments))
}

fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    Err(format!("{name}: {}", last.unwrap_or("failed").trim()))
}

#[cfg(test)]
mod tests {
    use super::{newest_kernel, numbers};

    #[test]
    fn newest_kernel_goes_by_numbers_not_letters() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "vmlinuz-6.1.0-9-cloud-amd64",
            "vmlinuz-6.1.0-56-cloud-amd64",
            "vmlinuz-6.1.0-60-amd64",
            "config-6.1.0-99-cloud-amd64",
        ] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let kernel = newest_kernel(folder.path()).unwrap();
        assert_eq!(kernel.release, "6.1.0-56-cloud-amd64");
        assert!(numbers("6.12.0-1") > numbers("6.1.192"));
    }
}
