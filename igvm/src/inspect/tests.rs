use super::*;
use crate::image::{Module, build, tests as images};
use stockade_boot::manifest::ModuleLimits;

#[test]
fn description_names_what_a_reviewer_looks_for() {
    let text = describe(&images::image());
    for line in [
        "platform       SEV-SNP, version 1",
        "shared from    0x8000000000000",
        "policy         0x30000: firmware 0.0 or newer, SMT allowed",
        "needs memory   0x8000000000..0x8000800000",
        "  0x0000008000001000..0x0000008000005000       4 x 4K  measured",
        "  0x0000008000005000..0x0000008000006000       1 x 4K  cpuid",
        "  0x0000008000006000..0x0000008000007000       1 x 4K  secrets",
        "  0x0000008000008000..0x0000008000009000       1 x 4K  unmeasured (parameters from the host)",
        "  0x0000008000010000..0x0000008000013000       3 x 4K  measured",
        "  0x0000008040000000..0x0000008040006000       6 x 4K  shared (staged files, not launched)",
        "  0x0000fffffffff000..0x0001000000000000       1 x 4K  vmsa",
        "  C-bit 51, up to 4 vCPUs",
        "  options: vmware_identity",
        "  features       0x29: snp_active, restricted_injection, debug_swap",
        "  rip            0x8000010010",
        "  cr3            0x8008000001000",
        "launched       12 pages, 9 of them measured with their content",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} is not in:\n{text}"
        );
    }
    assert!(text.contains("  initrd at 0x8040003000, 6145 bytes, SHA-384 "));
}

#[test]
fn description_is_stable() {
    assert_eq!(describe(&images::image()), describe(&images::image()));
}

/// A module's words say what it is made of, and a kernel's what it is told; whoever changes them in the file is not believed.
#[test]
fn words_are_shown_on_one_line_each_if_they_are_those_of_the_manifest() {
    let mut options = images::options();
    options.paravisor_modules = vec![Module {
        content: vec![1; 0x1001],
        command_line: "engine from=a,sha256:0\n  signed: b".into(),
    }];
    options.module_limits = ModuleLimits::new(8, 300);
    let bytes = build(&options).unwrap();
    let shown = |bytes: &[u8]| describe(&Image::parse("test", bytes).unwrap());
    let line = r#"    "engine from=a,sha256:0\n  signed: b""#;
    let text = shown(&bytes);
    assert!(text.lines().any(|found| found == line), "{text}");
    assert!(text.contains("\n    \"console=ttyS0\"\n"), "{text}");
    assert!(!text.contains("is not what"), "{text}");
    let mut changed = bytes;
    let at = changed
        .windows(6)
        .position(|part| part == b"from=a")
        .unwrap();
    changed[at + 5] = b'c';
    let text = shown(&changed);
    assert_eq!(
        text.matches("    is not what its digest says\n").count(),
        1,
        "{text}"
    );
    assert!(!text.contains("from="), "{text}");
}
