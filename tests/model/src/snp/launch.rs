//! From an IGVM file to a machine that runs: memory, the PSP's launch, the vCPUs.

use super::addr::{Gpa, LARGE_PAGE_SIZE, PAGE_SIZE, Phys};
use super::bus;
use super::cpu::Processor;
use super::devices::MachineCpuid;
use super::gpa_map::{MapError, RangeKind};
use super::memory::{Memory, PageState};
use super::report;
use super::rmp::{PageSize, Permissions, Rmp, Vmpl};
use super::vcpu::Vcpu;
use super::vm::{Host, MachineFrames, OWNER, Vm};
use crate::host::ioapic::IoApic;
use crate::host::lapic::{Role, Start};
use crate::host::loader::{HostParameters, LoadError, Target, load};
use crate::hostile::{self, Attack};
use crate::igvm_file::{self, Directive, IgvmFile, PageKind};
use crate::machine::exit::{Ending, fail};
use crate::machine::{Boot, frames, interrupts, ioapic, lapic, processor, smp};
use crate::psp::Status;
use crate::psp::chip::Chip;
use crate::psp::cpuid;
use crate::psp::launch::{Launch, PAGE_BYTES, PageType};
use crate::psp::message::GuestContext;
use crate::psp::secrets;
use alloc::vec::Vec;
use spin::Once;
use stockade_abi::cpuid_page::CpuidPage;
use stockade_abi::vmsa::{SevFeatures, Vmsa};
use zerocopy::{FromBytes, IntoBytes};

/// The machine; every processor finds it here.
pub(super) static VM: Once<Vm> = Once::new();

/// RAM ends here and goes on at 4 GiB: the PCI hole (docs/architecture.md, section 2).
const LOW_RAM_END: u64 = 0xB000_0000;
const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// Devices end here; firmware may have the rest below 4 GiB.
const PCI_HOLE_END: u64 = 0xFF00_0000;
/// The paravisor's region.
const SERVICE_BASE: u64 = 0x80_0000_0000;
const SERVICE_SIZE: u64 = 0x80_0000;
/// The staging range.
const STAGING_BASE: u64 = 0x80_4000_0000;
const STAGING_END: u64 = 0x80_8000_0000;
/// Guest RAM without `memory=`.
const DEFAULT_MEMORY: u64 = 256 << 20;
/// IGVM's policy where a file has none: debugging off, SMT allowed.
const DEFAULT_POLICY: u64 = 0x3_0000;
/// Memory the model keeps for tables when it gives the guest its RAM.
const RESERVE: u64 = 16 << 20;

/// Why a machine cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// No module.
    #[error("there is no IGVM file")]
    NoImage,
    /// The file is none.
    #[error(transparent)]
    Image(#[from] igvm_file::Error),
    /// The PSP refuses.
    #[error("launch: {0}")]
    Launch(Status),
    /// A page cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError<PageError>),
    /// Guest memory does not fit.
    #[error("guest memory at {0:#x}: {1:?}")]
    Memory(u64, MapError),
    /// More vCPUs than processors.
    #[error("{wanted} vCPUs are wanted, the machine has processors for {found}")]
    Processors {
        /// Wanted.
        wanted: u32,
        /// Found.
        found: u32,
    },
    /// Devices cannot be kept away from private memory.
    #[error(transparent)]
    Iommu(#[from] bus::AttachError),
    /// No such attack.
    #[error("no attack is called {0:?}; there are: {names}", names = hostile::Names)]
    Attack(&'static str),
    /// The VMSA's words make no sense.
    #[error("the launch VMSA is not VMPL0's")]
    NotVmpl0,
}

/// Why a page has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// No memory is there.
    #[error("there is no memory")]
    NoMemory,
    /// The file says twice what is there.
    #[error("the page is used twice")]
    Twice,
    /// The address or size is not a page's.
    #[error("it is misaligned")]
    Misaligned,
}

/// Makes the machine the boot loader's words ask for, and runs it.
pub fn start(boot: &Boot) -> ! {
    match build(boot) {
        Ok(vm) => VM.call_once(|| vm),
        Err(error) => fail(Ending::Refused, error),
    };
    start_others();
    let first = processor::get(0).unwrap_or_else(|| fail(Ending::Bug, "vCPU 0 has no processor"));
    ioapic::route(ioapic::COM1_PIN, interrupts::CONSOLE, first);
    run_here()
}

/// Has every processor run its vCPU; the PIC speaks to that of vCPU 0.
pub(super) fn start_others() {
    lapic::listen_to_pic(false);
    smp::start(run_here);
}

/// Runs this processor's vCPU.
pub(super) fn run_here() -> ! {
    let index = processor::current().index;
    lapic::listen_to_pic(index == 0);
    match (VM.get(), Processor::try_new(index)) {
        (Some(vm), Some(processor)) if index < vm.vcpu_count() => vm.run(index, processor),
        (Some(_), Some(_)) => loop {
            crate::machine::sleep::until_interrupt();
        },
        _ => fail(Ending::Bug, "no memory for a processor's structures"),
    }
}

fn build(boot: &Boot) -> Result<Vm, BootError> {
    let options = &boot.options;
    let image = IgvmFile::parse(boot.image.ok_or(BootError::NoImage)?)?;
    let vcpus = options.cpus.unwrap_or(1);
    let found = smp::runners();
    if vcpus > found {
        return Err(BootError::Processors {
            wanted: vcpus,
            found,
        });
    }
    let seed = options.seed.unwrap_or(0);
    let attack = attack(options.attack)?;
    let ram = ram_ranges(options.memory.unwrap_or(DEFAULT_MEMORY) & !(PAGE_SIZE - 1));
    let mut memory = back(&ram, &image, seed)?;
    // Without restricted injection the image is an operating system that runs at VMPL0 by itself.
    let features = launch_features(&image);
    // A paravisor speaks to its local APIC by MSRs; an operating system begins as after RESET.
    let (cpuid, apic) = if features.contains(SevFeatures::RESTRICTED_INJECTION) {
        (cpuid::Options::paravisor(vcpus), Start::X2Apic)
    } else {
        (cpuid::Options::linux(vcpus), Start::XApic)
    };
    let mut chip = Chip::new(seed);
    let keys = chip.launch_keys();
    let mut launch =
        Launch::start(image.policy.unwrap_or(DEFAULT_POLICY)).map_err(BootError::Launch)?;
    let signature = core::arch::x86_64::__cpuid(1).eax;
    let secrets = secrets::fill(&keys, signature, 0);
    let mut target = LaunchTarget {
        memory: &mut memory,
        secrets: secrets.as_bytes(),
        cpuid: &cpuid,
    };
    let parameters = HostParameters {
        vp_count: vcpus,
        memory: &ram,
        command_line: "",
    };
    let loaded = load(&image, &mut launch, &mut target, &parameters)?;
    let launched = launch
        .finish(loaded.id_block.as_ref(), [0; 32])
        .map_err(BootError::Launch)?;
    if options.certificates {
        report::print_certificates(&chip);
    }
    let host = Host {
        ioapic: IoApic::new(),
        pci: bus::attach(&mut memory)?,
        chip,
        guest: GuestContext::new(launched, keys, cpuid.clone()),
    };
    let mut states: Vec<Vcpu> = (0..vcpus)
        .map(|index| {
            Vcpu::new(
                index,
                if index == 0 {
                    Role::Boot
                } else {
                    Role::Application
                },
                apic,
            )
        })
        .collect();
    states[0].install(Vmpl::ZERO, Gpa::new(loaded.vmsa_gpa), features.bits());
    let mut vm = Vm::new(memory, host, states, cpuid);
    vm.attack_by(attack);
    vm.view = options.view;
    log::info!(
        "{vcpus} vCPUs, {} MiB of guest RAM",
        ram.iter().map(|(_, len)| len).sum::<u64>() >> 20
    );
    Ok(vm)
}

/// The attack of that name; none without a name.
pub(super) fn attack(name: Option<&'static str>) -> Result<Option<&'static dyn Attack>, BootError> {
    let find = |name| hostile::find(name).ok_or(BootError::Attack(name));
    name.map(find).transpose()
}

/// Guest RAM below and above the PCI hole.
fn ram_ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(LOW_RAM_END);
    let mut ranges = Vec::from([(0, low)]);
    if bytes > low {
        ranges.push((HIGH_RAM_START, bytes - low));
    }
    ranges
}

/// Finds memory for everything the guest may touch, and gives it its RAM.
fn back(ram: &[(u64, u64)], image: &IgvmFile<'_>, seed: u64) -> Result<Memory, BootError> {
    let mut memory = Memory::new(rmp(), OWNER, seed ^ 0x5DEE_CE66_D1CE_4E5B);
    let needed: u64 = ram.iter().map(|(_, len)| len).sum();
    if needed + RESERVE > frames::free_bytes() {
        return Err(BootError::Memory(0, MapError::OutOfMemory));
    }
    let mut add = |start, len, kind| {
        memory
            .map
            .add_blocks(Gpa::new(start), len, kind, &mut MachineFrames)
            .map_err(|error| BootError::Memory(start, error))
    };
    for (start, len) in ram {
        add(*start, *len, RangeKind::Ram)?;
    }
    add(SERVICE_BASE, service_bytes(image), RangeKind::Service)?;
    for (start, len) in required_ranges(image) {
        add(start, len, RangeKind::Service)?;
    }
    for (start, len) in staging_ranges(image) {
        add(start, len, RangeKind::Staging)?;
    }
    for directive in &image.directives {
        if let Directive::VpContext { gpa, .. } = directive
            && memory.map.translate(Gpa::new(*gpa)).is_none()
        {
            memory
                .map
                .add_page(Gpa::new(*gpa), RangeKind::Service, &mut MachineFrames)
                .map_err(|error| BootError::Memory(*gpa, error))?;
        }
    }
    memory.assign_all(RangeKind::Ram);
    memory.assign_all(RangeKind::Service);
    Ok(memory)
}

/// The least a paravisor has, or what the image asks for in its place.
fn service_bytes(image: &IgvmFile<'_>) -> u64 {
    let asked = image.directives.iter().filter_map(|directive| {
        let Directive::RequiredMemory { gpa, bytes } = directive else {
            return None;
        };
        (*gpa == SERVICE_BASE).then_some(u64::from(*bytes))
    });
    let bytes = asked.max().unwrap_or(0).max(SERVICE_SIZE);
    bytes.next_multiple_of(1 << 21)
}

/// What the image requires elsewhere: for firmware below 4 GiB, and between the paravisor and the staging range.
fn required_ranges(image: &IgvmFile<'_>) -> Vec<(u64, u64)> {
    image
        .directives
        .iter()
        .filter_map(|directive| match directive {
            Directive::RequiredMemory { gpa, bytes } if *gpa != SERVICE_BASE => {
                let end = gpa.checked_add(u64::from(*bytes))?;
                let is_firmware = *gpa >= PCI_HOLE_END && end <= HIGH_RAM_START;
                let is_service = *gpa > SERVICE_BASE && end <= STAGING_BASE;
                (is_firmware || is_service).then(|| (*gpa, end - gpa))
            }
            _ => None,
        })
        .collect()
}

/// The parts of the staging range the image uses, in whole 2 MiB blocks.
fn staging_ranges(image: &IgvmFile<'_>) -> Vec<(u64, u64)> {
    let mut blocks: Vec<u64> = image
        .directives
        .iter()
        .filter_map(|directive| match directive {
            Directive::PageData(page) if page.kind == PageKind::Shared => {
                Some(page.gpa & !(LARGE_PAGE_SIZE - 1))
            }
            _ => None,
        })
        .filter(|block| (STAGING_BASE..STAGING_END).contains(block))
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for block in blocks {
        match ranges.last_mut() {
            Some((start, len)) if *start + *len == block => *len += LARGE_PAGE_SIZE,
            _ => ranges.push((block, LARGE_PAGE_SIZE)),
        }
    }
    ranges
}

/// An RMP for all memory frames can come from.
pub(super) fn rmp() -> Rmp {
    // SAFETY: only a number: the base of the table.
    let base = unsafe { Phys::new(0) };
    Rmp::new(base, frames::end())
}

/// The features of the launch VMSA.
fn launch_features(image: &IgvmFile<'_>) -> SevFeatures {
    image
        .directives
        .iter()
        .find_map(|directive| match directive {
            Directive::VpContext { vmsa, .. } => Vmsa::read_from_bytes(&vmsa[..]).ok(),
            _ => None,
        })
        .map_or(SevFeatures::empty(), |vmsa| vmsa.sev_features)
}

/// The guest's memory as the loader fills it.
struct LaunchTarget<'a> {
    memory: &'a mut Memory,
    secrets: &'a [u8],
    cpuid: &'a cpuid::Options,
}

impl LaunchTarget<'_> {
    /// The page at `gpa`, once.
    fn fresh(&mut self, gpa: u64) -> Result<Phys, PageError> {
        let host = self
            .memory
            .map
            .translate(Gpa::new(gpa))
            .ok_or(PageError::NoMemory)?;
        if self.memory.rmp.entry(host).size() == PageSize::Large {
            self.memory
                .rmp
                .psmash(host)
                .map_err(|_| PageError::NoMemory)?;
        }
        if self.memory.rmp.entry(host).is_validated() {
            return Err(PageError::Twice);
        }
        Ok(host)
    }
}

impl Target for LaunchTarget<'_> {
    type Error = PageError;

    fn private_page(
        &mut self,
        page_type: PageType,
        gpa: u64,
        contents: &[u8; PAGE_BYTES],
    ) -> Result<(), PageError> {
        let host = self.fresh(gpa)?;
        match page_type {
            PageType::Secrets => host.write_bytes(self.secrets),
            PageType::Cpuid => {
                let wanted =
                    CpuidPage::read_from_bytes(&contents[..]).map_err(|_| PageError::Misaligned)?;
                host.write_bytes(cpuid::fill(&wanted, &MachineCpuid, self.cpuid).as_bytes())
            }
            _ => host.write_bytes(contents),
        };
        let permissions = [
            Permissions::ALL,
            Permissions::NONE,
            Permissions::NONE,
            Permissions::NONE,
        ];
        self.memory.rmp.launch(
            host,
            OWNER,
            Gpa::new(gpa),
            permissions,
            page_type == PageType::Vmsa,
        );
        Ok(())
    }

    fn shared_page(&mut self, gpa: u64, contents: &[u8]) -> Result<(), PageError> {
        for (page, gpa) in contents.chunks(PAGE_BYTES).zip((gpa..).step_by(PAGE_BYTES)) {
            let gpa = Gpa::new(gpa);
            self.memory
                .change_state(gpa, PageSize::Small, PageState::Shared)
                .ok_or(PageError::NoMemory)?;
            let host = self.memory.host_page(gpa).ok_or(PageError::NoMemory)?;
            host.write_bytes(page);
        }
        Ok(())
    }

    fn required_memory(&mut self, gpa: u64, bytes: u64) -> Result<(), PageError> {
        let last = gpa
            .checked_add(bytes)
            .and_then(|end| end.checked_sub(1))
            .ok_or(PageError::Misaligned)?;
        let has = |gpa| self.memory.map.translate(Gpa::new(gpa)).is_some();
        if has(gpa) && has(last) {
            Ok(())
        } else {
            Err(PageError::NoMemory)
        }
    }

    fn error_range(&mut self, gpa: u64, bytes: u64) -> Result<(), PageError> {
        for page in (0..bytes).step_by(PAGE_BYTES) {
            let gpa = Gpa::new(gpa.checked_add(page).ok_or(PageError::Misaligned)?);
            self.memory
                .change_state(gpa, PageSize::Small, PageState::Shared)
                .ok_or(PageError::NoMemory)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_around_the_pci_hole() {
        assert_eq!(ram_ranges(0x1000_0000), [(0, 0x1000_0000)]);
        assert_eq!(
            ram_ranges(LOW_RAM_END + 0x20_0000),
            [(0, LOW_RAM_END), (HIGH_RAM_START, 0x20_0000)]
        );
    }
}
