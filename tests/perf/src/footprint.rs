//! What a launch costs before the guest runs: pages the PSP measures, bytes of image, memory of the paravisor.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use igvm::IgvmDirectiveHeader;
use stockade::image::Image;
use stockade::measure::{measure, page_type};
use stockade_boot::layout::paravisor;
use stockade_rig::{Stockade, appended, workshop};

/// A page's header in an IGVM file.
const PAGE_HEADER: u64 = 40;
const PAGE: u64 = 0x1000;
/// What the paravisor may take.
const IMAGE_LIMIT: u64 = 1 << 20;
const MEMORY_LIMIT: u64 = 8 << 20;

/// Builds an image and counts.
pub(crate) fn table() -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("guest.igvm");
    build(&path);
    let image = Image::open(&path).expect("the image is sound");
    let (kinds, payload) = count(&image);
    let whole = std::fs::metadata(&path).expect("it is there").len();
    let ours = whole - payload * (PAGE + PAGE_HEADER);
    let measurement = measure(&image);
    let mut text = String::from("| at launch | |\n|---|---|\n");
    let mut row = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {name} | {value} |");
    };
    for (kind, pages) in kinds {
        row(&format!("{kind} pages"), pages.to_string());
    }
    row(
        "launched pages in all",
        measurement.launched_pages.to_string(),
    );
    row(
        "of them measured with their content",
        measurement.measured_pages.to_string(),
    );
    row("payload pages, shared, not launched", payload.to_string());
    row(
        "image without payload, bytes",
        format!("{ours} of {IMAGE_LIMIT}"),
    );
    row(
        "memory of the paravisor, bytes",
        format!("{} of {MEMORY_LIMIT}", paravisor::SIZE),
    );
    text
}

fn build(path: &Path) {
    Stockade::new("build")
        .arg("-o")
        .arg(path)
        .arg("--paravisor")
        .arg(&workshop().paravisor)
        .arg("--kernel")
        .arg(&workshop().kernel)
        .arg("--initrd")
        .arg(&workshop().initramfs)
        .arg("--append")
        .arg(appended("stockade.mode=check"))
        .finish()
        .assert_code(0);
}

/// Counts launched pages by what they hold, and shared ones.
fn count(image: &Image) -> (BTreeMap<String, u64>, u64) {
    let (mut kinds, mut payload) = (BTreeMap::new(), 0);
    let mut add = |kind: &str| *kinds.entry(kind.to_owned()).or_insert(0) += 1;
    for directive in image.directives() {
        match directive {
            IgvmDirectiveHeader::PageData {
                gpa,
                flags,
                data_type,
                ..
            } => match page_type(*flags, *data_type) {
                None => payload += 1,
                Some(kind) => add(&format!("{} ({kind})", part(*gpa))),
            },
            IgvmDirectiveHeader::ParameterInsert(_) => add("parameters (unmeasured)"),
            IgvmDirectiveHeader::SnpVpContext { .. } => add("save area of the first vCPU (vmsa)"),
            _ => {}
        }
    }
    (kinds, payload)
}

/// Names the part of the paravisor's memory a page belongs to.
fn part(gpa: u64) -> &'static str {
    match gpa {
        paravisor::CPUID_PAGE => "CPUID",
        paravisor::SECRETS_PAGE => "secrets",
        paravisor::MANIFEST_PAGE => "manifest",
        paravisor::PML4..paravisor::CPUID_PAGE => "page tables",
        _ => "code and data",
    }
}
