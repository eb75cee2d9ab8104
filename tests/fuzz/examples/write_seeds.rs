//! Writes each target's seeds below a folder, as libFuzzer wants a corpus: `TARGET/NUMBER`.

use std::path::Path;
use std::{env, fs, io};

use stockade_fuzz::{TARGETS, corpus};

fn main() -> io::Result<()> {
    let folder = env::args().nth(1).unwrap_or_else(|| "corpus".into());
    for target in TARGETS {
        let folder = Path::new(&folder).join(target.name);
        fs::create_dir_all(&folder)?;
        let kept = corpus::kept(target.name);
        for (number, seed) in (target.seeds)().iter().chain(&kept).enumerate() {
            fs::write(folder.join(number.to_string()), seed)?;
        }
    }
    Ok(())
}
