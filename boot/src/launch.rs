//! The registers a vCPU starts with, and the descriptor and page tables they point to.
//!
//! [`LaunchState`] is one of two plain starts on flat segments: 64-bit with the first 4 GiB mapped one to one, what the 64-bit
//! boot protocol of Linux asks for and as good for any other 64-bit image; or 32-bit without paging, what multiboot and PVH
//! kernels ask for.

use alloc::vec;
use alloc::vec::Vec;

use zerocopy::IntoBytes;

use crate::layout::{LARGE_PAGE_SIZE, PAGE_SIZE, guest};

/// A segment register. `attributes` are packed as in VMCB and VMSA: descriptor bits 40-47 and 52-55 (APM vol. 2, 15.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// Selector.
    pub selector: u16,
    /// Packed attributes.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

impl SegmentState {
    /// Flat 64-bit code, ring 0.
    pub const CODE_64: Self = Self {
        selector: 0x10,
        attributes: 0xA9B,
        limit: u32::MAX,
        base: 0,
    };
    /// Flat 32-bit code, ring 0.
    pub const CODE_32: Self = Self {
        selector: 0x10,
        attributes: 0xC9B,
        limit: u32::MAX,
        base: 0,
    };
    /// Flat data, ring 0.
    pub const DATA: Self = Self {
        selector: 0x18,
        attributes: 0xC93,
        limit: u32::MAX,
        base: 0,
    };
    /// No local descriptor table.
    pub const NO_LDT: Self = Self {
        selector: 0,
        attributes: 0x82,
        limit: 0xFFFF,
        base: 0,
    };
    /// A task register as after reset, but 64-bit busy.
    pub const TASK: Self = Self {
        selector: 0,
        attributes: 0x8B,
        limit: 0xFFFF,
        base: 0,
    };
}

impl SegmentState {
    /// The task register of a 32-bit start (Xen `docs/misc/pvh.pandoc`).
    pub const TASK_32: Self = Self {
        limit: 0x67,
        ..Self::TASK
    };
}

/// A table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Base.
    pub base: u64,
    /// Limit in bytes, one less than the size.
    pub limit: u16,
}

/// The registers of a start. General registers not named are 0, all others as after reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchState {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// For multiboot the loader's magic number.
    pub rax: u64,
    /// For multiboot and PVH the address of what the kernel is told.
    pub rbx: u64,
    /// For Linux the address of the zero page.
    pub rsi: u64,
    /// Flags.
    pub rflags: u64,
    /// 64-bit: PE, MP, ET, NE, WP, PG; 32-bit: PE, ET.
    pub cr0: u64,
    /// The top-level page table, with the C-bit if there is one; 0 without paging.
    pub cr3: u64,
    /// 64-bit: PAE and SSE; 32-bit: nothing.
    pub cr4: u64,
    /// 64-bit: LME and LMA; 32-bit: nothing. Who makes a VMSA of this adds SVME.
    pub efer: u64,
    /// CS.
    pub cs: SegmentState,
    /// DS, ES, SS, FS and GS.
    pub data: SegmentState,
    /// LDTR.
    pub ldtr: SegmentState,
    /// TR.
    pub tr: SegmentState,
    /// GDTR.
    pub gdtr: TableState,
    /// IDTR: empty, any exception stops the vCPU.
    pub idtr: TableState,
}

impl LaunchState {
    /// Returns a start at `rip` on the tables of [`structures`].
    #[must_use]
    pub fn new_64_bit(rip: u64, rsi: u64, encryption: Encryption) -> Self {
        Self {
            rip,
            rsp: guest::STACK_TOP,
            rax: 0,
            rbx: 0,
            rsi,
            rflags: 0x2,
            cr0: 0x8001_0033,
            cr3: guest::PAGE_TABLES | encryption.mask(),
            cr4: 0x620,
            efer: 0x500,
            cs: SegmentState::CODE_64,
            data: SegmentState::DATA,
            ldtr: SegmentState::NO_LDT,
            tr: SegmentState::TASK,
            gdtr: TableState {
                base: guest::GDT,
                limit: GDT_LIMIT,
            },
            idtr: TableState { base: 0, limit: 0 },
        }
    }

    /// Returns a 32-bit start without paging at `entry`, with [`table_32`] at `table` and a stack that ends at `stack`.
    #[must_use]
    pub fn new_32_bit(entry: u32, eax: u32, ebx: u32, table: u64, stack: u64) -> Self {
        Self {
            rip: entry.into(),
            rsp: stack,
            rax: eax.into(),
            rbx: ebx.into(),
            rsi: 0,
            rflags: 0x2,
            cr0: 0x11,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: SegmentState::CODE_32,
            data: SegmentState::DATA,
            ldtr: SegmentState::NO_LDT,
            tr: SegmentState::TASK_32,
            gdtr: TableState {
                base: table,
                limit: GDT_LIMIT,
            },
            idtr: TableState { base: 0, limit: 0 },
        }
    }
}

/// How page tables say that memory is private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// They need not: all below vTOM is private.
    Implied,
    /// By setting this bit.
    CBit(u32),
}

impl Encryption {
    fn mask(self) -> u64 {
        match self {
            Self::Implied => 0,
            Self::CBit(bit) => 1_u64.checked_shl(bit).unwrap_or(0),
        }
    }
}

/// Null, unused, 64-bit code, data: `__BOOT_CS` and `__BOOT_DS` of Linux, boot protocol section "64-bit boot protocol".
const GDT: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
const GDT_LIMIT: u16 = 8 * 4 - 1;
const _: () = assert!(GDT_LIMIT as usize == size_of_val(&GDT) - 1);
/// The same with 32-bit code.
const GDT_32: [u64; 4] = [0, 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
const _: () = assert!(size_of_val(&GDT_32) == size_of_val(&GDT));

/// Returns the descriptor table of [`LaunchState::new_32_bit`].
#[must_use]
pub fn table_32() -> &'static [u8] {
    GDT_32.as_bytes()
}

/// Bytes to be put at an address before the start.
pub type Write = (u64, Vec<u8>);

/// Returns the descriptor table and the page tables of [`LaunchState::new_64_bit`].
#[must_use]
pub fn structures(encryption: Encryption) -> [Write; 2] {
    [
        (guest::GDT, GDT.as_bytes().to_vec()),
        (
            guest::PAGE_TABLES,
            identity_tables(guest::PAGE_TABLES, encryption),
        ),
    ]
}

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const ENTRIES: usize = 512;

/// PML4, PDPT and four page directories mapping the first 4 GiB one to one with 2 MiB pages.
fn identity_tables(base: u64, encryption: Encryption) -> Vec<u8> {
    let flags = PRESENT_WRITABLE | encryption.mask();
    let page = |index: u64| base + index * PAGE_SIZE;
    let mut entries = vec![0_u64; 2 * ENTRIES];
    entries[0] = page(1) | flags;
    for directory in 0..4 {
        entries[ENTRIES + directory] = page(2 + directory as u64) | flags;
    }
    entries.extend((0..4 * ENTRIES as u64).map(|n| (n * LARGE_PAGE_SIZE) | LARGE | flags));
    debug_assert_eq!(
        size_of_val(&*entries) as u64,
        guest::PAGE_TABLE_PAGES * PAGE_SIZE
    );
    entries.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as hardware does and returns the physical address, without the bit `private`.
    fn translate(tables: &[u8], virtual_address: u64, private: u64) -> Option<u64> {
        let mut table = guest::PAGE_TABLES;
        for shift in [39, 30, 21] {
            let index = (virtual_address >> shift) & 0x1FF;
            let offset = usize::try_from(table - guest::PAGE_TABLES + index * 8).unwrap();
            let entry = u64::from_le_bytes(tables[offset..offset + 8].try_into().unwrap());
            if entry & 1 == 0 {
                return None;
            }
            assert_eq!(entry & private, private);
            table = entry & !private & !0xFFF;
        }
        Some(table + (virtual_address & 0x1F_FFFF))
    }

    #[test]
    fn first_four_gib_are_mapped_one_to_one() {
        for (encryption, private) in [(Encryption::Implied, 0), (Encryption::CBit(51), 1 << 51)] {
            let tables = identity_tables(guest::PAGE_TABLES, encryption);
            for address in [0, 0x7000, 0x1F_FFFF, 0x20_0000, 0x4000_0001, 0xFFFF_FFFF] {
                assert_eq!(translate(&tables, address, private), Some(address));
            }
            assert_eq!(translate(&tables, 0x1_0000_0000, private), None);
        }
    }

    /// Multiboot 0.6.96, 3.2 and Xen's PVH document: PE alone, no paging, no long mode, interrupts off.
    #[test]
    fn protected_mode_start_is_what_multiboot_and_pvh_say() {
        let state = LaunchState::new_32_bit(0x10_0000, 0x2BAD_B002, 0x9000, 0x8000, 0x9000);
        assert_eq!(
            (state.cr0 & !0x10, state.cr3, state.cr4, state.efer),
            (1, 0, 0, 0)
        );
        assert_eq!(state.rflags, 2);
        assert_eq!(
            (state.rip, state.rax, state.rbx),
            (0x10_0000, 0x2BAD_B002, 0x9000)
        );
        assert_eq!((state.cs.attributes, state.cs.limit), (0xC9B, u32::MAX));
        assert_eq!((state.tr.attributes, state.tr.limit), (0x8B, 0x67));
    }

    #[test]
    fn segment_registers_match_the_descriptors() {
        let long = LaunchState::new_64_bit(0, 0, Encryption::Implied);
        let protected = LaunchState::new_32_bit(0, 0, 0, 0, 0);
        for (state, table) in [(long, GDT), (protected, GDT_32)] {
            for segment in [state.cs, state.data] {
                let descriptor = table[usize::from(segment.selector / 8)];
                let attributes = (descriptor >> 40) & 0xFF | (descriptor >> 44) & 0xF00;
                assert_eq!(u64::from(segment.attributes), attributes);
            }
            assert_eq!(u64::from(state.gdtr.limit) + 1, 32);
        }
    }
}
