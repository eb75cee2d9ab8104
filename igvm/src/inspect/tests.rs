use super::*;
use crate::image::tests as images;

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
