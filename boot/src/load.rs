//! Loading a measured guest into its memory, whatever its kernel's format.
//!
//! The kernel's first chunk says what it is. A bzImage goes straight to its place; its header is used before the file's digest
//! is known, but can only choose places in guest RAM, where nothing of value is yet. Any other kernel goes whole to the top
//! of low RAM first, and is taken apart only when its digest has proved right. Each staged byte is read once.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use stockade_bus::{Gpa, GuestMemory, MemoryError};

use crate::bios_data;
use crate::bios_vectors;
use crate::format::{Format, FormatError};
use crate::kernel::{
    KernelFile, KernelPlan, Module, PlaceError, PrivateFile, Protocol, Segment, Told, scratch,
};
use crate::launch::LaunchState;
use crate::linux::{self, LoadPlan, PlanError, Sizes};
use crate::manifest::{Manifest, Payload, PayloadKind};
use crate::payload::{self, CHUNK_BYTES, PayloadError, PayloadSource};
use crate::ram::RamMap;

/// Why the guest cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The manifest names no kernel.
    #[error("the image has no kernel")]
    NoKernel,
    /// The file is no kernel we can start.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The parts of a Linux start do not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The parts of another start do not fit.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A bzImage takes an initrd and no more.
    #[error("a bzImage takes no modules but an initrd")]
    LinuxModules,
    /// The host did not stage what the image promised.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// Guest memory could not be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Copies the guest's files from staging to guest memory, checks them, and returns the first vCPU's registers.
///
/// `appended` goes behind the command line of a kernel that may be Linux (a bzImage, a PVH kernel): what the paravisor itself
/// has to tell it. When this returns an error the guest must not be run.
pub fn load_guest<S, M>(
    manifest: &Manifest,
    ram: &RamMap,
    acpi_rsdp: u64,
    appended: &[u8],
    source: &mut S,
    memory: &M,
) -> Result<LaunchState, LoadError>
where
    S: PayloadSource + ?Sized,
    M: GuestMemory + ?Sized,
{
    let mut words = command_line(manifest, source)?;
    let without_appended = words.len();
    words.extend_from_slice(appended);
    bios_vectors::write(memory)?;
    bios_data::write(memory)?;
    match receive_kernel(manifest, ram, words.len() as u64, source, memory)? {
        Arrival::Linux(plan) => linux::finish(*plan, manifest, acpi_rsdp, &words, source, memory),
        Arrival::Whole { format, file } => {
            if matches!(format, Format::Multiboot(_)) {
                words.truncate(without_appended);
            }
            let modules = modules(manifest, source)?;
            let told = Told {
                command_line: &words,
                modules: &modules,
                acpi_rsdp,
            };
            let plan = plan(&format, &file, &told, ram)?;
            place_all(&plan, manifest, &file, source, memory)?;
            Ok(plan.launch_state())
        }
    }
}

/// Finds out from the files in hand what [`load_guest`] would find out. A bzImage takes one module at most, its initrd.
pub fn check(
    kernel: &[u8],
    command_line: &[u8],
    modules: &[Module],
    ram: &RamMap,
) -> Result<(), LoadError> {
    let told = Told {
        command_line,
        modules,
        acpi_rsdp: 0,
    };
    match Format::detect(kernel, kernel.len() as u64)? {
        Format::Linux(header) => {
            if modules.len() > 1 || modules.iter().any(|module| !module.command_line.is_empty()) {
                return Err(LoadError::LinuxModules);
            }
            let sizes = Sizes {
                kernel: kernel.len() as u64,
                initrd: modules.first().map_or(0, |module| module.len_bytes),
                command_line: command_line.len() as u64,
            };
            LoadPlan::try_new(header, sizes, *ram)?;
        }
        format => {
            scratch(ram, kernel.len() as u64)?;
            plan(&format, kernel, &told, ram)?;
        }
    }
    Ok(())
}

/// Returns the command line in the manifest, checked; empty if there is none.
pub(crate) fn command_line<S: PayloadSource + ?Sized>(
    manifest: &Manifest,
    source: &mut S,
) -> Result<Vec<u8>, PayloadError> {
    match manifest.payload(PayloadKind::COMMAND_LINE) {
        Some(file) => payload::read(file, source),
        None => Ok(Vec::new()),
    }
}

/// A kernel on its way in, and what it was when it had arrived and its digest was right.
enum Arrival<'a, M: ?Sized> {
    Linux(Box<LoadPlan>),
    Whole {
        format: Format,
        file: PrivateFile<'a, M>,
    },
}

impl<M: GuestMemory + ?Sized> Arrival<'_, M> {
    /// Returns where a chunk at `offset` goes, and which part of it.
    fn place<'c>(&self, offset: u64, chunk: &'c [u8]) -> (u64, &'c [u8]) {
        match self {
            Self::Linux(plan) => plan.place_kernel_chunk(offset, chunk),
            Self::Whole { file, .. } => (file.start.saturating_add(offset), chunk),
        }
    }
}

/// Lets the kernel in; `command_line_bytes` is how long a Linux kernel's command line will be.
fn receive_kernel<'a, S, M>(
    manifest: &Manifest,
    ram: &RamMap,
    command_line_bytes: u64,
    source: &mut S,
    memory: &'a M,
) -> Result<Arrival<'a, M>, LoadError>
where
    S: PayloadSource + ?Sized,
    M: GuestMemory + ?Sized,
{
    let kernel = manifest
        .payload(PayloadKind::KERNEL)
        .ok_or(LoadError::NoKernel)?;
    let mut arrival = None;
    payload::copy(kernel, source, |offset, chunk| {
        let arrival = match &arrival {
            Some(arrival) => arrival,
            None => {
                let begun = begin(manifest, kernel, chunk, ram, command_line_bytes, memory)?;
                arrival.insert(begun)
            }
        };
        let (gpa, part) = arrival.place(offset, chunk);
        write(memory, gpa, part)
    })?;
    arrival.ok_or(LoadError::NoKernel)
}

/// The first chunk decides.
fn begin<'a, M: GuestMemory + ?Sized>(
    manifest: &Manifest,
    kernel: &Payload,
    chunk: &[u8],
    ram: &RamMap,
    command_line_bytes: u64,
    memory: &'a M,
) -> Result<Arrival<'a, M>, LoadError> {
    let len_bytes = kernel.len_bytes.get();
    match Format::detect(chunk, len_bytes)? {
        Format::Linux(header) => {
            let plan = linux::plan_for(header, manifest, command_line_bytes, ram)?;
            Ok(Arrival::Linux(Box::new(plan)))
        }
        format => Ok(Arrival::Whole {
            format,
            file: PrivateFile {
                memory,
                start: scratch(ram, len_bytes)?.start,
                len_bytes,
            },
        }),
    }
}

fn modules<S: PayloadSource + ?Sized>(
    manifest: &Manifest,
    source: &mut S,
) -> Result<Vec<Module>, PayloadError> {
    manifest
        .modules()
        .map(|(file, words)| {
            Ok(Module {
                len_bytes: file.len_bytes.get(),
                command_line: match words {
                    Some(words) => payload::read(words, source)?,
                    None => Vec::new(),
                },
            })
        })
        .collect()
}

/// Plans the start of a kernel that is no bzImage.
fn plan<F: KernelFile + ?Sized>(
    format: &Format,
    file: &F,
    told: &Told<'_>,
    ram: &RamMap,
) -> Result<KernelPlan, LoadError> {
    let protocol = match format {
        Format::Multiboot(_) => Protocol::Multiboot,
        Format::Linux(_) | Format::Pvh => Protocol::Pvh,
    };
    let image = format.image(file)?.ok_or(FormatError::Unknown)?;
    let len_bytes = file.len_bytes();
    Ok(KernelPlan::try_new(image, len_bytes, protocol, told, ram)?)
}

fn place_all<S, M>(
    plan: &KernelPlan,
    manifest: &Manifest,
    file: &PrivateFile<'_, M>,
    source: &mut S,
    memory: &M,
) -> Result<(), LoadError>
where
    S: PayloadSource + ?Sized,
    M: GuestMemory + ?Sized,
{
    for segment in plan.segments() {
        place_segment(segment, file, memory)?;
    }
    // From here on the copy of the file is free memory.
    for ((module, _), place) in manifest.modules().zip(plan.modules()) {
        payload::copy(module, source, |offset, chunk| {
            write(memory, place.start.saturating_add(offset), chunk)
        })?;
    }
    let (gpa, block) = plan.block();
    write(memory, gpa, &block)
}

/// Moves a segment to its place and clears what the file has no bytes for.
fn place_segment<M: GuestMemory + ?Sized>(
    segment: &Segment,
    file: &PrivateFile<'_, M>,
    memory: &M,
) -> Result<(), LoadError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut gpa = segment.place.start;
    let data_end = gpa.saturating_add(segment.len_bytes);
    while gpa < data_end {
        let chunk = chunk_of(&mut buffer, data_end - gpa);
        let offset = segment.offset.saturating_add(gpa - segment.place.start);
        file.read_at(offset, chunk)?;
        write(memory, gpa, chunk)?;
        gpa += chunk.len() as u64;
    }
    buffer.fill(0);
    while gpa < segment.place.end {
        let zeros = chunk_of(&mut buffer, segment.place.end - gpa);
        write(memory, gpa, zeros)?;
        gpa += zeros.len() as u64;
    }
    Ok(())
}

fn chunk_of(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    &mut buffer[..len]
}

pub(crate) fn write<M: GuestMemory + ?Sized>(
    memory: &M,
    gpa: u64,
    bytes: &[u8],
) -> Result<(), LoadError> {
    if !bytes.is_empty() {
        memory.write(Gpa(gpa), bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
