//! Where everything lies in guest-physical memory: the numbers of `docs/architecture.md`, section 2.
//!
//! The image builder, the paravisor and the guest loaders read them here and nowhere else. Three modules: the address
//! space at large is this one, [`paravisor`] the paravisor's 8 MiB, [`guest`] the places in guest RAM used to start it.
//! Assertions at the end prove at compile time that nothing overlaps.

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 0x1000;
/// Bytes in a large page.
pub const LARGE_PAGE_SIZE: u64 = 0x20_0000;

/// The position of the C-bit in a page-table entry of VMPL0, as on all SNP parts so far.
pub const C_BIT: u32 = 51;
/// Bytes at and above this guest-physical address are shared as the host counts them (IGVM's `shared_gpa_boundary`).
pub const SHARED_GPA_BOUNDARY: u64 = 1 << C_BIT;

/// One past the highest address of guest RAM below the PCI hole.
pub const LOW_RAM_END: u64 = 0xB000_0000;
/// The first address of guest RAM above 4 GiB.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// One past the highest address guest RAM may reach: the paravisor begins there.
pub const HIGH_RAM_END: u64 = paravisor::BASE;
/// The least guest RAM we start a guest with.
pub const MINIMUM_RAM: u64 = 32 << 20;

/// PCI Express configuration space (PCI Firmware 3.3, section 4.1).
pub const ECAM_BASE: u64 = 0xB000_0000;
/// Bytes of [`ECAM_BASE`]: 1 MiB a bus.
pub const ECAM_SIZE: u64 = 0x1000_0000;
/// The last bus reached by ECAM.
pub const ECAM_LAST_BUS: u8 = 255;
/// The window of PCI memory BARs.
pub const PCI_WINDOW_BASE: u64 = 0xC000_0000;
/// Bytes of the PCI window.
pub const PCI_WINDOW_SIZE: u64 = 0x3EC0_0000;
/// The window of PCI memory BARs above 4 GiB: beyond the most guest RAM and beyond the paravisor.
pub const PCI_WINDOW64_BASE: u64 = 0x100_0000_0000;
/// Bytes of [`PCI_WINDOW64_BASE`].
pub const PCI_WINDOW64_SIZE: u64 = 0x100_0000_0000;
/// The IOAPIC's registers.
pub const IOAPIC_BASE: u64 = 0xFEC0_0000;
/// The HPET's registers, on machines that have one.
pub const HPET_BASE: u64 = 0xFED0_0000;
/// The TPM's command-response buffer, locality 0.
pub const TPM_CRB_BASE: u64 = 0xFED4_0000;
/// Where requests of physical presence are kept for firmware, behind the TPM's localities, as QEMU has it.
pub const TPM_PPI_BASE: u64 = TPM_CRB_BASE + 5 * PAGE_SIZE;
/// The local APIC's registers after reset.
pub const LAPIC_BASE: u64 = 0xFEE0_0000;

/// Bytes below [`HIGH_RAM_START`] that firmware may have: code, and the flash below it.
pub const FIRMWARE_MAX_SIZE: u64 = 8 << 20;

/// Memory for modules of the paravisor, private and VMPL0's alone. An image has as much of it as its manifest says.
pub const MODULES_BASE: u64 = 0x80_1000_0000;
/// The most there can be.
pub const MODULES_MAX_SIZE: u64 = 64 << 20;

/// Payload files as shared pages: the host sees and may change them at any time.
pub const STAGING_BASE: u64 = 0x80_4000_0000;
/// Bytes of the staging range.
pub const STAGING_SIZE: u64 = 0x4000_0000 - BOUNCE_MAX_SIZE;
/// One past the last address of the staging range.
pub const STAGING_END: u64 = STAGING_BASE + STAGING_SIZE;

/// Shared memory that devices' data is bounced through. An image has as much of it as its manifest says, from the start.
pub const BOUNCE_BASE: u64 = STAGING_END;
/// The most there can be.
pub const BOUNCE_MAX_SIZE: u64 = 64 << 20;
/// One past the last address there can be.
pub const BOUNCE_END: u64 = BOUNCE_BASE + BOUNCE_MAX_SIZE;

/// The guest's virtual top of memory: everything below is private to it (APM vol. 2, 15.36.8).
pub const VTOM: u64 = 1 << 46;
/// The launch VMSA: VMPL0, first vCPU.
pub const LAUNCH_VMSA: u64 = 0xFFFF_FFFF_F000;

/// The paravisor's own memory. It is mapped one to one: virtual address = guest-physical address.
pub mod paravisor {
    use super::{LARGE_PAGE_SIZE, PAGE_SIZE};

    /// Where the paravisor begins (512 GiB).
    pub const BASE: u64 = 0x80_0000_0000;
    /// Bytes the paravisor has.
    pub const SIZE: u64 = 0x80_0000;
    /// One past the paravisor's last address.
    pub const END: u64 = BASE + SIZE;

    /// The most memory an image may give the paravisor from [`END`] on; the launch's page tables do not have it.
    pub const EXTRA_MAX_SIZE: u64 = 64 << 20;

    /// Never mapped: catches null-like offsets.
    pub const LOW_GUARD: u64 = BASE;
    /// PML4, PDPT, PD, PT in this order.
    pub const PAGE_TABLES: u64 = BASE + 0x1000;
    /// How many pages of tables there are.
    pub const PAGE_TABLE_PAGES: u64 = 4;
    /// The top-level page table (CR3 without the C-bit).
    pub const PML4: u64 = PAGE_TABLES;
    /// The page-directory-pointer table.
    pub const PDPT: u64 = PAGE_TABLES + PAGE_SIZE;
    /// The page directory.
    pub const PD: u64 = PAGE_TABLES + 2 * PAGE_SIZE;
    /// The page table of the first [`SMALL_PAGE_SPAN`] bytes.
    pub const PT: u64 = PAGE_TABLES + 3 * PAGE_SIZE;
    /// The CPUID page, checked by the PSP at launch (SNP firmware ABI, section 8.17.2.6).
    pub const CPUID_PAGE: u64 = BASE + 0x5000;
    /// The secrets page, written by the PSP at launch (SNP firmware ABI, section 8.17.2.5).
    pub const SECRETS_PAGE: u64 = BASE + 0x6000;
    /// The manifest ([`crate::manifest::Manifest`]), measured.
    pub const MANIFEST_PAGE: u64 = BASE + 0x7000;
    /// What the host tells at launch (`parameters`), unmeasured.
    pub const PARAMETERS_PAGE: u64 = BASE + 0x8000;
    /// Never mapped: a boot stack that runs over faults.
    pub const STACK_GUARD: u64 = BASE + 0x9000;
    /// The boot stack's lowest address.
    pub const STACK_BASE: u64 = BASE + 0xA000;
    /// Bytes of the boot stack.
    pub const STACK_SIZE: u64 = 6 * PAGE_SIZE;
    /// The boot stack's first (highest) value.
    pub const STACK_TOP: u64 = STACK_BASE + STACK_SIZE;
    /// The lowest address an ELF segment may have.
    pub const IMAGE_BASE: u64 = BASE + 0x1_0000;
    /// Bytes mapped by 4 KiB entries at launch; the rest is mapped by 2 MiB entries, writable and not executable.
    pub const SMALL_PAGE_SPAN: u64 = LARGE_PAGE_SIZE;
    /// One past the highest address an ELF segment (with its `.bss`) may have: the span of the page table.
    pub const IMAGE_END: u64 = BASE + SMALL_PAGE_SPAN;

    /// Offset of the vCPU count (u32) in the parameters page.
    pub const PARAMETERS_VCPU_COUNT: u64 = 0;
    /// Offset of the memory map in the parameters page.
    pub const PARAMETERS_MEMORY_MAP: u64 = 0x100;
}

/// Places in guest RAM that a direct boot uses. All but the ACPI tables are free again once the guest's kernel runs.
pub mod guest {
    /// The loader's descriptor table.
    pub const GDT: u64 = 0x1000;
    /// The zero page (`struct boot_params`).
    pub const ZERO_PAGE: u64 = 0x7000;
    /// PML4, PDPT and four page directories: the first 4 GiB one to one, for the kernel's 64-bit entry.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// How many pages of tables there are.
    pub const PAGE_TABLE_PAGES: u64 = 6;
    /// The stack a loaded kernel starts with (grows down).
    pub const STACK_TOP: u64 = 0x1_F000;
    /// The kernel's command line.
    pub const COMMAND_LINE: u64 = 0x2_0000;
    /// Bytes at [`COMMAND_LINE`], with the terminating zero.
    pub const COMMAND_LINE_SIZE: u64 = 0x1_0000;
    /// One past the conventional memory reported to the guest.
    pub const CONVENTIONAL_END: u64 = 0x9_FC00;
    /// One past the low megabyte's hole, where extended memory begins.
    pub const EXTENDED_START: u64 = 0x10_0000;
    /// The RSDP, where a guest that scans for it looks (ACPI 6.5, section 5.2.5.1).
    pub const RSDP: u64 = 0xE_0000;
    /// Bytes at the top of the low RAM for the ACPI tables (reclaimable).
    pub const ACPI_TABLES_SIZE: u64 = 0x4_0000;
    /// Bytes above the ACPI tables for what the guest must never reclaim (the FACS).
    pub const ACPI_NVS_SIZE: u64 = 0x1_0000;
    /// Offset there of the byte by which a guest asks for its memory to be cleared at the next reset.
    pub const MEMORY_CLEAR_REQUEST: u64 = 0x1000;
    /// Offset there of the log of what was measured into the TPM.
    pub const TPM_LOG: u64 = 0x8000;
    /// Bytes of the log.
    pub const TPM_LOG_SIZE: u64 = ACPI_NVS_SIZE - TPM_LOG;
}

const fn assert_ascending(ranges: &[(u64, u64)]) {
    let mut index = 0;
    while index < ranges.len() {
        assert!(ranges[index].0 < ranges[index].1, "an empty range");
        assert!(
            index == 0 || ranges[index - 1].1 <= ranges[index].0,
            "two ranges overlap"
        );
        index += 1;
    }
}

const _: () = assert_ascending(&[
    (0, LOW_RAM_END),
    (ECAM_BASE, ECAM_BASE + ECAM_SIZE),
    (PCI_WINDOW_BASE, PCI_WINDOW_BASE + PCI_WINDOW_SIZE),
    (IOAPIC_BASE, IOAPIC_BASE + PAGE_SIZE),
    (HPET_BASE, HPET_BASE + PAGE_SIZE),
    (TPM_CRB_BASE, TPM_CRB_BASE + 5 * PAGE_SIZE),
    (TPM_PPI_BASE, TPM_PPI_BASE + PAGE_SIZE),
    (LAPIC_BASE, LAPIC_BASE + PAGE_SIZE),
    (HIGH_RAM_START - FIRMWARE_MAX_SIZE, HIGH_RAM_START),
    (HIGH_RAM_START, HIGH_RAM_END),
    (paravisor::BASE, paravisor::END),
    (paravisor::END, paravisor::END + paravisor::EXTRA_MAX_SIZE),
    (MODULES_BASE, MODULES_BASE + MODULES_MAX_SIZE),
    (STAGING_BASE, STAGING_END),
    (BOUNCE_BASE, BOUNCE_END),
    (PCI_WINDOW64_BASE, PCI_WINDOW64_BASE + PCI_WINDOW64_SIZE),
    (VTOM, VTOM + 1),
    (LAUNCH_VMSA, LAUNCH_VMSA + PAGE_SIZE),
    (SHARED_GPA_BOUNDARY, SHARED_GPA_BOUNDARY + 1),
]);

const _: () = {
    use paravisor as p;
    assert_ascending(&[
        (p::LOW_GUARD, p::LOW_GUARD + PAGE_SIZE),
        (
            p::PAGE_TABLES,
            p::PAGE_TABLES + p::PAGE_TABLE_PAGES * PAGE_SIZE,
        ),
        (p::CPUID_PAGE, p::CPUID_PAGE + PAGE_SIZE),
        (p::SECRETS_PAGE, p::SECRETS_PAGE + PAGE_SIZE),
        (p::MANIFEST_PAGE, p::MANIFEST_PAGE + PAGE_SIZE),
        (p::PARAMETERS_PAGE, p::PARAMETERS_PAGE + PAGE_SIZE),
        (p::STACK_GUARD, p::STACK_GUARD + PAGE_SIZE),
        (p::STACK_BASE, p::STACK_TOP),
        (p::IMAGE_BASE, p::IMAGE_END),
        (p::IMAGE_END, p::END),
    ]);
    // One page directory must do, with the image at its first entry.
    assert!(p::BASE.is_multiple_of(1 << 30) && p::SIZE <= 1 << 30);
    assert!(p::PARAMETERS_VCPU_COUNT + 4 <= p::PARAMETERS_MEMORY_MAP);
};

const _: () = {
    use guest as g;
    assert_ascending(&[
        (g::GDT, g::GDT + PAGE_SIZE),
        (g::ZERO_PAGE, g::ZERO_PAGE + PAGE_SIZE),
        (
            g::PAGE_TABLES,
            g::PAGE_TABLES + g::PAGE_TABLE_PAGES * PAGE_SIZE,
        ),
        (g::STACK_TOP - PAGE_SIZE, g::STACK_TOP),
        (g::COMMAND_LINE, g::COMMAND_LINE + g::COMMAND_LINE_SIZE),
        (g::CONVENTIONAL_END, g::CONVENTIONAL_END + 1),
        (g::RSDP, g::EXTENDED_START),
        (
            g::EXTENDED_START,
            MINIMUM_RAM - g::ACPI_TABLES_SIZE - g::ACPI_NVS_SIZE,
        ),
    ]);
};
