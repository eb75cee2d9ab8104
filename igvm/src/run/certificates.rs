//! The certificates of the host's chip: on the model, a chain for tests.

use std::fs;
use std::path::Path;

use super::RunError;
use super::report::last_json;

const NAMES: [&str; 3] = ["ark", "ask", "vcek"];

/// Writes the three of them as the log has them; none if the model did not come to say.
pub(super) fn write(folder: &Path, model_log: &str) -> Result<(), RunError> {
    fs::create_dir_all(folder).map_err(RunError::io(folder))?;
    for (name, bytes) in NAMES.into_iter().zip(found(model_log)) {
        if let Some(bytes) = bytes {
            let path = folder.join(format!("{name}.der"));
            fs::write(&path, bytes).map_err(RunError::io(&path))?;
        }
    }
    Ok(())
}

/// Returns root, intermediate and the chip's own, if the log has all of them.
pub(super) fn read(model_log: &str) -> Option<[Vec<u8>; 3]> {
    let [ark, ask, vcek] = found(model_log);
    Some([ark?, ask?, vcek?])
}

fn found(model_log: &str) -> [Option<Vec<u8>>; 3] {
    let chain = last_json(model_log, "model-certificates: ");
    NAMES.map(|name| hex::decode(chain.get(name)?.as_str()?).ok())
}

#[cfg(test)]
mod tests {
    use super::write;

    #[test]
    fn certificates_are_files_of_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("new");
        let log = "model-certificates: {\"ark\":\"00ff\",\"ask\":\"1\",\"vcek\":\"7f\"}\n";
        write(&inner, log).unwrap();
        assert_eq!(std::fs::read(inner.join("ark.der")).unwrap(), [0, 255]);
        assert_eq!(std::fs::read(inner.join("vcek.der")).unwrap(), [127]);
        assert!(!inner.join("ask.der").exists());
    }
}
