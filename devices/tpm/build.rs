//! Says where the static libraries are, and which two of their functions are ours to answer.

use std::env;
use std::path::PathBuf;

/// Where the distribution installs them.
const INSTALLED: &str = "/usr/lib/x86_64-linux-gnu";
const ARCHIVES: [&str; 2] = ["libtpms.a", "libcrypto.a"];

/// TPM 1.2, in whose place the library has something that refuses. And the registration of unwind tables, which are not
/// loaded: the program aborts where others unwind.
const LEFT_OUT: [&str; 7] = [
    "--undefined=DisabledInterface",
    "--wrap=TPM12Interface",
    "--defsym=__wrap_TPM12Interface=DisabledInterface",
    "--wrap=__register_frame_info",
    "--defsym=__wrap___register_frame_info=0",
    "--wrap=__deregister_frame_info",
    "--defsym=__wrap___deregister_frame_info=0",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=STOCKADE_TPM_LIBRARIES");
    println!("cargo::rerun-if-env-changed=STOCKADE_TPM_ARCHIVES");
    if env::var_os("CARGO_FEATURE_LIBTPMS").is_none() {
        return;
    }
    let named = env::var_os("STOCKADE_TPM_ARCHIVES").unwrap_or_else(|| INSTALLED.into());
    let folders: Vec<PathBuf> = env::split_paths(&named).collect();
    for archive in ARCHIVES {
        if !folders.iter().any(|folder| folder.join(archive).is_file()) {
            println!(
                "cargo::error={archive} is missing; run: apt-get install libtpms-dev libssl-dev"
            );
        }
    }
    for folder in folders {
        println!("cargo::rustc-link-search=native={}", folder.display());
    }
    // How a long command learns that it was cancelled: `src/foreign/cancel.rs`.
    for function in ["_plat__IsCanceled", "RSA_generate_key_ex"] {
        println!("cargo::rustc-link-arg=-Wl,--wrap={function}");
    }
    for argument in LEFT_OUT {
        println!("cargo::rustc-link-arg=-Wl,{argument}");
    }
}
