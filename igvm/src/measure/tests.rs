//! The digest against two programs that we did not write: the crate `igvm`'s own and PyPI's `sev-snp-measure`.

use igvm::IgvmFile;
use igvm::measurement::generate_snp_measurement;

use super::*;
use crate::image::{EnlightenedOptions, build, enlightened, tests as images};

#[test]
fn digest_agrees_with_the_igvm_crate() {
    let bytes = build(&images::options()).unwrap();
    let file = IgvmFile::new_from_binary(&bytes, None).unwrap();
    let theirs = generate_snp_measurement(file.initializations(), file.directives(), 1).unwrap();
    assert_eq!(launch_digest(&images::image()), LaunchDigest(theirs));
}

#[test]
fn payload_is_in_the_digest_by_the_manifest_only() {
    let mut options = images::options();
    let before = launch_digest(&Image::parse("x", &build(&options).unwrap()).unwrap());
    options.kernel.push(0);
    let after = launch_digest(&Image::parse("x", &build(&options).unwrap()).unwrap());
    assert_ne!(before, after);
    let measurement = measure(&images::image());
    // Four tables, the manifest, three pages of paravisor, the VMSA; and CPUID, secrets, parameters.
    assert_eq!(
        (measurement.measured_pages, measurement.launched_pages),
        (9, 12)
    );
}

#[test]
fn large_page_counts_as_small_ones() {
    let options = EnlightenedOptions::new(images::kernel_file(), 64 << 20);
    let image = Image::parse("x", &enlightened(&options).unwrap()).unwrap();
    assert_eq!(measure(&image).launched_pages, (64 << 20) / 4096 + 1);
}

/// The expected value is what `sev-snp-measure` 0.0.13 (its `GCTX`) computes for the same pages.
#[test]
fn chain_agrees_with_sev_snp_measure() {
    let pages: [(u64, PageType, &[u8]); 6] = [
        (0x80_0000_1000, PageType::Normal, &[0x5A; 4096]),
        (0x80_0000_5000, PageType::Cpuid, &[9]),
        (0x80_0000_6000, PageType::Secrets, &[]),
        (0x80_0000_8000, PageType::Unmeasured, &[8]),
        (0x80_0001_0000, PageType::Normal, &[1, 2, 3]),
        (0xFFFF_FFFF_F000, PageType::Vmsa, &[0x33; 4096]),
    ];
    let mut chain = Chain::default();
    for (gpa, page_type, content) in pages {
        chain.extend(LaunchedPage {
            gpa,
            page_type,
            content,
        });
    }
    assert_eq!(
        LaunchDigest(chain.digest).to_string(),
        "d07838405d7ddc4f14011455fb392d6c2296148be49af6df47d643626fe8655c\
         98bad9251fe28bc9a8e2b5d9126130d5"
    );
}
