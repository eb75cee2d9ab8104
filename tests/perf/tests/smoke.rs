//! The program runs and its cheap table keeps the promises; the others are for people, for they take minutes.

use std::process::Command;

#[test]
fn the_footprint_is_within_its_limits() {
    let output = Command::new(env!("CARGO_BIN_EXE_stockade-perf"))
        .args(["--only", "footprint"])
        .output()
        .expect("cargo built it");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for limit in ["of 1048576 |", "of 8388608 |"] {
        let line = text.lines().find(|line| line.ends_with(limit));
        let line = line.unwrap_or_else(|| unreachable!("no {limit} in {text}"));
        let numbers: Vec<u64> = line
            .split([' ', '|'])
            .filter_map(|word| word.parse().ok())
            .collect();
        assert!(numbers[0] <= numbers[1], "{line}");
    }
    assert!(
        text.contains("| page tables (measured) pages | 4 |"),
        "{text}"
    );
}
