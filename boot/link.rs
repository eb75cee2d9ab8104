//! Links a bare-metal program: static, without libc or start files, by the script of its own package.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=linker.ld");
    let Some(folder) = env::var_os("CARGO_MANIFEST_DIR") else {
        println!("cargo::error=cargo names no manifest folder");
        return;
    };
    let script = PathBuf::from(folder).join("linker.ld");
    let arguments = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,noexecstack",
        "-Wl,-z,norelro",
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
}
