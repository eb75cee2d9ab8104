//! Everything the tests run, made once for each test program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use stockade::setup::{Cache, Program, build_program, default_initramfs, kernel};

/// The command, the bare-metal programs and the guest's files.
#[derive(Debug)]
pub struct Workshop {
    /// The command `stockade`, as `cargo run --release` runs it.
    pub stockade: PathBuf,
    /// The paravisor's ELF file.
    pub paravisor: PathBuf,
    /// The model's ELF file.
    pub model: PathBuf,
    /// The distribution's kernel.
    pub kernel: PathBuf,
    /// The default initramfs.
    pub initramfs: PathBuf,
    /// A folder under `target/` for locks.
    pub(crate) locks: PathBuf,
}

/// Returns the workshop, made at the first call. Test programs that start at the same time wait for each other.
pub fn workshop() -> &'static Workshop {
    static WORKSHOP: OnceLock<Workshop> = OnceLock::new();
    WORKSHOP.get_or_init(|| {
        let cache = Cache::open().expect("the workspace is where this was built");
        let locks = cache.folder("rig").expect("target/ is writable");
        let lock = File::create(locks.join("workshop.lock")).expect("target/ is writable");
        lock.lock().expect("the file system has locks");
        let made = make(&cache, locks);
        drop(lock);
        made
    })
}

fn make(cache: &Cache, locks: PathBuf) -> Workshop {
    let mut say = |words: &str| eprintln!("rig: {words}");
    let kernel = kernel(cache, &mut say).unwrap_or_else(|e| panic!("{e}"));
    Workshop {
        stockade: build_command(cache),
        paravisor: build_program(cache, Program::Paravisor).unwrap_or_else(|e| panic!("{e}")),
        model: build_program(cache, Program::Model).unwrap_or_else(|e| panic!("{e}")),
        initramfs: default_initramfs(cache, &kernel.path, &mut say)
            .unwrap_or_else(|e| panic!("{e}")),
        kernel: kernel.path,
        locks,
    }
}

/// A package's own integration tests get its program from cargo (`CARGO_BIN_EXE_…`); those of another package have to ask.
/// Cargo holds no build lock while tests run, so asking it from here is safe, and quick when nothing changed.
fn build_command(cache: &Cache) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(cache.workspace())
        .args(["build", "--quiet", "--release", "--package", "stockade"])
        .args(["--bin", "stockade", "--target-dir"])
        .arg(cache.target())
        .status()
        .expect("cargo ran this test, so it is there");
    assert!(status.success(), "the command stockade does not build");
    // Another test program may have cargo link it anew; a copy of our own stays as it is.
    let built = cache.target().join("release/stockade");
    let ours = cache.folder("rig").expect("target/ is writable");
    copy_if_changed(&built, &ours.join("stockade"))
}

fn copy_if_changed(from: &Path, to: &Path) -> PathBuf {
    let new = fs::read(from).expect("cargo built it");
    if fs::read(to).ok().as_deref() != Some(&new) {
        let part = to.with_extension("part");
        fs::copy(from, &part).expect("target/ is writable");
        fs::rename(&part, to).expect("target/ is writable");
    }
    to.to_path_buf()
}
