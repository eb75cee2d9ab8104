//! The guest's start: its files checked and laid out, its tables written, its first vCPU's registers set.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::{Segment, SegmentAttributes, Vmsa};
use stockade_boot::acpi::{self, Devices};
use stockade_boot::firmware::{LEGACY_BASE, LEGACY_BYTES};
use stockade_boot::launch::{LaunchState, SegmentState, TableState};
use stockade_boot::layout;
use stockade_boot::load::{LoadError, load_guest};
use stockade_boot::manifest::{Manifest, PayloadKind};
use stockade_boot::measured;
use stockade_boot::payload::{self, PayloadError, PayloadSource};
use stockade_boot::ram::RamMap;
use stockade_bus::{Gpa, GuestMemory, MemoryError};

/// One page.
const CLEARED_AT_A_TIME: usize = 0x1000;
/// EFER.SVME: a save area without it cannot be run.
const EFER_SVME: u64 = 1 << 12;

/// What the guest is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The measured manifest.
    pub manifest: Manifest,
    /// Guest memory.
    pub ram: RamMap,
    /// vCPUs.
    pub vcpus: u32,
    /// Frequency of the guest's TSC, which the kernel is told.
    pub tsc_khz: u64,
}

/// Why the guest cannot be started, for the log and for the host.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its files.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// Its tables.
    #[error("{0}")]
    Acpi(#[from] acpi::AcpiError),
    /// Its memory.
    #[error("{0}")]
    Memory(#[from] MemoryError),
}

impl StartError {
    /// Returns the coded reason.
    #[must_use]
    pub fn reason(&self) -> StopReason {
        match self {
            Self::Load(LoadError::Payload(PayloadError::Digest(kind))) => match *kind {
                PayloadKind::INITRD => StopReason::INITRD_DIGEST_MISMATCH,
                PayloadKind::COMMAND_LINE => StopReason::COMMAND_LINE_DIGEST_MISMATCH,
                PayloadKind::FIRMWARE | PayloadKind::VARIABLES => {
                    StopReason::FIRMWARE_DIGEST_MISMATCH
                }
                _ => StopReason::KERNEL_DIGEST_MISMATCH,
            },
            Self::Load(LoadError::Payload(_)) => StopReason::PAYLOAD_MISSING,
            Self::Load(LoadError::Memory(_)) | Self::Memory(_) => StopReason::HOST_WITHDREW_MEMORY,
            Self::Load(_) => StopReason::KERNEL_INVALID,
            Self::Acpi(_) => StopReason::MANIFEST_INVALID,
        }
    }
}

/// Writes everything the guest starts with to its memory; returns its first vCPU's registers, if they are others than after RESET.
pub fn prepare<S: PayloadSource + ?Sized, M: GuestMemory + ?Sized>(
    plan: &Plan,
    source: &mut S,
    memory: &M,
) -> Result<Option<LaunchState>, StartError> {
    if let Some(rom) = plan.manifest.firmware_range() {
        show_firmware_below_1_mib(rom.end, memory)?;
        return Ok(None);
    }
    let mut machine = acpi::Machine::new(plan.vcpus, plan.manifest.flags());
    // Nothing is plugged into the keyboard controller: a guest that is not told of it does not wait for it.
    machine.devices.remove(Devices::I8042);
    if machine.devices.contains(Devices::TPM) {
        honour_clear_request(&plan.ram, memory)?;
        let log = measured::log(&measured::measurements(&plan.manifest));
        memory.write(Gpa(plan.ram.tpm_log().start), &log)?;
    }
    for (gpa, bytes) in acpi::build(&machine, &plan.ram)? {
        memory.write(Gpa(gpa), &bytes)?;
    }
    let state = load_guest(
        &plan.manifest,
        &plan.ram,
        layout::guest::RSDP,
        appended(plan.tsc_khz).as_bytes(),
        source,
        memory,
    )?;
    Ok(Some(state))
}

/// Copies the end of the firmware, at `end`, to where a PC shows it below 1 MiB. It is RAM there, as after firmware has shadowed its ROM.
fn show_firmware_below_1_mib<M: GuestMemory + ?Sized>(
    end: u64,
    memory: &M,
) -> Result<(), MemoryError> {
    let mut page = vec![0; CLEARED_AT_A_TIME];
    for offset in (0..LEGACY_BYTES).step_by(CLEARED_AT_A_TIME) {
        memory.read(Gpa(end - LEGACY_BYTES + offset), &mut page)?;
        memory.write(Gpa(LEGACY_BASE + offset), &page)?;
    }
    Ok(())
}

/// Copies the firmware from staging to the guest's read-only memory by `program`, and checks it there. The guest must not be run before.
pub fn load_firmware<S: PayloadSource + ?Sized>(
    manifest: &Manifest,
    source: &mut S,
    mut program: impl FnMut(Gpa, &[u8]) -> Result<(), MemoryError>,
) -> Result<(), StartError> {
    let file = manifest.payload(PayloadKind::FIRMWARE);
    let (Some(file), Some(rom)) = (file, manifest.firmware_range()) else {
        return Ok(());
    };
    payload::copy(file, source, |offset, chunk| {
        program(Gpa(rom.start.saturating_add(offset)), chunk).map_err(LoadError::from)
    })?;
    Ok(())
}

/// Clears all memory if the system before this one asked for it (TCG PRAM 1.10, 4): its secrets are for nobody who comes after.
fn honour_clear_request<M: GuestMemory + ?Sized>(
    ram: &RamMap,
    memory: &M,
) -> Result<(), MemoryError> {
    let mut request = [0];
    memory.read(Gpa(ram.memory_clear_request()), &mut request)?;
    match request[0] & 1 {
        0 => Ok(()),
        _ => clear_memory(ram, memory),
    }
}

/// Clears all of the guest's memory.
pub fn clear_memory<M: GuestMemory + ?Sized>(ram: &RamMap, memory: &M) -> Result<(), MemoryError> {
    log::info!("clearing the guest's memory, as it asked");
    let zeros = vec![0; CLEARED_AT_A_TIME];
    for range in ram.ranges() {
        // RAM is whole pages.
        for gpa in range.step_by(CLEARED_AT_A_TIME) {
            memory.write(Gpa(gpa), &zeros)?;
        }
    }
    Ok(())
}

/// What no image can know: the TSC's frequency. Linux on an AMD processor has no other exact source for it, and its own
/// measurements fail where a port read costs an exit.
fn appended(tsc_khz: u64) -> String {
    format!(" tsc_early_khz={tsc_khz}")
}

/// Puts the start's registers into a save area that is in reset state.
pub fn set_registers(vmsa: &mut Vmsa, state: &LaunchState) {
    vmsa.rip = state.rip;
    vmsa.rsp = state.rsp;
    (vmsa.rax, vmsa.rbx) = (state.rax, state.rbx);
    vmsa.rsi = state.rsi;
    vmsa.rflags = state.rflags;
    vmsa.cr0 = state.cr0;
    vmsa.cr3 = state.cr3;
    vmsa.cr4 = state.cr4;
    vmsa.efer = state.efer | EFER_SVME;
    vmsa.cs = segment(&state.cs);
    for data in [
        &mut vmsa.ds,
        &mut vmsa.es,
        &mut vmsa.ss,
        &mut vmsa.fs,
        &mut vmsa.gs,
    ] {
        *data = segment(&state.data);
    }
    vmsa.ldtr = segment(&state.ldtr);
    vmsa.tr = segment(&state.tr);
    vmsa.gdtr = table(&state.gdtr);
    vmsa.idtr = table(&state.idtr);
}

fn segment(state: &SegmentState) -> Segment {
    Segment {
        selector: state.selector,
        attributes: SegmentAttributes::from_bits(state.attributes),
        limit: state.limit,
        base: state.base,
    }
}

fn table(state: &TableState) -> Segment {
    Segment {
        limit: u32::from(state.limit),
        base: state.base,
        ..Segment::default()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use sha2::{Digest, Sha384};
    use stockade_boot::manifest::{GuestFlags, Payload};
    use stockade_boot::payload::Unreadable;
    use stockade_bus::fake::FakeMemory;

    use super::*;

    #[test]
    fn end_of_the_firmware_is_shown_below_1_mib() {
        const ROM: u64 = 1 << 20;
        let mut rom = vec![0x11; 0x4_0000];
        rom[0x2_0000] = 0x22;
        rom[0x3_FFF0] = 0x33;
        let memory = FakeMemory::with_rom(1 << 20, &rom);
        show_firmware_below_1_mib(ROM + 0x4_0000, &memory).unwrap();
        let read = |gpa| {
            let mut byte = [0];
            memory.read(Gpa(gpa), &mut byte).unwrap();
            byte[0]
        };
        let seen = [0xD_FFFF, 0xE_0000, 0xE_0001, 0xF_FFF0, 0xF_FFFF].map(read);
        assert_eq!(seen, [0, 0x22, 0x11, 0x33, 0x11]);
    }

    /// Staging that holds one file.
    struct OneFile(Vec<u8>);

    impl PayloadSource for OneFile {
        fn read(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
            let start = usize::try_from(gpa - layout::STAGING_BASE).unwrap();
            buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
            Ok(())
        }
    }

    /// A host that stages other firmware is found out before the guest could run it.
    #[test]
    fn firmware_is_programmed_to_its_place_and_compared() {
        let code: Vec<u8> = (0..=255).cycle().take(0x3_0000).collect();
        let digest = Sha384::digest(&code).into();
        let file = Payload::new(
            PayloadKind::FIRMWARE,
            layout::STAGING_BASE,
            0x3_0000,
            digest,
        );
        let manifest = Manifest::new(51, 1, GuestFlags::empty(), &[file]).unwrap();
        let mut programmed = Vec::new();
        let mut load = |staged: Vec<u8>| {
            programmed.clear();
            load_firmware(&manifest, &mut OneFile(staged), |gpa, bytes| {
                assert_eq!(gpa.0, 0xFFFD_0000 + programmed.len() as u64);
                programmed.extend_from_slice(bytes);
                Ok(())
            })
        };
        load(code.clone()).unwrap();
        let mut other = code.clone();
        other[0x2_FFF0] ^= 1;
        let reason = load(other).unwrap_err().reason();
        assert_eq!(reason, StopReason::FIRMWARE_DIGEST_MISMATCH);
    }

    #[test]
    fn memory_is_cleared_when_it_was_asked_for_and_only_then() {
        const RAM: u64 = 32 << 20;
        let ram = RamMap::of_size(RAM).unwrap();
        let memory = FakeMemory::new(usize::try_from(RAM).unwrap());
        let places = [Gpa(0), Gpa(0x12_3456), Gpa(RAM - 1)];
        for gpa in places {
            memory.write(gpa, &[0x5A]).unwrap();
        }
        let read = |gpa| {
            let mut byte = [0];
            memory.read(gpa, &mut byte).unwrap();
            byte[0]
        };
        honour_clear_request(&ram, &memory).unwrap();
        assert_eq!(places.map(read), [0x5A; 3]);
        memory.write(Gpa(ram.memory_clear_request()), &[1]).unwrap();
        honour_clear_request(&ram, &memory).unwrap();
        assert_eq!(places.map(read), [0; 3]);
        assert_eq!(read(Gpa(ram.memory_clear_request())), 0);
    }
}
