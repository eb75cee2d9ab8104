//! Kernel modules for an initramfs: those asked for and what they depend on, with the lists `modprobe` goes by.
//!
//! The package of a kernel comes without these lists (they are made at installation), so dependencies and aliases are read from
//! the modules themselves: each says both in its section `.modinfo`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object, ObjectSection};

use super::{Archive, SetupError};

/// Drivers a guest of this machine may need, loaded when their device is there.
pub(super) const DRIVERS: [&str; 8] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_console",
    "ext4",
    "crc32c_intel",
    "af_packet",
];

/// The modules that belong to a kernel.
#[derive(Clone, Debug)]
pub struct Modules {
    release: String,
    files: BTreeMap<String, PathBuf>,
}

/// A module as it goes into an initramfs.
struct Module {
    content: Vec<u8>,
    depends: Vec<String>,
    aliases: Vec<String>,
}

impl Modules {
    /// Returns the modules of a kernel file by its place: those of `boot/vmlinuz-RELEASE` are in `lib/modules/RELEASE`. `None` if
    /// there are none.
    #[must_use]
    pub fn of_kernel(kernel: &Path) -> Option<Self> {
        let release = kernel.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
        let root = kernel.parent()?.parent()?;
        let folder = root.join("lib/modules").join(release);
        let mut files = BTreeMap::new();
        collect(&folder, &mut files);
        (!files.is_empty()).then(|| Self {
            release: release.to_owned(),
            files,
        })
    }

    /// Returns the release of their kernel.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Adds the modules `names` and what they depend on to `archive`. What the kernel has built in, or was built without, is no file and
    /// is left out.
    pub fn add_to(&self, archive: &mut Archive, names: &[&str]) -> Result<(), SetupError> {
        let modules = self.closure(names)?;
        let folder = format!("lib/modules/{}", self.release);
        let (mut dependencies, mut aliases) = (String::new(), String::new());
        for (name, module) in &modules {
            archive.file(&format!("{folder}/{name}.ko"), &module.content);
            // A `String` takes everything.
            let _ = writeln!(dependencies, "{name}.ko:{}", after(name, &modules));
            for alias in &module.aliases {
                let _ = writeln!(aliases, "alias {alias} {name}");
            }
        }
        archive.file(&format!("{folder}/modules.dep"), dependencies.as_bytes());
        archive.file(&format!("{folder}/modules.alias"), aliases.as_bytes());
        Ok(())
    }

    /// Reads the modules, those they depend on, those they depend on and so on.
    fn closure(&self, names: &[&str]) -> Result<BTreeMap<String, Module>, SetupError> {
        let mut modules = BTreeMap::new();
        let mut wanted: Vec<String> = names.iter().map(|name| canonical(name)).collect();
        while let Some(name) = wanted.pop() {
            let Some(path) = self.files.get(&name) else {
                continue;
            };
            if let Entry::Vacant(entry) = modules.entry(name) {
                let module = entry.insert(Module::read(path)?);
                wanted.extend_from_slice(&module.depends);
            }
        }
        Ok(modules)
    }
}

/// Returns all that must be loaded before a module, the first to load last, each after a blank: what `modules.dep` wants.
fn after(name: &str, modules: &BTreeMap<String, Module>) -> String {
    let (mut seen, mut done) = (BTreeSet::new(), Vec::new());
    visit(name, modules, &mut seen, &mut done);
    let earlier = done.iter().rev().skip(1);
    earlier.fold(String::new(), |mut line, name| {
        let _ = write!(line, " {name}.ko");
        line
    })
}

/// Appends what a module depends on, then the module itself.
fn visit<'a>(
    name: &'a str,
    modules: &'a BTreeMap<String, Module>,
    seen: &mut BTreeSet<&'a str>,
    done: &mut Vec<&'a str>,
) {
    let Some(module) = modules.get(name).filter(|_| seen.insert(name)) else {
        return;
    };
    for depends in &module.depends {
        visit(depends, modules, seen, done);
    }
    done.push(name);
}

impl Module {
    fn read(path: &Path) -> Result<Self, SetupError> {
        let content = if path.extension().is_some_and(|extension| extension == "xz") {
            unpacked(path)?
        } else {
            fs::read(path).map_err(SetupError::io(path))?
        };
        let info = information(&content).ok_or_else(|| {
            let error = std::io::Error::other("is no kernel module");
            SetupError::io(path)(error)
        })?;
        let values = |key: &str| -> Vec<&str> {
            info.iter()
                .filter_map(|entry| entry.strip_prefix(key)?.strip_prefix('='))
                .collect()
        };
        Ok(Self {
            depends: values("depends")
                .iter()
                .flat_map(|names| names.split(','))
                .filter(|name| !name.is_empty())
                .map(canonical)
                .collect(),
            aliases: values("alias").into_iter().map(str::to_owned).collect(),
            content,
        })
    }
}

/// The entries of `.modinfo`, each `key=value`.
fn information(content: &[u8]) -> Option<Vec<String>> {
    let file = object::File::parse(content).ok()?;
    let section = file.section_by_name(".modinfo")?.data().ok()?;
    let entries = section.split(|byte| *byte == 0);
    let text = |entry: &[u8]| String::from_utf8_lossy(entry).into_owned();
    Some(entries.filter(|e| !e.is_empty()).map(text).collect())
}

/// Newer distributions compress modules; a small first process cannot.
fn unpacked(path: &Path) -> Result<Vec<u8>, SetupError> {
    let output = Command::new("xz")
        .arg("--decompress")
        .arg("--stdout")
        .arg(path)
        .stderr(Stdio::null())
        .output();
    let output = output.map_err(SetupError::io("xz"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let error = std::io::Error::other("xz cannot unpack it");
        Err(SetupError::io(path)(error))
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
}

fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let plain = name.strip_suffix(".xz").unwrap_or(name);
    plain.strip_suffix(".ko").map(canonical)
}

/// The kernel takes a dash in a module's name for an underscore.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &[&str]) -> Module {
        Module {
            content: Vec::new(),
            depends: depends.iter().map(|name| (*name).to_owned()).collect(),
            aliases: Vec::new(),
        }
    }

    /// `modprobe` loads the list from its end.
    #[test]
    fn every_dependency_stands_behind_those_that_need_it() {
        let modules = BTreeMap::from([
            ("a".to_owned(), module(&["b", "d"])),
            ("b".to_owned(), module(&["c", "d"])),
            ("c".to_owned(), module(&["d"])),
            ("d".to_owned(), module(&["built_in"])),
        ]);
        assert_eq!(after("a", &modules), " b.ko c.ko d.ko");
        assert_eq!(after("d", &modules), "");
    }

    #[test]
    fn modules_that_depend_on_each_other_end() {
        let modules = BTreeMap::from([
            ("a".to_owned(), module(&["b"])),
            ("b".to_owned(), module(&["a"])),
        ]);
        assert_eq!(after("a", &modules), " b.ko");
    }

    #[test]
    fn kernel_without_modules_beside_it_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("boot/vmlinuz-6.1.0-1-cloud-amd64");
        assert!(Modules::of_kernel(&kernel).is_none());
        assert!(Modules::of_kernel(Path::new("/bzImage")).is_none());
    }

    #[test]
    fn module_is_found_by_either_spelling_and_must_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("boot/vmlinuz-1.2");
        let drivers = folder.path().join("lib/modules/1.2/kernel/drivers");
        fs::create_dir_all(&drivers).unwrap();
        fs::write(drivers.join("virtio-rng.ko"), b"no module").unwrap();
        let modules = Modules::of_kernel(&kernel).unwrap();
        let mut archive = Archive::new();
        assert!(modules.add_to(&mut archive, &["ext4"]).is_ok(), "built in");
        assert!(modules.add_to(&mut archive, &["virtio_rng"]).is_err());
    }
}
