use alloc::string::{String, ToString};

use elf::file::Class;
use stockade_bus::fake::FakeMemory;

use super::*;
use crate::kernel::tests::{elf, load, xen_note};
use crate::launch::SegmentState;
use crate::layout::{PAGE_SIZE, STAGING_BASE, guest};
use crate::linux::header::tests as linux_files;
use crate::manifest::GuestFlags;
use crate::multiboot::test_header;
use crate::payload::tests::{FakeStaging, digest};

const RAM: u64 = 64 << 20;
const BASE: u64 = 0x10_0000;

/// Staged files and a guest's memory, full of an earlier life.
struct World {
    manifest: Manifest,
    staging: FakeStaging,
    memory: FakeMemory,
}

impl World {
    fn new(parts: &[(PayloadKind, &[u8])]) -> Self {
        let (mut bytes, mut files) = (Vec::new(), Vec::new());
        for (kind, part) in parts {
            let gpa = STAGING_BASE + bytes.len() as u64;
            files.push(Payload::new(*kind, gpa, part.len() as u64, digest(part)));
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(4096), 0xCC);
        }
        let memory = FakeMemory::new(usize::try_from(RAM).unwrap());
        memory.write(Gpa(BASE), &[0xAA; 0x80_0000]).unwrap();
        Self {
            manifest: Manifest::new(51, 1, GuestFlags::empty(), &files).unwrap(),
            staging: FakeStaging::new(bytes),
            memory,
        }
    }

    fn load(&mut self) -> Result<LaunchState, LoadError> {
        let ram = RamMap::of_size(RAM).unwrap();
        load_guest(
            &self.manifest,
            &ram,
            guest::RSDP,
            b" lpj=5",
            &mut self.staging,
            &self.memory,
        )
    }

    fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }

    fn word(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.bytes(gpa, 4).try_into().unwrap())
    }

    fn quad(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.bytes(gpa, 8).try_into().unwrap())
    }

    fn text(&self, gpa: u64) -> String {
        let bytes = self.bytes(gpa, 256);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    }
}

/// 100,000 bytes of code, beginning with a multiboot header.
fn content() -> Vec<u8> {
    let mut content = test_header(3, &[]);
    content.extend((0..=250_u8).cycle().take(100_000));
    content
}

fn multiboot(class: Class) -> Vec<u8> {
    let parts = [
        load(BASE, 0x2_0000, content()),
        load(0x20_0000, 0x5000, vec![7; 0x1001]),
    ];
    elf(class, BASE + 0x10, &parts)
}

fn pvh() -> Vec<u8> {
    let parts = [
        load(BASE, 0x2_0000, vec![0x90; 100_000]),
        xen_note(18, &0x10_0020_u32.to_le_bytes()),
    ];
    elf(Class::ELF64, 0xFFFF_8000_0000_0000, &parts)
}

/// Xen puts its start-up code below the end of conventional memory as it is here, whatever else it is told.
#[test]
fn bios_data_area_says_where_conventional_memory_ends() {
    let mut world = World::new(&[(PayloadKind::KERNEL, &multiboot(Class::ELF32))]);
    world.load().unwrap();
    assert_eq!(world.bytes(0x40E, 2), 0x9FC0_u16.to_le_bytes());
    assert_eq!(world.bytes(0x413, 2), 639_u16.to_le_bytes());
    assert_eq!(world.bytes(0x9_FC00, 1), [1], "KiB of the extended area");
}

/// Vectors of zero would have a kernel execute zeros, which add AL to what DS points at: Xen lost its start-up code for further
/// processors when it asked for disks.
#[test]
fn bios_call_in_real_mode_comes_back_refused() {
    let mut world = World::new(&[(PayloadKind::KERNEL, &multiboot(Class::ELF32))]);
    world.load().unwrap();
    for vector in 0..=255 {
        let entry = world.bytes(vector * 4, 4);
        let [offset, segment] = [0, 2].map(|at| u16::from_le_bytes([entry[at], entry[at + 1]]));
        let code = world.bytes((u64::from(segment) << 4) + u64::from(offset), 11);
        let is_service = (0x10..=0x1A).contains(&vector);
        let refusal = [0x55, 0x89, 0xE5, 0x80, 0x4E, 6, 1, 0xB4, 0x86, 0x5D, 0xCF];
        assert_eq!(code[0] == 0xCF, !is_service, "vector {vector:#x}");
        assert_eq!(code == refusal, is_service, "vector {vector:#x}");
    }
}

const MODULE: &[u8] = &[0x11; 70_000];
const INITRD: &[u8] = &[0x22; 5000];

fn with_modules(kernel: &[u8]) -> World {
    World::new(&[
        (PayloadKind::KERNEL, kernel),
        (PayloadKind::COMMAND_LINE, b"console=com1"),
        (PayloadKind::MODULE, MODULE),
        (PayloadKind::MODULE_COMMAND_LINE, b"vmlinuz root=/dev/vda"),
        (PayloadKind::INITRD, INITRD),
    ])
}

/// Multiboot 0.6.96, 3.2: the machine's state.
fn assert_protected_mode(state: &LaunchState) {
    assert_eq!(state.cr0 & 0x8000_0001, 1);
    assert_eq!((state.cr3, state.cr4, state.efer), (0, 0, 0));
    assert_eq!(state.rflags & 0x2_0300, 0);
    assert_eq!(
        (state.cs, state.data),
        (SegmentState::CODE_32, SegmentState::DATA)
    );
}

#[test]
fn multiboot_kernel_arrives_whole_in_either_class() {
    for class in [Class::ELF32, Class::ELF64] {
        let mut world = with_modules(&multiboot(class));
        let state = world.load().unwrap();
        assert_protected_mode(&state);
        assert_eq!((state.rip, state.rax), (BASE + 0x10, 0x2BAD_B002));
        let content = content();
        assert_eq!(world.bytes(BASE, content.len()), content);
        assert_eq!(world.bytes(0x20_0000, 0x1001), [7; 0x1001]);
        assert!(world.staging.reads.iter().all(|count| *count <= 1));
    }
}

/// Memory keeps the guest's former life through a reset; a kernel relies on zeros.
#[test]
fn memory_beyond_the_files_bytes_is_cleared() {
    let mut world = with_modules(&multiboot(Class::ELF64));
    world.load().unwrap();
    let content = content().len();
    let rest = 0x2_0000 - content;
    assert_eq!(world.bytes(BASE + content as u64, rest), vec![0; rest]);
    assert_eq!(world.bytes(0x20_1001, 0x3FFF), vec![0; 0x3FFF]);
    assert_eq!(world.bytes(BASE + 0x2_0000, 1), [0xAA]);
}

#[test]
fn multiboot_kernel_is_told_of_memory_modules_and_command_line() {
    let mut world = with_modules(&multiboot(Class::ELF32));
    let info = world.load().unwrap().rbx;
    assert_eq!(world.word(info), 0b100_1101);
    assert_eq!(world.word(info + 4), 639);
    let upper = RamMap::of_size(RAM).unwrap().acpi_tables().start - (1 << 20);
    assert_eq!(u64::from(world.word(info + 8)), upper / 1024);
    // What the paravisor would tell Linux does not concern this kernel.
    assert_eq!(
        world.text(world.word(info + 16).into()),
        "kernel console=com1"
    );
    assert_eq!(world.word(info + 20), 2);
    let modules = u64::from(world.word(info + 24));
    for (index, (file, text)) in [(MODULE, "vmlinuz root=/dev/vda"), (INITRD, "")]
        .into_iter()
        .enumerate()
    {
        let entry = modules + 16 * index as u64;
        let (start, end) = (world.word(entry), world.word(entry + 4));
        assert_eq!(usize::try_from(end - start).unwrap(), file.len());
        assert_eq!(u64::from(start) % PAGE_SIZE, 0);
        assert!(start >= 0x20_5000);
        assert_eq!(world.bytes(start.into(), file.len()), file);
        assert_eq!(world.text(world.word(entry + 8).into()), text);
    }
}

#[test]
fn multiboot_memory_map_is_the_guests() {
    let mut world = with_modules(&multiboot(Class::ELF32));
    let info = world.load().unwrap().rbx;
    let (len, map) = (world.word(info + 44), u64::from(world.word(info + 48)));
    let expected = crate::memory_map::e820(&RamMap::of_size(RAM).unwrap());
    let mut entry = map;
    for range in &expected {
        assert_eq!(world.word(entry), 20);
        assert_eq!(world.quad(entry + 4), range.address.get());
        assert_eq!(world.quad(entry + 12), range.len_bytes.get());
        assert_eq!(world.word(entry + 20), range.kind.0.get());
        entry += u64::from(world.word(entry)) + 4;
    }
    assert_eq!(entry, map + u64::from(len));
}

#[test]
fn flat_multiboot_image_is_started() {
    let (load, header) = (0x8000_u32, 0x8100);
    let mut file = vec![0x90; 0x100];
    file.extend(test_header(1 << 16, &[header, load, 0, 0x2_0000, 0x8010]));
    file.resize(0x4000, 0xCC);
    let mut world = World::new(&[(PayloadKind::KERNEL, &file)]);
    let state = world.load().unwrap();
    assert_eq!(state.rip, 0x8010);
    assert_eq!(world.bytes(0x8000, 0x4000), file);
    // It lies where others are told things: this one is told behind itself.
    assert!(state.rbx >= 0x2_0000 && state.gdtr.base >= 0x2_0000);
    assert_eq!(world.text(world.word(state.rbx + 16).into()), "kernel ");
}

/// Xen `docs/misc/pvh.pandoc` and `start_info.h`.
#[test]
fn pvh_kernel_is_started_with_its_start_info() {
    let mut world = with_modules(&pvh());
    let state = world.load().unwrap();
    assert_protected_mode(&state);
    assert_eq!(state.rip, 0x10_0020);
    assert_eq!((state.tr.attributes, state.tr.limit), (0x8B, 0x67));
    let info = state.rbx;
    assert_eq!((world.word(info), world.word(info + 4)), (0x336E_C578, 1));
    assert_eq!((world.word(info + 8), world.word(info + 12)), (0, 2));
    assert_eq!(world.quad(info + 32), guest::RSDP);
    assert_eq!(world.text(world.quad(info + 24)), "console=com1 lpj=5");
    let module = world.quad(info + 16);
    assert_eq!(world.quad(module + 8), MODULE.len() as u64);
    let bytes = world.bytes(world.quad(module), MODULE.len());
    assert_eq!(bytes, MODULE);
    assert_eq!(world.text(world.quad(module + 16)), "vmlinuz root=/dev/vda");
    let expected = crate::memory_map::e820(&RamMap::of_size(RAM).unwrap());
    let map = world.quad(info + 40);
    assert_eq!(world.word(info + 48) as usize, expected.len());
    for (index, range) in expected.iter().enumerate() {
        let entry = map + 24 * index as u64;
        assert_eq!(world.quad(entry), range.address.get());
        assert_eq!(world.quad(entry + 8), range.len_bytes.get());
        assert_eq!(world.word(entry + 16), range.kind.0.get());
    }
}

#[test]
fn descriptor_table_and_stack_are_in_the_block() {
    let mut world = with_modules(&pvh());
    let state = world.load().unwrap();
    let table = state.gdtr.base;
    assert_eq!(world.quad(table + 0x10), 0x00CF_9B00_0000_FFFF);
    assert_eq!(world.quad(table + 0x18), 0x00CF_9300_0000_FFFF);
    assert_eq!(state.rsp, table + 0x1000);
    assert!(state.rbx >= state.rsp);
}

#[test]
fn bzimage_is_started_as_by_its_own_loader() {
    let kernel = linux_files::file(&linux_files::header(), &[0x5A; 100_000]);
    let parts = [
        (PayloadKind::KERNEL, kernel.as_slice()),
        (PayloadKind::INITRD, INITRD),
    ];
    let mut world = World::new(&parts);
    let state = world.load().unwrap();
    let other = World::new(&parts);
    let ram = RamMap::of_size(RAM).unwrap();
    bios_vectors::write(&other.memory).unwrap();
    bios_data::write(&other.memory).unwrap();
    let mut staging = other.staging;
    let expected = linux::load(
        &other.manifest,
        &ram,
        guest::RSDP,
        b" lpj=5",
        &mut staging,
        &other.memory,
    );
    assert_eq!(Ok(state), expected);
    let len = usize::try_from(RAM).unwrap();
    assert!(
        world.bytes(0, len) == {
            let mut bytes = vec![0; len];
            other.memory.read(Gpa(0), &mut bytes).unwrap();
            bytes
        }
    );
}

#[test]
fn bzimage_takes_no_modules() {
    let kernel = linux_files::file(&linux_files::header(), &[0x5A; 0x1000]);
    let error = with_modules(&kernel).load().unwrap_err();
    assert_eq!(error, LoadError::LinuxModules);
    let module = Module {
        len_bytes: 7,
        command_line: b"x".to_vec(),
    };
    let ram = RamMap::of_size(RAM).unwrap();
    let error = check(&kernel, b"", &[module], &ram).unwrap_err();
    assert_eq!(error, LoadError::LinuxModules);
}

#[test]
fn loading_twice_gives_the_same_guest() {
    for kernel in [multiboot(Class::ELF32), pvh()] {
        let mut world = with_modules(&kernel);
        let first = world.load().unwrap();
        world.memory.write(Gpa(BASE), &[0xFF; 0x40_0000]).unwrap();
        assert_eq!(world.load().unwrap(), first);
        assert_eq!(world.bytes(BASE + 0x1_FFFF, 1), [0]);
    }
}

/// Whatever byte the host changes, the guest is not started, and a kernel is not even taken apart.
#[test]
fn any_changed_file_stops_the_start() {
    let kernel = multiboot(Class::ELF64);
    let files = with_modules(&kernel).manifest;
    for file in files.payloads() {
        let last = file.len_bytes.get() - 1;
        for offset in [0, last / 2, last] {
            let mut world = with_modules(&kernel);
            let staged = file.gpa.get() - STAGING_BASE + offset;
            world.staging.bytes[usize::try_from(staged).unwrap()] ^= 0x40;
            let error = world.load().unwrap_err();
            // A broken magic number is another format, or none.
            let is_named = error == LoadError::Payload(PayloadError::Digest(file.kind))
                || error == LoadError::Format(FormatError::Unknown);
            assert!(is_named, "{} {offset:#x}: {error}", file.kind);
            if file.kind == PayloadKind::KERNEL {
                assert_eq!(world.bytes(0x20_0000, 1), [0xAA]);
            }
        }
    }
}

#[test]
fn withdrawn_staging_stops_the_start() {
    let mut world = with_modules(&pvh());
    let len = world.staging.bytes.len();
    world.staging.bytes.truncate(len - 0x1000);
    let error = world.load().unwrap_err();
    let is_named = matches!(error, LoadError::Payload(PayloadError::Unreadable { .. }));
    assert!(is_named, "{error}");
}

/// The image's maker may write anything into a header: no value in it may reach beyond guest memory.
#[test]
fn garbled_headers_never_write_outside_memory() {
    let small = |class| {
        let parts = [
            load(BASE, 0x1000, test_header(3, &[])),
            xen_note(18, &0x10_0000_u32.to_le_bytes()),
        ];
        elf(class, BASE, &parts)
    };
    for kernel in [small(Class::ELF32), small(Class::ELF64)] {
        for offset in 0..kernel.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut garbled = kernel.clone();
                garbled[offset] = value;
                let ram = RamMap::of_size(RAM).unwrap();
                let _ = check(&garbled, b"", &[], &ram);
                if offset % 16 == usize::from(value) % 16 {
                    let result = World::new(&[(PayloadKind::KERNEL, &garbled)]).load();
                    let is_outside = matches!(result, Err(LoadError::Memory(_)));
                    assert!(!is_outside, "{offset:#x}: {result:?}");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_said_before_the_launch() {
    let ram = RamMap::of_size(RAM).unwrap();
    let module = |len_bytes| Module {
        len_bytes,
        command_line: Vec::new(),
    };
    for kernel in [multiboot(Class::ELF32), pvh()] {
        assert_eq!(
            check(&kernel, b"x", &[module(MODULE.len() as u64)], &ram),
            Ok(())
        );
        let text = check(&kernel, b"", &[module(RAM)], &ram)
            .unwrap_err()
            .to_string();
        assert!(text.contains("67108864"), "{text}");
    }
    let high = elf(
        Class::ELF32,
        0x800_0000,
        &[load(0x800_0000, 16, test_header(3, &[]))],
    );
    let text = check(&high, b"", &[], &ram).unwrap_err().to_string();
    assert!(text.contains("0x8000000 to 0x8000010"), "{text}");
}
