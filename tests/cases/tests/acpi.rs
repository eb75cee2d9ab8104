//! The ACPI tables as the guest has them in memory, judged by Intel's own compiler.

use std::path::Path;
use std::process::Command;

use stockade_rig::{Stockade, guest};

/// Runs a tool of ACPICA in `folder`; returns all it said.
fn iasl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("iasl is missing: apt-get install acpica-tools");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {text}");
    text
}

#[test]
fn the_tables_the_guest_sees_disassemble_and_compile_without_errors() {
    let finished = Stockade::guest("stockade.mode=acpi").finish();
    finished.assert_code(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in [
        "APIC", "DSDT", "FACP", "FACS", "MCFG", "SPCR", "WAET", "WSMT",
    ] {
        let table = guest::dump(&finished.stdout, name)
            .unwrap_or_else(|| unreachable!("no {name}\n{}", finished.transcript()));
        assert_eq!(&table[..4], name.as_bytes());
        if name != "FACS" {
            let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "the checksum of {name}");
        }
        let (aml, dsl) = (format!("{name}.aml"), format!("{name}.dsl"));
        std::fs::write(folder.path().join(&aml), table).expect("it is writable");
        let text = iasl(folder.path(), &["-d", &aml]);
        assert!(
            !text.contains("Warning") && !text.contains("Error"),
            "{name}: {text}"
        );
        let text = iasl(folder.path(), &["-we", &dsl]);
        assert!(
            text.contains("0 Errors") || text.contains("Data Table compiler is not"),
            "{name}: {text}"
        );
    }
}
