//! Kernel files: bzImage, multiboot and PVH headers, up to a start in guest memory.

use sha2::{Digest, Sha384};
use stockade_boot::format;
use stockade_boot::kernel::Module;
use stockade_boot::layout::{MINIMUM_RAM, STAGING_BASE, guest};
use stockade_boot::load::{self, LoadError, load_guest};
use stockade_boot::manifest::{GuestFlags, Manifest, Payload, PayloadKind};
use stockade_boot::payload::{PayloadSource, Unreadable};
use stockade_boot::ram::RamMap;
use stockade_bus::fake::FakeMemory;

const MODULE: &[u8] = b"module";

/// Staged files, one after the other.
struct Staging(Vec<u8>);

impl PayloadSource for Staging {
    fn read(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let staged = gpa
            .checked_sub(STAGING_BASE)
            .and_then(|start| usize::try_from(start).ok())
            .and_then(|start| self.0.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(staged.ok_or(Unreadable(gpa))?);
        Ok(())
    }
}

/// Loads a kernel of any content. Whatever it asks for lies in guest memory, and what the builder accepts the loader accepts.
pub fn run(data: &[u8]) {
    let Ok(ram) = RamMap::of_size(MINIMUM_RAM) else {
        return;
    };
    let _ = format::check(data);
    let module = Module {
        len_bytes: MODULE.len() as u64,
        command_line: Vec::new(),
    };
    let checked = load::check(data, b"words", &[module], &ram);
    let Some((manifest, mut staging)) = stage(data) else {
        return;
    };
    let Ok(memory_bytes) = usize::try_from(MINIMUM_RAM) else {
        return;
    };
    let memory = FakeMemory::new(memory_bytes);
    let loaded = load_guest(&manifest, &ram, guest::RSDP, b"", &mut staging, &memory);
    assert_eq!(loaded.as_ref().err(), checked.as_ref().err());
    match loaded {
        Ok(state) => {
            assert!(ram.contains(state.rip, 1));
            assert!(ram.contains(state.gdtr.base, u64::from(state.gdtr.limit) + 1));
            assert!(state.rbx == 0 || ram.contains(state.rbx, 64));
        }
        Err(error) => {
            let is_possible = !matches!(error, LoadError::Memory(_) | LoadError::Payload(_));
            assert!(is_possible, "{error}");
        }
    }
}

fn stage(kernel: &[u8]) -> Option<(Manifest, Staging)> {
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    for (kind, file) in [
        (PayloadKind::KERNEL, kernel),
        (PayloadKind::INITRD, MODULE),
        (PayloadKind::COMMAND_LINE, b"words"),
    ] {
        let gpa = STAGING_BASE + bytes.len() as u64;
        let digest = Sha384::digest(file).into();
        files.push(Payload::new(kind, gpa, file.len() as u64, digest));
        bytes.extend_from_slice(file);
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
    }
    let manifest = Manifest::new(51, 1, GuestFlags::empty(), &files).ok()?;
    Some((manifest, Staging(bytes)))
}

/// A kernel of each format.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let multiboot = multiboot_header(3, &[]);
    let flat = multiboot_header(1 << 16, &[0x10_0000, 0x10_0000, 0, 0x10_1000, 0x10_0020]);
    vec![
        bz_image(),
        elf(1, &multiboot),
        elf(2, &multiboot),
        elf(2, &xen_note()),
        [flat, vec![0x90; 64]].concat(),
    ]
}

fn bz_image() -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    let mut put = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x1F1, &[1]);
    put(0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]);
    put(0x202, b"HdrS\x0F\x02");
    put(0x211, &[1]);
    put(0x22C, &0x7FFF_FFFF_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &0x7F_u16.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    file
}

fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1BAD_B002_u32;
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let words = [magic, flags, checksum];
    let words = words.iter().chain(addresses);
    words.flat_map(|word| word.to_le_bytes()).collect()
}

fn xen_note() -> Vec<u8> {
    let words = [4_u32, 4, 18, 0x006E_6558, 0x10_0000];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An ELF file of this class whose content is loaded at 1 MiB and, if it is 64-bit, a note as well.
fn elf(class: u8, content: &[u8]) -> Vec<u8> {
    let mut file = vec![
        0x7F, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let address = |value: u32| {
        let len = if class == 2 { 8 } else { 4 };
        u64::from(value).to_le_bytes()[..len].to_vec()
    };
    let (header, entry, machine) = if class == 2 {
        (64, 56, 62)
    } else {
        (52, 32, 3)
    };
    let offset = u32::from(header) + 2 * u32::from(entry);
    file.extend([2, 0, machine, 0, 1, 0, 0, 0]);
    for value in [0x10_0000, u32::from(header), 0] {
        file.extend(address(value));
    }
    file.extend([0, 0, 0, 0, header, 0, entry, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let len = u32::try_from(content.len()).unwrap_or(0);
    for kind in [1_u32, 4] {
        file.extend(kind.to_le_bytes());
        let flags = 7_u32.to_le_bytes();
        if class == 2 {
            file.extend(flags);
        }
        for value in [offset, 0x10_0000, 0x10_0000, len, 0x1000] {
            file.extend(address(value));
        }
        if class == 1 {
            file.extend(flags);
        }
        file.extend(address(4));
    }
    file.extend(content);
    file
}
