//! A confidential image: the paravisor, measured, and its payload, staged.

use sha2::{Digest, Sha384};
use stockade_abi::vmsa::SevFeatures;
use stockade_boot::format;
use stockade_boot::launch::{Encryption, LaunchState, TableState};
use stockade_boot::layout::{self, LARGE_PAGE_SIZE, PAGE_SIZE, paravisor};
use stockade_boot::manifest::{
    Devices, DiskMode, GuestFlags, Manifest, ModuleLimits, Payload, PayloadKind, Sealing,
};
use stockade_storage::store::format::USUAL_AREA_BLOCKS;
use zerocopy::IntoBytes;

use super::elf::Paravisor;
use super::error::ImageError;
use super::file::Image;
use super::firmware_file::Firmware;
use super::id_block::Identity;
use super::kernel_file::Module;
use super::page_tables;
use super::pages::{PAGE_BYTES, Pages};
use super::parts::{Directives, PageKind};
use super::vmsa::vmsa;
use crate::measure::launch_digest;

/// SMT allowed, no debugging, no migration agent, any firmware version (SNP firmware ABI, table 9; bit 17 must be 1).
pub const DEFAULT_POLICY: u64 = 0x3_0000;

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The paravisor's ELF file.
    pub paravisor: Vec<u8>,
    /// The guest's kernel: a bzImage, a multiboot image or a PVH ELF file; empty if firmware starts the guest.
    pub kernel: Vec<u8>,
    /// The firmware that starts the guest in place of a kernel.
    pub firmware: Option<Firmware>,
    /// The guest's initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// Modules of a multiboot or PVH kernel, before the initrd.
    pub modules: Vec<Module>,
    /// Programs the paravisor runs beside the guest.
    pub paravisor_modules: Vec<Module>,
    /// What each of them may use.
    pub module_limits: ModuleLimits,
    /// The kernel's command line.
    pub command_line: String,
    /// The most vCPUs a host may start the guest with.
    pub max_vcpus: u32,
    /// Options of the guest's machine.
    pub flags: GuestFlags,
    /// The host's devices the guest gets.
    pub devices: Devices,
    /// What sealed disks and records are bound to.
    pub sealing: Sealing,
    /// Who signs the image, if somebody does.
    pub identity: Option<Identity>,
    /// The guest policy the PSP enforces.
    pub policy: u64,
    /// The C-bit's position.
    pub c_bit: u32,
}

impl BuildOptions {
    /// Returns the defaults around the paravisor and firmware.
    #[must_use]
    pub fn with_firmware(paravisor: Vec<u8>, firmware: Firmware) -> Self {
        Self {
            firmware: Some(firmware),
            ..Self::new(paravisor, Vec::new())
        }
    }

    /// Returns the defaults around these two files.
    #[must_use]
    pub fn new(paravisor: Vec<u8>, kernel: Vec<u8>) -> Self {
        Self {
            paravisor,
            kernel,
            firmware: None,
            initrd: None,
            modules: Vec::new(),
            paravisor_modules: Vec::new(),
            module_limits: ModuleLimits::default(),
            command_line: String::new(),
            max_vcpus: 1,
            flags: GuestFlags::VMWARE_IDENTITY,
            devices: Devices::default(),
            sealing: Sealing::to_image(),
            identity: None,
            policy: DEFAULT_POLICY,
            c_bit: layout::C_BIT,
        }
    }
}

/// Returns the image as an IGVM file. The same options give the same bytes.
///
/// Order of launch, which is the order of measurement: page tables, CPUID, secrets, manifest, parameters, the paravisor's
/// pages by address, the payload (shared, in no measurement), the VMSA. KVM measures VMSAs after everything else whatever the
/// file says, so putting it last gives one digest on all hosts.
pub fn build(options: &BuildOptions) -> Result<Vec<u8>, ImageError> {
    match &options.firmware {
        Some(firmware) => firmware.check()?,
        None => format::check(&options.kernel).map(|_| ())?,
    }
    let program = Paravisor::parse(&options.paravisor)?;
    let staged = stage(options)?;
    let manifest = manifest(options, &staged)?;

    let mut launch = Directives::default();
    require_memory(&mut launch, &manifest);
    let tables = page_tables::tables(options.c_bit, &program.segments);
    measured(&mut launch, tables);
    launch.cpuid_page(paravisor::CPUID_PAGE);
    launch.secrets_page(paravisor::SECRETS_PAGE);
    let mut page = Pages::default();
    page.put(paravisor::MANIFEST_PAGE, manifest.as_bytes());
    measured(&mut launch, page);
    launch.parameters(
        paravisor::PARAMETERS_PAGE,
        constant(paravisor::PARAMETERS_VCPU_COUNT),
        constant(paravisor::PARAMETERS_MEMORY_MAP),
    );
    measured(&mut launch, program.pages);
    share(&mut launch, staged, options.devices.bounce_bytes());
    launch.vcpu(vmsa(
        &launch_state(program.entry, options.c_bit),
        paravisor_features(),
    ));
    match &options.identity {
        None => launch.into_file(options.policy),
        Some(identity) => sign(launch, identity, options.policy),
    }
}

fn manifest(options: &BuildOptions, staged: &[Staged]) -> Result<Manifest, ImageError> {
    let files: Vec<Payload> = staged.iter().map(|file| file.payload).collect();
    let manifest = Manifest::new(options.c_bit, options.max_vcpus, options.flags, &files)?
        .with_devices(options.devices)
        .with_sealing(options.sealing)
        .try_with_extra_memory(extra_memory(options))?
        .with_module_limits(options.module_limits)?;
    Ok(manifest)
}

/// Says what memory must be there at the launch: the paravisor's, its modules', what firmware lies in.
fn require_memory(launch: &mut Directives, manifest: &Manifest) {
    launch.required_memory(
        paravisor::BASE,
        constant(paravisor::SIZE + manifest.extra_bytes()),
    );
    if manifest.module_memory_bytes() != 0 {
        let bytes = constant(manifest.module_memory_bytes());
        launch.required_memory(layout::MODULES_BASE, bytes);
    }
    if let Some(range) = manifest.rom_range() {
        launch.required_memory(range.start, constant(range.end - range.start));
    }
}

/// Puts in what the host may see: the files, and the pages devices go through.
fn share(launch: &mut Directives, staged: Vec<Staged>, bounce_bytes: u64) {
    for file in staged {
        for (index, page) in file.bytes.chunks(PAGE_BYTES).enumerate() {
            let gpa = file.payload.gpa.get() + index as u64 * PAGE_SIZE;
            launch.page(gpa, PageKind::Shared, page.to_vec());
        }
    }
    let bounce = layout::BOUNCE_BASE..layout::BOUNCE_BASE + bounce_bytes;
    for gpa in bounce.step_by(PAGE_BYTES) {
        launch.page(gpa, PageKind::Shared, Vec::new());
    }
}

/// Signs an image. The block is in no measurement, so the image is whole without it.
fn sign(mut launch: Directives, identity: &Identity, policy: u64) -> Result<Vec<u8>, ImageError> {
    let whole = launch.clone().into_file(policy)?;
    let digest = launch_digest(&Image::parse("the image", &whole)?);
    launch.identity(identity.directive(digest.0, policy));
    launch.into_file(policy)
}

/// Returns how many bytes the paravisor needs for these devices beyond its first, which have room for two sealed disks.
fn extra_memory(options: &BuildOptions) -> u32 {
    const FIRST: u64 = 2 << 20;
    /// A store has three areas in memory: all records, the changes that wait, the entry being written.
    const STORE: u64 = 3 * USUAL_AREA_BLOCKS as u64 * PAGE_SIZE + (256 << 10);
    let devices = &options.devices;
    let sealed = devices
        .disks()
        .filter(|disk| disk.mode() == DiskMode::SEALED)
        .count();
    let plain = devices.disks().count() - sealed;
    let stores = devices.store().iter().count();
    let firmware = options.firmware.as_ref();
    let flash = firmware.and_then(|firmware| firmware.variables.as_ref());
    let bytes = ((sealed as u64) << 20)
        + ((plain as u64) << 18)
        + stores as u64 * STORE
        // The template goes when the chip is made of it.
        + 2 * flash.map_or(0, |variables| variables.len() as u64);
    let extra = bytes.saturating_sub(FIRST);
    constant(extra.next_multiple_of(LARGE_PAGE_SIZE))
}

/// A payload file and where it is staged.
struct Staged<'a> {
    payload: Payload,
    bytes: &'a [u8],
}

fn stage(options: &BuildOptions) -> Result<Vec<Staged<'_>>, ImageError> {
    let all = || options.modules.iter().chain(&options.paravisor_modules);
    let mut texts = all().map(|module| &module.command_line);
    if options.command_line.contains('\0') || texts.any(|text| text.contains('\0')) {
        return Err(ImageError::CommandLineNul);
    }
    let modules = with_words(&options.modules, PayloadKind::MODULE);
    let own = with_words(&options.paravisor_modules, PayloadKind::PARAVISOR_MODULE);
    let initrd = options.initrd.as_deref().unwrap_or_default();
    let kernel = options.kernel.as_slice();
    let kernel = options.firmware.is_none().then_some(kernel);
    let files = kernel
        .map(|kernel| (PayloadKind::KERNEL, kernel))
        .into_iter()
        .chain(options.firmware.iter().flat_map(Firmware::files))
        .chain(modules)
        .chain(own)
        .chain([
            (PayloadKind::INITRD, initrd),
            (PayloadKind::COMMAND_LINE, options.command_line.as_bytes()),
        ]);
    let mut gpa = layout::STAGING_BASE;
    let mut staged = Vec::new();
    // Only what may be missing is left out.
    let may_be_empty = |kind| {
        matches!(
            kind,
            PayloadKind::INITRD | PayloadKind::COMMAND_LINE | PayloadKind::MODULE_COMMAND_LINE
        )
    };
    for (kind, bytes) in files.filter(|(kind, bytes)| !may_be_empty(*kind) || !bytes.is_empty()) {
        let len_bytes = bytes.len() as u64;
        let payload = Payload::new(kind, gpa, len_bytes, Sha384::digest(bytes).into());
        staged.push(Staged { payload, bytes });
        gpa += len_bytes.next_multiple_of(PAGE_SIZE);
    }
    if gpa > layout::STAGING_END {
        return Err(ImageError::PayloadTooLarge {
            bytes: gpa - layout::STAGING_BASE,
        });
    }
    Ok(staged)
}

/// Modules as files, each with its command line behind it.
fn with_words(modules: &[Module], kind: PayloadKind) -> impl Iterator<Item = (PayloadKind, &[u8])> {
    modules.iter().flat_map(move |module| {
        let words = module.command_line.as_bytes();
        [
            (kind, module.content.as_slice()),
            (PayloadKind::MODULE_COMMAND_LINE, words),
        ]
    })
}

fn measured(launch: &mut Directives, pages: Pages) {
    for (gpa, data) in pages {
        launch.page(gpa, PageKind::Measured, data);
    }
}

/// The state `docs/architecture.md` promises to the paravisor's first instruction.
fn launch_state(entry: u64, c_bit: u32) -> LaunchState {
    LaunchState {
        rsp: paravisor::STACK_TOP,
        cr3: paravisor::PML4 | 1 << c_bit,
        gdtr: TableState { base: 0, limit: 0 },
        ..LaunchState::new_64_bit(entry, 0, Encryption::CBit(c_bit))
    }
}

fn paravisor_features() -> SevFeatures {
    SevFeatures::SNP_ACTIVE | SevFeatures::RESTRICTED_INJECTION | SevFeatures::DEBUG_SWAP
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "constants of the layout below 4 GiB"
)]
const fn constant(value: u64) -> u32 {
    value as u32
}
