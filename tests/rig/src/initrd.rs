//! An initramfs of a test's own: busybox, a script, and programs of the distribution with the libraries they need.
//!
//! The script runs as the guest's first process, with everything mounted and busybox's commands in place; `say WORDS` is what
//! [`crate::guest`] finds in the console. When the script ends, the guest powers itself off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stockade::setup::{Archive, Cache, busybox, package};

/// What every script finds done.
const PREFACE: &str = "#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
say() { echo \"guest-check: $*\"; }
";
const EPILOGUE: &str = "
poweroff -f
sleep 60
";
/// Where the distribution has its libraries, those that a library names the folder of itself among them, and its loader.
const LIBRARY_FOLDERS: [&str; 3] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/ceph",
];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// An initramfs, being put together.
#[derive(Clone, Debug)]
pub struct Initrd {
    archive: Archive,
}

impl Initrd {
    /// Returns one whose first process runs `script` and powers off.
    #[must_use]
    pub fn new(script: &str) -> Self {
        let busybox = busybox(&cache(), &mut say).unwrap_or_else(|e| panic!("{e}"));
        let mut archive = Archive::new();
        archive.file("bin/busybox", &read(&busybox));
        let init = format!("{PREFACE}{script}{EPILOGUE}");
        archive.file("init", init.as_bytes());
        Self { archive }
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        self.archive.file(name, content);
        self
    }

    /// Adds a program of a Debian package, such as `usr/bin/fio` of `fio`, and the libraries it needs, which are in `libraries`
    /// (packages as well; `libc6` need not be named).
    #[must_use]
    pub fn program(mut self, package: &str, path: &str, libraries: &[&str]) -> Self {
        let program = package_file(package, path);
        self.archive.file(path, &read(&program));
        let libc = package_folder("libc6");
        self.archive.file(LOADER, &read(&libc.join(LOADER)));
        let libraries = libraries.iter().map(|name| package_folder(name));
        let folders: Vec<PathBuf> = [libc.clone(), package_folder(package)]
            .into_iter()
            .chain(libraries)
            .flat_map(|root| LIBRARY_FOLDERS.map(|folder| root.join(folder)))
            .collect();
        self.libraries(&needed(&libc.join(LOADER), &program, &folders));
        self
    }

    /// Adds all files of a package in and below a folder, links as what they lead to.
    #[must_use]
    pub fn folder(mut self, package: &str, path: &str) -> Self {
        let root = package_folder(package);
        let mut folders = vec![root.join(path)];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).expect("a package has what it has");
            for entry in entries.flatten().map(|entry| entry.path()) {
                let name = entry.strip_prefix(&root).expect("it lies in there");
                if entry.is_dir() {
                    folders.push(entry);
                } else if entry.is_file() {
                    self.archive.file(&name.to_string_lossy(), &read(&entry));
                }
            }
        }
        self
    }

    /// Adds a program that cargo built here, as `bin/NAME`, and what it needs of this machine's libraries.
    #[must_use]
    pub fn own_program(mut self, program: &Path) -> Self {
        let name = program.file_name().expect("a program is a file");
        let name = format!("bin/{}", name.to_string_lossy());
        self.archive.file(&name, &read(program));
        let loader = Path::new("/").join(LOADER);
        self.archive.file(LOADER, &read(&loader));
        self.libraries(&needed(&loader, program, &[]));
        self
    }

    /// Returns the archive, to put more into.
    pub(crate) fn archive(&mut self) -> &mut Archive {
        &mut self.archive
    }

    fn libraries(&mut self, libraries: &[PathBuf]) {
        for library in libraries {
            let name = library.file_name().expect("a library is a file");
            let name = format!("{}/{}", LIBRARY_FOLDERS[0], name.to_string_lossy());
            self.archive.file(&name, &read(library));
        }
    }

    /// Writes it into a folder and returns its path.
    #[must_use]
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("initrd.cpio");
        let bytes = self.archive.to_bytes().expect("files of less than 4 GiB");
        fs::write(&path, bytes).expect("the folder is writable");
        path
    }
}

/// Returns a file of a Debian package, which is fetched if need be.
#[must_use]
pub fn package_file(package: &str, path: &str) -> PathBuf {
    let file = package_folder(package).join(path);
    assert!(file.exists(), "{package} has no {path}");
    file
}

fn package_folder(name: &str) -> PathBuf {
    package(&cache(), name, &mut say).unwrap_or_else(|e| panic!("{e}"))
}

/// Asks a loader which libraries it would load: from these folders only, if there are any.
fn needed(loader: &Path, program: &Path, folders: &[PathBuf]) -> Vec<PathBuf> {
    let path: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    let mut command = Command::new(loader);
    if !path.is_empty() {
        command.arg("--library-path").arg(path.join(":"));
    }
    let output = command
        .arg("--list")
        .arg(program)
        .output()
        .expect("the loader is a program");
    let text = String::from_utf8_lossy(&output.stdout);
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let all = String::from_utf8_lossy(&all);
    assert!(
        output.status.success() && !all.contains("not found"),
        "{all}"
    );
    // Lines such as `libnuma.so.1 => FOLDER/libnuma.so.1 (0x…)`; the kernel's own and the loader have no such file.
    let libraries = text.lines().filter_map(|line| {
        let (_, place) = line.split_once(" => ")?;
        Some(PathBuf::from(place.split(" (").next()?))
    });
    libraries.filter(|library| library.is_file()).collect()
}

fn cache() -> Cache {
    Cache::open().expect("the workspace is where this was built")
}

fn say(words: &str) {
    eprintln!("rig: {words}");
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
