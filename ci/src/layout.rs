//! The top level is fixed.

use std::fs;
use std::path::Path;

const TOP_LEVEL: [&str; 15] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "apic",
    "boot",
    "ci",
    "devices",
    "docs",
    "igvm",
    "intercept",
    "paravisor",
    "target",
    "tests",
];

/// Returns everything at the top level that does not belong there.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else {
        return vec![format!("{} cannot be read", root.display())];
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .map(|name| format!("{name} does not belong at the top level"))
        .collect()
}
