//! Manifests good and bad, through their page.

use alloc::vec::Vec;

use super::*;
use crate::layout::{STAGING_BASE, STAGING_END};

fn kernel() -> Payload {
    Payload::new(PayloadKind::KERNEL, STAGING_BASE, 0x1234, [7; 48])
}

fn build(files: &[Payload]) -> Result<Manifest, ManifestError> {
    Manifest::new(51, 4, GuestFlags::X2APIC, files)
}

#[test]
fn manifest_survives_a_page() {
    let initrd = Payload::new(PayloadKind::INITRD, STAGING_BASE + 0x2000, 5, [9; 48]);
    let manifest = build(&[kernel(), initrd]).unwrap();
    let mut page = [0; 4096];
    manifest.write_to_prefix(&mut page).unwrap();

    let read = Manifest::parse(&page).unwrap();

    assert_eq!(read, manifest);
    assert_eq!((read.c_bit(), read.max_vcpus()), (51, 4));
    assert_eq!(read.flags(), GuestFlags::X2APIC);
    assert_eq!(read.payload(PayloadKind::INITRD), Some(&initrd));
    assert_eq!(read.payload(PayloadKind::COMMAND_LINE), None);
    assert_eq!(read.payloads().count(), 2);
}

#[test]
fn more_memory_is_in_large_pages_and_limited() {
    let manifest = build(&[kernel()]).unwrap();
    assert_eq!(manifest.extra_bytes(), 0);
    let more = manifest.clone().try_with_extra_memory(4 << 20).unwrap();
    assert_eq!(more.extra_bytes(), 4 << 20);
    for bytes in [1 << 20, 66 << 20, u32::MAX] {
        let error = manifest.clone().try_with_extra_memory(bytes).unwrap_err();
        assert_eq!(error, ManifestError::ExtraMemory(bytes.into()));
    }
}

#[test]
fn other_pages_are_no_manifest() {
    assert_eq!(Manifest::parse(&[0; 4096]), Err(ManifestError::Magic));
    assert_eq!(Manifest::parse(b"STOCKADE"), Err(ManifestError::Magic));
}

#[test]
fn another_version_is_named() {
    let mut manifest = build(&[kernel()]).unwrap();
    manifest.version = 1.into();
    assert_eq!(
        Manifest::parse(manifest.as_bytes()),
        Err(ManifestError::Version(1))
    );
}

#[test]
fn unknown_flags_and_kinds_are_refused() {
    let mut manifest = build(&[kernel()]).unwrap();
    manifest.flags = (1 << 63).into();
    assert_eq!(
        Manifest::parse(manifest.as_bytes()),
        Err(ManifestError::Flags(1 << 63))
    );
    let odd = Payload {
        kind: PayloadKind(99.into()),
        ..kernel()
    };
    assert_eq!(build(&[odd]), Err(ManifestError::PayloadKind(99)));
}

#[test]
fn c_bit_inside_guest_memory_is_refused() {
    for c_bit in [0, 46, 52, 64, u32::MAX] {
        let result = Manifest::new(c_bit, 1, GuestFlags::empty(), &[kernel()]);
        assert_eq!(result, Err(ManifestError::CBit(c_bit)));
    }
}

#[test]
fn vcpu_count_is_bounded() {
    for vcpus in [0, 256, u32::MAX] {
        let result = Manifest::new(51, vcpus, GuestFlags::empty(), &[kernel()]);
        assert_eq!(result, Err(ManifestError::Vcpus(vcpus)));
    }
}

/// A file that reached outside staging could make the paravisor copy its own memory into the guest.
#[test]
fn payload_outside_staging_is_refused() {
    for (gpa, len) in [
        (STAGING_BASE - 0x1000, 0x10),
        (STAGING_BASE + 1, 0x10),
        (STAGING_END - 0x1000, 0x1001),
        (STAGING_END, 1),
        (!0xFFF, 0x2000),
        (0, 1),
    ] {
        let payload = Payload::new(PayloadKind::KERNEL, gpa, len, [0; 48]);
        let error = build(&[payload]).unwrap_err();
        assert!(
            matches!(error, ManifestError::PayloadRange { .. }),
            "{gpa:#x}: {error}"
        );
    }
}

#[test]
fn payload_of_impossible_length_is_refused() {
    for (kind, len) in [
        (PayloadKind::KERNEL, 0),
        (PayloadKind::KERNEL, MAX_KERNEL_BYTES + 1),
        (PayloadKind::COMMAND_LINE, MAX_COMMAND_LINE_BYTES + 1),
        (PayloadKind::INITRD, u64::MAX),
    ] {
        let payload = Payload::new(kind, STAGING_BASE, len, [0; 48]);
        let error = build(&[payload]).unwrap_err();
        assert_eq!(
            error,
            ManifestError::PayloadLength {
                kind,
                len_bytes: len
            }
        );
    }
}

#[test]
fn payloads_sharing_a_page_are_refused() {
    let initrd = Payload::new(PayloadKind::INITRD, STAGING_BASE + 0x1000, 5, [9; 48]);
    let error = build(&[kernel(), initrd]).unwrap_err();
    assert_eq!(
        error,
        ManifestError::Overlap(PayloadKind::INITRD, PayloadKind::KERNEL)
    );
}

#[test]
fn second_kernel_and_no_kernel_are_refused() {
    let second = Payload {
        gpa: (STAGING_BASE + 0x10000).into(),
        ..kernel()
    };
    assert_eq!(
        build(&[kernel(), second]),
        Err(ManifestError::Duplicate(PayloadKind::KERNEL))
    );
    assert_eq!(build(&[]), Err(ManifestError::NoKernel));
}

fn staged(kind: PayloadKind, page: u64) -> Payload {
    Payload::new(kind, STAGING_BASE + page * 0x1000, 5, [1; 48])
}

#[test]
fn modules_keep_their_order_and_their_command_lines() {
    let files = [
        kernel(),
        staged(PayloadKind::MODULE, 8),
        staged(PayloadKind::MODULE_COMMAND_LINE, 9),
        staged(PayloadKind::INITRD, 10),
        staged(PayloadKind::MODULE, 11),
        staged(PayloadKind::MODULE_COMMAND_LINE, 12),
    ];
    let manifest = build(&files).unwrap();
    let modules: Vec<_> = manifest.modules().collect();
    assert_eq!(
        modules,
        [
            (&files[1], Some(&files[2])),
            (&files[3], None),
            (&files[4], Some(&files[5])),
        ]
    );
}

#[test]
fn modules_of_the_paravisor_have_limits_and_words() {
    let files = [
        kernel(),
        staged(PayloadKind::PARAVISOR_MODULE, 8),
        staged(PayloadKind::MODULE_COMMAND_LINE, 9),
        staged(PayloadKind::PARAVISOR_MODULE, 10),
    ];
    let manifest = build(&files).unwrap();
    assert!(Manifest::parse(manifest.as_bytes()).is_err());
    let limited = |mib, seconds| {
        let limits = ModuleLimits::new(mib, seconds);
        manifest.clone().with_module_limits(limits)
    };
    let right = limited(9, 60).unwrap();
    assert_eq!(Manifest::parse(right.as_bytes()), Ok(right.clone()));
    assert_eq!(right.module_memory_bytes(), 18 << 20);
    let modules: Vec<_> = right.paravisor_modules().collect();
    let expected = [(&files[1], Some(&files[2])), (&files[3], None)];
    assert_eq!(
        (modules.as_slice(), right.modules().count()),
        (&expected[..], 0)
    );
    for (mib, seconds) in [(0, 60), (9, 0), (33, 60), (u16::MAX, 60)] {
        assert!(limited(mib, seconds).is_err());
    }
    let none = build(&[kernel()]).unwrap();
    assert_eq!(none.module_memory_bytes(), 0);
    assert!(none.with_module_limits(ModuleLimits::new(1, 1)).is_err());
}

#[test]
fn command_line_without_its_module_is_refused() {
    let stray = staged(PayloadKind::MODULE_COMMAND_LINE, 8);
    assert_eq!(
        build(&[kernel(), stray]),
        Err(ManifestError::StrayCommandLine)
    );
    assert_eq!(build(&[stray]), Err(ManifestError::StrayCommandLine));
}

#[test]
fn unused_entries_must_be_zero() {
    let stray = Payload {
        len_bytes: 1.into(),
        ..Payload::EMPTY
    };
    assert_eq!(
        build(&[kernel(), stray]),
        Err(ManifestError::Reserved(PayloadKind::NONE))
    );
}

#[test]
fn firmware_starts_the_guest_in_place_of_a_kernel() {
    let file = |kind, page, len| Payload::new(kind, STAGING_BASE + page, len, [7; 48]);
    let code = file(PayloadKind::FIRMWARE, 0, 0x37_C000);
    let variables = file(PayloadKind::VARIABLES, 0x40_0000, 0x8_4000);
    let manifest = build(&[code, variables]).unwrap();
    assert_eq!(manifest.start(), Start::Firmware);
    assert_eq!(manifest.firmware_range(), Some(0xFFC8_4000..0x1_0000_0000));
    assert_eq!(manifest.variables_range(), Some(0xFFC0_0000..0xFFC8_4000));
    assert_eq!(build(&[kernel()]).unwrap().start(), Start::Kernel);
    let late = |kind| file(kind, 0x80_0000, 0x1000);
    for (files, stray) in [
        ([code, late(PayloadKind::KERNEL)], PayloadKind::KERNEL),
        ([code, late(PayloadKind::INITRD)], PayloadKind::INITRD),
        (
            [kernel(), late(PayloadKind::VARIABLES)],
            PayloadKind::VARIABLES,
        ),
    ] {
        assert_eq!(build(&files), Err(ManifestError::Stray(stray)));
    }
}

#[test]
fn firmware_fits_below_4_gib_in_whole_pages() {
    let file = |kind, page, len| Payload::new(kind, STAGING_BASE + page, len, [7; 48]);
    for (code, variables) in [
        (0x1000, 0x1000),
        (0x2_0800, 0x1000),
        (0x7F_F000, 0x2000),
        (0x2_0000, 0x800),
    ] {
        let files = [
            file(PayloadKind::FIRMWARE, 0, code),
            file(PayloadKind::VARIABLES, 0x80_0000, variables),
        ];
        assert_eq!(
            build(&files),
            Err(ManifestError::Firmware { code, variables })
        );
    }
}
