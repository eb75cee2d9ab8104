//! The parameters page, which the host fills as it likes.

use stockade_boot::layout::{HIGH_RAM_END, HIGH_RAM_START, LOW_RAM_END, MINIMUM_RAM};
use stockade_boot::parameters::{MemoryEntry, Parameters};
use zerocopy::IntoBytes;

const MAX_VCPUS: u32 = 16;

/// Parses a page, zeros behind the input. What is accepted is a machine of the architecture's shape.
pub fn run(data: &[u8]) {
    let mut page = [0; 4096];
    let len = data.len().min(page.len());
    page[..len].copy_from_slice(&data[..len]);
    let Ok(parameters) = Parameters::parse(&page, MAX_VCPUS) else {
        return;
    };
    assert!((1..=MAX_VCPUS).contains(&parameters.vcpu_count));
    let ram = parameters.ram;
    assert!((MINIMUM_RAM..=LOW_RAM_END).contains(&ram.low_end()));
    assert!((HIGH_RAM_START..=HIGH_RAM_END).contains(&ram.high_end()));
    let expected = stockade_boot::memory_map::e820(&ram);
    let ends = expected
        .windows(2)
        .all(|pair| pair[0].end() <= pair[1].address.get());
    assert!(ends, "an e820 map out of order");
}

/// A small and a large machine.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let small = vec![MemoryEntry::memory(0, 64 << 20)];
    let large = vec![
        MemoryEntry::memory(0, 0x1000_0000),
        MemoryEntry::memory(0x1000_0000, LOW_RAM_END - 0x1000_0000),
        MemoryEntry::memory(HIGH_RAM_START, 8 << 30),
        MemoryEntry::memory(stockade_boot::layout::paravisor::BASE, 0x80_0000),
    ];
    [small, large]
        .into_iter()
        .map(|entries| {
            let mut page = vec![0; 0x100];
            page[0] = 2;
            page.extend(entries.as_bytes());
            page
        })
        .collect()
}
