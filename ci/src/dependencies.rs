//! What the paravisor is linked from: exactly what `ci/dependencies.toml` lists, each with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

const PARAVISOR: &str = "stockade-paravisor";

#[derive(Deserialize)]
struct List {
    /// Crate name to the reason it is trusted.
    trusted: BTreeMap<String, String>,
    /// Crates that run at build time only.
    build: BTreeMap<String, String>,
}

/// Returns every difference between the list and what cargo resolves.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let path = root.join("ci/dependencies.toml");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let list: List = match toml::from_str(&text) {
        Ok(list) => list,
        Err(error) => return vec![format!("ci/dependencies.toml: {error}")],
    };
    match linked(root) {
        Ok(linked) => compare(&list, &linked),
        Err(error) => vec![format!("cargo tree: {error}")],
    }
}

fn compare(list: &List, linked: &BTreeSet<String>) -> Vec<String> {
    let listed: BTreeSet<String> = list
        .trusted
        .keys()
        .chain(list.build.keys())
        .cloned()
        .collect();
    let unlisted = linked
        .difference(&listed)
        .map(|name| format!("{name} is linked into the paravisor but not in ci/dependencies.toml"));
    let stale = listed
        .difference(linked)
        .map(|name| format!("{name} is in ci/dependencies.toml but not linked"));
    let unreasoned = list
        .trusted
        .iter()
        .chain(&list.build)
        .filter(|(_, reason)| reason.trim().len() < 10)
        .map(|(name, _)| format!("{name} has no reason in ci/dependencies.toml"));
    unlisted.chain(stale).chain(unreasoned).collect()
}

/// Returns the names of all crates from outside that the paravisor's image is built with.
fn linked(root: &Path) -> Result<BTreeSet<String>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args(["tree", "--package", PARAVISOR, "--features", "image"])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !name.starts_with("stockade"))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::{List, compare};
    use std::collections::BTreeSet;

    #[test]
    fn unlisted_stale_and_unreasoned_crates_are_offences() {
        let list: List =
            toml::from_str("[trusted]\na = 'long enough reason'\nb = ''\n[build]\n").unwrap();
        let linked: BTreeSet<String> = ["b", "c"].map(str::to_owned).into();
        let offences = compare(&list, &linked).join("\n");
        assert!(offences.contains("c is linked"));
        assert!(offences.contains("a is in"));
        assert!(offences.contains("b has no reason"));
    }
}
