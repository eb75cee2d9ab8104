//! The manifest page.

use stockade_boot::layout::{MODULES_MAX_SIZE, STAGING_BASE, STAGING_END};
use stockade_boot::manifest::{GuestFlags, Manifest, ModuleLimits, Payload, PayloadKind};
use zerocopy::IntoBytes;

/// Parses a page. What is accepted lies in the staging range and is written again byte for byte.
pub fn run(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else {
        return;
    };
    assert_eq!(manifest.as_bytes(), &data[..size_of::<Manifest>()]);
    for file in manifest.payloads() {
        let end = file.gpa.get().checked_add(file.len_bytes.get());
        assert!(file.gpa.get() >= STAGING_BASE && end.is_some_and(|end| end <= STAGING_END));
    }
    assert!(manifest.payload(PayloadKind::KERNEL).is_some());
    assert!(manifest.modules().count() <= manifest.payloads().count());
    assert!(manifest.module_memory_bytes() <= MODULES_MAX_SIZE);
}

/// A manifest of a kernel alone, and one of everything.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let file = |kind, page: u64| Payload::new(kind, STAGING_BASE + page * 0x1000, 5, [1; 48]);
    let all = [
        file(PayloadKind::KERNEL, 0),
        file(PayloadKind::MODULE, 1),
        file(PayloadKind::MODULE_COMMAND_LINE, 2),
        file(PayloadKind::INITRD, 3),
        file(PayloadKind::COMMAND_LINE, 4),
    ];
    [&all[..1], &all]
        .into_iter()
        .filter_map(|files| Manifest::new(51, 4, GuestFlags::HPET, files).ok())
        .chain(with_a_module())
        .map(|manifest| manifest.as_bytes().to_vec())
        .collect()
}

/// A manifest with a module of the paravisor, which needs limits.
fn with_a_module() -> Option<Manifest> {
    let file = |kind, page: u64| Payload::new(kind, STAGING_BASE + page * 0x1000, 5, [1; 48]);
    let files = [
        file(PayloadKind::KERNEL, 0),
        file(PayloadKind::PARAVISOR_MODULE, 1),
        file(PayloadKind::MODULE_COMMAND_LINE, 2),
    ];
    let manifest = Manifest::new(51, 4, GuestFlags::TPM, &files).ok()?;
    manifest.with_module_limits(ModuleLimits::new(8, 60)).ok()
}
