//! House rules, checked: where unsafe code may be, what the paravisor may be linked from, how the checkout is laid out.
//!
//! `cargo run -p stockade-ci` from the workspace root prints each offence on a line and exits 1 if there is any.

#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod dependencies;
mod layout;
mod sources;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut offences = layout::check(&root);
    offences.extend(sources::check(&root));
    offences.extend(dependencies::check(&root));
    for offence in &offences {
        println!("house rule: {offence}");
    }
    if offences.is_empty() {
        println!("house rules: all kept");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
