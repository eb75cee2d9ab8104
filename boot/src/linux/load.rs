//! Loading a measured kernel into guest memory.

use stockade_bus::GuestMemory;

use super::header::SetupHeader;
use super::plan::{LoadPlan, Sizes};
use crate::format::FormatError;
use crate::launch::LaunchState;
use crate::load::{LoadError, command_line, write};
use crate::manifest::{Manifest, Payload, PayloadKind};
use crate::payload::{self, PayloadSource};
use crate::ram::RamMap;

/// Copies kernel, initrd and command line from staging to guest memory, checks them, and returns the first vCPU's registers.
///
/// `appended` goes behind the command line: what the paravisor itself has to tell the kernel.
///
/// The kernel's header is used before the file's digest is known: it can only choose places in guest RAM, where nothing of
/// value is yet. When this returns an error the guest must not be run. [`crate::load::load_guest`] takes other kernels, too.
pub fn load<S, M>(
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
    let kernel = manifest
        .payload(PayloadKind::KERNEL)
        .ok_or(LoadError::NoKernel)?;
    let mut words = command_line(manifest, source)?;
    words.extend_from_slice(appended);
    let plan = load_kernel(manifest, kernel, words.len() as u64, ram, source, memory)?;
    finish(plan, manifest, acpi_rsdp, &words, source, memory)
}

/// Places a kernel with this header and the manifest's initrd.
pub(crate) fn plan(
    header: SetupHeader,
    manifest: &Manifest,
    command_line_bytes: u64,
    ram: &RamMap,
) -> Result<LoadPlan, LoadError> {
    if manifest
        .modules()
        .any(|(file, words)| file.kind == PayloadKind::MODULE || words.is_some())
    {
        return Err(LoadError::LinuxModules);
    }
    let bytes = |kind| {
        let file = manifest.payload(kind);
        file.map_or(0, |file| file.len_bytes.get())
    };
    let sizes = Sizes {
        kernel: bytes(PayloadKind::KERNEL),
        initrd: bytes(PayloadKind::INITRD),
        command_line: command_line_bytes,
    };
    Ok(LoadPlan::try_new(header, sizes, *ram)?)
}

/// Lets the rest in when the kernel is in its place.
pub(crate) fn finish<S, M>(
    mut plan: LoadPlan,
    manifest: &Manifest,
    acpi_rsdp: u64,
    command_line: &[u8],
    source: &mut S,
    memory: &M,
) -> Result<LaunchState, LoadError>
where
    S: PayloadSource + ?Sized,
    M: GuestMemory + ?Sized,
{
    plan.acpi_rsdp = acpi_rsdp;
    if let Some(file) = manifest.payload(PayloadKind::INITRD) {
        let start = plan.initrd().start;
        payload::copy(file, source, |offset, chunk| {
            write(memory, start + offset, chunk)
        })?;
    }
    for (gpa, bytes) in plan.writes(command_line) {
        write(memory, gpa, &bytes)?;
    }
    Ok(plan.launch_state())
}

fn load_kernel<S, M>(
    manifest: &Manifest,
    kernel: &Payload,
    command_line_bytes: u64,
    ram: &RamMap,
    source: &mut S,
    memory: &M,
) -> Result<LoadPlan, LoadError>
where
    S: PayloadSource + ?Sized,
    M: GuestMemory + ?Sized,
{
    let mut plan = None;
    payload::copy(kernel, source, |offset, chunk| {
        let plan = match &plan {
            Some(plan) => plan,
            None => {
                let header =
                    SetupHeader::parse(chunk, kernel.len_bytes.get()).map_err(FormatError::from)?;
                plan.insert(self::plan(header, manifest, command_line_bytes, ram)?)
            }
        };
        let (gpa, part) = plan.place_kernel_chunk(offset, chunk);
        write(memory, gpa, part)
    })?;
    plan.ok_or(LoadError::NoKernel)
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use stockade_bus::Gpa;
    use stockade_bus::fake::FakeMemory;
    use zerocopy::FromBytes;

    use super::super::boot_params::BootParams;
    use super::super::header::tests::{file, header};
    use super::*;
    use crate::layout::{STAGING_BASE, guest};
    use crate::manifest::GuestFlags;
    use crate::payload::PayloadError;
    use crate::payload::tests::{FakeStaging, digest};

    const RAM: u64 = 64 << 20;

    struct Staged {
        manifest: Manifest,
        staging: FakeStaging,
        kernel: Vec<u8>,
        initrd: Vec<u8>,
    }

    fn staged() -> Staged {
        staged_of(300_000, 200_000)
    }

    fn staged_of(kernel_bytes: usize, initrd_bytes: usize) -> Staged {
        let kernel: Vec<u8> = (0..=254).cycle().take(kernel_bytes).collect();
        let initrd: Vec<u8> = (0..=252).cycle().take(initrd_bytes).collect();
        let parts = [
            (PayloadKind::KERNEL, file(&header(), &kernel)),
            (PayloadKind::INITRD, initrd.clone()),
            (PayloadKind::COMMAND_LINE, b"console=ttyS0".to_vec()),
        ];
        let mut bytes = Vec::new();
        let mut files = Vec::new();
        for (kind, part) in parts {
            let gpa = STAGING_BASE + bytes.len() as u64;
            files.push(Payload::new(kind, gpa, part.len() as u64, digest(&part)));
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4096), 0xCC);
        }
        let manifest = Manifest::new(51, 1, GuestFlags::empty(), &files).unwrap();
        Staged {
            manifest,
            staging: FakeStaging::new(bytes),
            kernel,
            initrd,
        }
    }

    fn try_load(staged: &mut Staged, memory: &FakeMemory) -> Result<LaunchState, LoadError> {
        let ram = RamMap::of_size(RAM).unwrap();
        load(
            &staged.manifest,
            &ram,
            guest::RSDP,
            b" lpj=5",
            &mut staged.staging,
            memory,
        )
    }

    fn read(memory: &FakeMemory, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn kernel_and_initrd_arrive_whole() {
        let mut staged = staged();
        let memory = FakeMemory::new(usize::try_from(RAM).unwrap());

        let state = try_load(&mut staged, &memory).unwrap();

        assert_eq!(state.rip, 0x100_0200);
        assert_eq!(
            read(&memory, 0x100_0000, staged.kernel.len()),
            staged.kernel
        );
        let page = read(&memory, guest::ZERO_PAGE, 4096);
        let page = BootParams::read_from_bytes(&page).unwrap();
        let start = u64::from(page.header.ramdisk_image.get());
        assert_eq!(page.header.ramdisk_size.get(), 200_000);
        assert_eq!(read(&memory, start, staged.initrd.len()), staged.initrd);
        assert_eq!(page.acpi_rsdp_addr.get(), guest::RSDP);
        assert_eq!(page.e820_entries, 7);
        let command_line = u64::from(page.header.cmd_line_ptr.get());
        assert_eq!(read(&memory, command_line, 20), b"console=ttyS0 lpj=5\0");
    }

    #[test]
    fn loading_twice_gives_the_same_guest() {
        let mut staged = staged();
        let memory = FakeMemory::new(usize::try_from(RAM).unwrap());
        let first = try_load(&mut staged, &memory).unwrap();
        memory.write(Gpa(0x100_0000), &[0xFF; 4096]).unwrap();
        assert_eq!(try_load(&mut staged, &memory).unwrap(), first);
        assert_eq!(
            read(&memory, 0x100_0000, staged.kernel.len()),
            staged.kernel
        );
    }

    /// Whatever byte the host changes, the guest is not started.
    #[test]
    fn any_changed_file_stops_the_start() {
        for (offset, kind) in [
            (0, PayloadKind::KERNEL),
            (100_000, PayloadKind::KERNEL),
            (0x4A_000 + 0x1000, PayloadKind::INITRD),
        ] {
            let mut staged = staged();
            staged.staging.bytes[offset] ^= 0x80;
            let memory = FakeMemory::new(usize::try_from(RAM).unwrap());
            let error = try_load(&mut staged, &memory).unwrap_err();
            assert_eq!(
                error,
                LoadError::Payload(PayloadError::Digest(kind)),
                "{offset:#x}"
            );
        }
    }

    /// The header is used before its digest is known: no value in it may reach beyond guest memory.
    #[test]
    fn garbled_headers_never_write_outside_memory() {
        for offset in 0x1F1..0x26C {
            for value in [0, 0x7F, 0xFF] {
                let mut staged = staged_of(0x1000, 0x1000);
                staged.staging.bytes[offset] = value;
                let memory = FakeMemory::new(usize::try_from(RAM).unwrap());
                let result = try_load(&mut staged, &memory);
                assert!(
                    !matches!(result, Err(LoadError::Memory(_))),
                    "{offset:#x}: {result:?}"
                );
            }
        }
    }

    #[test]
    fn withdrawn_staging_stops_the_start() {
        let mut staged = staged();
        staged.staging.bytes.truncate(70_000);
        let memory = FakeMemory::new(usize::try_from(RAM).unwrap());
        let error = try_load(&mut staged, &memory).unwrap_err();
        assert!(
            matches!(error, LoadError::Payload(PayloadError::Unreadable { .. })),
            "{error}"
        );
    }
}
