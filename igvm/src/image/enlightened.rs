//! An image without paravisor: a kernel that knows of SNP, at VMPL0 on its own.
//!
//! It is how the SNP model is judged by software we did not write. Everything is in guest RAM at launch, all of it validated:
//! the kernel as its boot protocol wants it, a confidential-computing blob that names its secrets and CPUID pages, and zero
//! pages for the rest. The rest is unmeasured, as nothing secret depends on such an image.

use stockade_abi::vmsa::SevFeatures;
use stockade_boot::format::FormatError;
use stockade_boot::launch::Encryption;
use stockade_boot::layout::{self, LARGE_PAGE_SIZE, PAGE_SIZE};
use stockade_boot::linux::boot_params::{CcBlob, CcSetupData};
use stockade_boot::linux::{LoadPlan, SetupHeader, Sizes};
use stockade_boot::ram::RamMap;
use zerocopy::IntoBytes;

use super::build::DEFAULT_POLICY;
use super::error::ImageError;
use super::pages::Pages;
use super::parts::{Directives, PageKind};
use super::vmsa::vmsa;

/// These lie where the memory map says "reserved", above the place of the RSDP.
const SECRETS_PAGE: u64 = layout::guest::RSDP + 0x1000;
const CPUID_PAGE: u64 = layout::guest::RSDP + 0x2000;
const CC_BLOB: u32 = 0xE_3000;
const SETUP_DATA: u64 = CC_BLOB as u64 + 0x100;
const _: () = assert!(CPUID_PAGE + PAGE_SIZE == CC_BLOB as u64);
const _: () = assert!(SETUP_DATA + PAGE_SIZE <= layout::guest::EXTENDED_START);

/// How RAM without content is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroPages {
    /// By pages of 2 MiB where they fit: a short file, and the host must split them when the guest shares part of one.
    Large,
    /// By pages of 4 KiB.
    Small,
}

/// What goes into an enlightened image.
#[derive(Clone, Debug)]
pub struct EnlightenedOptions {
    /// A bzImage with SNP guest support.
    pub kernel: Vec<u8>,
    /// The initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// The command line. The image has no ACPI tables: `acpi=off` keeps the kernel from looking for them.
    pub command_line: String,
    /// Guest RAM in bytes; the host must give the guest exactly as much.
    pub memory_bytes: u64,
    /// How RAM without content is launched.
    pub zero_pages: ZeroPages,
    /// The guest policy.
    pub policy: u64,
    /// The C-bit's position.
    pub c_bit: u32,
}

impl EnlightenedOptions {
    /// Returns the defaults around a kernel and a memory size.
    #[must_use]
    pub fn new(kernel: Vec<u8>, memory_bytes: u64) -> Self {
        Self {
            kernel,
            initrd: None,
            command_line: String::new(),
            memory_bytes,
            zero_pages: ZeroPages::Large,
            policy: DEFAULT_POLICY,
            c_bit: layout::C_BIT,
        }
    }
}

/// Returns the image as an IGVM file.
pub fn enlightened(options: &EnlightenedOptions) -> Result<Vec<u8>, ImageError> {
    let plan = plan(options)?;
    let pages = content(options, &plan);
    let mut launch = Directives::default();
    launch.cpuid_page(CPUID_PAGE);
    launch.secrets_page(SECRETS_PAGE);
    for range in RamMap::of_size(options.memory_bytes)?.ranges() {
        zero_pages(&mut launch, options.zero_pages, &pages, range);
    }
    for (gpa, data) in pages {
        launch.page(gpa, PageKind::Measured, data);
    }
    launch.vcpu(vmsa(&plan.launch_state(), SevFeatures::SNP_ACTIVE));
    launch.into_file(options.policy)
}

fn plan(options: &EnlightenedOptions) -> Result<LoadPlan, ImageError> {
    if options.command_line.contains('\0') {
        return Err(ImageError::CommandLineNul);
    }
    let sizes = Sizes {
        kernel: options.kernel.len() as u64,
        initrd: options.initrd.as_deref().unwrap_or_default().len() as u64,
        command_line: options.command_line.len() as u64,
    };
    let header = SetupHeader::parse(&options.kernel, sizes.kernel).map_err(FormatError::from)?;
    let mut plan = LoadPlan::try_new(header, sizes, RamMap::of_size(options.memory_bytes)?)?;
    plan.encryption = Encryption::CBit(options.c_bit);
    plan.setup_data = SETUP_DATA;
    Ok(plan)
}

fn content(options: &EnlightenedOptions, plan: &LoadPlan) -> Pages {
    let mut pages = Pages::default();
    for (gpa, bytes) in plan.writes(options.command_line.as_bytes()) {
        pages.put(gpa, &bytes);
    }
    let (gpa, kernel) = plan.place_kernel_chunk(0, &options.kernel);
    pages.put(gpa, kernel);
    pages.put(
        plan.initrd().start,
        options.initrd.as_deref().unwrap_or_default(),
    );
    pages.put(
        CC_BLOB.into(),
        CcBlob::new(SECRETS_PAGE, CPUID_PAGE).as_bytes(),
    );
    pages.put(SETUP_DATA, CcSetupData::new(CC_BLOB).as_bytes());
    pages
}

/// Fills a range of RAM, but for what has content, with zero pages, large where possible.
fn zero_pages(
    launch: &mut Directives,
    size: ZeroPages,
    pages: &Pages,
    range: std::ops::Range<u64>,
) {
    let mut gpa = range.start;
    while gpa < range.end {
        let large = gpa..gpa + LARGE_PAGE_SIZE;
        let is_large = size == ZeroPages::Large
            && gpa.is_multiple_of(LARGE_PAGE_SIZE)
            && large.end <= range.end
            && !pages.any_in(large.clone())
            && !large.contains(&CPUID_PAGE);
        if is_large {
            launch.large_zero_page(gpa);
            gpa = large.end;
            continue;
        }
        if !pages.contains(gpa) && ![CPUID_PAGE, SECRETS_PAGE].contains(&gpa) {
            launch.page(gpa, PageKind::Unmeasured, Vec::new());
        }
        gpa += PAGE_SIZE;
    }
}
