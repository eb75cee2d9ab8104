//! Where fetched and made files lie: under the workspace's `target/`.

use std::fs;
use std::path::{Path, PathBuf};

use super::SetupError;

/// The workspace this program was built from, and its cache.
#[derive(Clone, Debug)]
pub struct Cache {
    workspace: PathBuf,
    target: PathBuf,
}

impl Cache {
    /// Opens the cache of the workspace this program was built in, or of `STOCKADE_WORKSPACE`.
    pub fn open() -> Result<Self, SetupError> {
        let workspace = std::env::var_os("STOCKADE_WORKSPACE").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".."),
            PathBuf::from,
        );
        let workspace = workspace
            .canonicalize()
            .map_err(SetupError::io(&workspace))?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace.join("target"), PathBuf::from);
        Ok(Self { workspace, target })
    }

    /// Returns the workspace's root folder.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Returns cargo's target folder.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Returns a folder of the cache, made if need be.
    pub fn folder(&self, name: &str) -> Result<PathBuf, SetupError> {
        let folder = self.target.join("stockade").join(name);
        fs::create_dir_all(&folder).map_err(SetupError::io(&folder))?;
        Ok(folder)
    }
}
