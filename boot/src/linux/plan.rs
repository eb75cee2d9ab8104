//! Where the parts of a Linux start go in guest memory.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::IntoBytes;

use super::boot_params::BootParams;
use super::header::{ENTRY_64_OFFSET, SetupHeader};
use crate::launch::{Encryption, LaunchState, Write, structures};
use crate::layout::{PAGE_SIZE, guest};
use crate::memory_map;
use crate::ram::RamMap;

/// How long the parts are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The kernel file.
    pub kernel: u64,
    /// The initial RAM disk; 0 if there is none.
    pub initrd: u64,
    /// The command line, without a terminating zero.
    pub command_line: u64,
}

/// Why the parts do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The kernel needs more RAM.
    #[error("the kernel needs {needed} bytes of memory, {available} bytes are there below 4 GiB")]
    KernelMemory {
        /// From 0 to where the kernel would end.
        needed: u64,
        /// Usable low RAM.
        available: u64,
    },
    /// The initrd does not fit between the kernel and the end of what may be used.
    #[error("the initrd of {needed} bytes does not fit into the {available} bytes left")]
    InitrdMemory {
        /// The initrd's length.
        needed: u64,
        /// What is left.
        available: u64,
    },
    /// Longer than the kernel takes.
    #[error("the command line has {len_bytes} bytes, this kernel takes {limit}")]
    CommandLine {
        /// The command line's length.
        len_bytes: u64,
        /// The kernel's limit.
        limit: u64,
    },
}

/// The places of everything, fixed before the first byte is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    header: SetupHeader,
    ram: RamMap,
    kernel: Range<u64>,
    initrd: Range<u64>,
    setup_bytes: u64,
    /// The RSDP's address told to the kernel, or 0.
    pub acpi_rsdp: u64,
    /// The first node of the kernel's `setup_data` list, or 0.
    pub setup_data: u64,
    /// How the page tables of the start say that memory is private.
    pub encryption: Encryption,
}

impl LoadPlan {
    /// Places a kernel with this header, and what comes with it, in `ram`.
    pub fn try_new(header: SetupHeader, sizes: Sizes, ram: RamMap) -> Result<Self, PlanError> {
        check_command_line(&header, sizes.command_line)?;
        let setup_bytes = header.setup_bytes();
        let proper_bytes = sizes.kernel.saturating_sub(setup_bytes);
        let run_bytes = proper_bytes.max(header.init_size.get().into());
        let usable = ram.acpi_tables().start;
        let start = kernel_start(&header, run_bytes, usable)?;
        let initrd = place_initrd(&header, sizes.initrd, start + run_bytes, usable)?;
        Ok(Self {
            header,
            ram,
            kernel: start..start + proper_bytes,
            initrd,
            setup_bytes,
            acpi_rsdp: 0,
            setup_data: 0,
            encryption: Encryption::Implied,
        })
    }

    /// Returns where the file's bytes after its setup part go.
    #[must_use]
    pub fn kernel(&self) -> Range<u64> {
        self.kernel.clone()
    }

    /// Returns where the initrd goes; empty if there is none.
    #[must_use]
    pub fn initrd(&self) -> Range<u64> {
        self.initrd.clone()
    }

    /// Returns the place and the part of a chunk at `offset` of the kernel file that belongs to the kernel proper.
    #[must_use]
    pub fn place_kernel_chunk<'a>(&self, offset: u64, chunk: &'a [u8]) -> (u64, &'a [u8]) {
        let skipped = self.setup_bytes.saturating_sub(offset);
        let chunk = usize::try_from(skipped)
            .ok()
            .and_then(|skipped| chunk.get(skipped..));
        let gpa = self.kernel.start + offset.saturating_sub(self.setup_bytes);
        (gpa, chunk.unwrap_or_default())
    }

    /// Returns everything to be written besides kernel and initrd: tables, zero page, command line.
    #[must_use]
    pub fn writes(&self, command_line: &[u8]) -> Vec<Write> {
        let mut writes = Vec::from(structures(self.encryption));
        writes.push((guest::ZERO_PAGE, self.zero_page().as_bytes().to_vec()));
        let terminated = [command_line, &[0]].concat();
        writes.push((guest::COMMAND_LINE, terminated));
        writes
    }

    /// Returns the registers of the first vCPU.
    #[must_use]
    pub fn launch_state(&self) -> LaunchState {
        let entry = self.kernel.start + ENTRY_64_OFFSET;
        LaunchState::new_64_bit(entry, guest::ZERO_PAGE, self.encryption)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "try_new placed both below 4 GiB"
    )]
    fn zero_page(&self) -> Box<BootParams> {
        let mut page = BootParams::new(&self.header, &memory_map::e820(&self.ram));
        page.acpi_rsdp_addr = self.acpi_rsdp.into();
        page.header.code32_start = (self.kernel.start as u32).into();
        page.header.setup_data = self.setup_data.into();
        if !self.initrd.is_empty() {
            page.header.ramdisk_image = (self.initrd.start as u32).into();
            page.header.ramdisk_size = ((self.initrd.end - self.initrd.start) as u32).into();
        }
        page.header.cmd_line_ptr = (guest::COMMAND_LINE as u32).into();
        page
    }
}

fn check_command_line(header: &SetupHeader, len_bytes: u64) -> Result<(), PlanError> {
    let limit = u64::from(header.cmdline_size.get()).min(guest::COMMAND_LINE_SIZE - 1);
    if len_bytes > limit {
        return Err(PlanError::CommandLine { len_bytes, limit });
    }
    Ok(())
}

/// Where the kernel prefers to be, or the lowest place if it does not fit there and can move.
fn kernel_start(header: &SetupHeader, run_bytes: u64, usable: u64) -> Result<u64, PlanError> {
    let fits = |start: &u64| {
        *start >= guest::EXTENDED_START
            && start
                .checked_add(run_bytes)
                .is_some_and(|end| end <= usable)
    };
    let preferred = header.pref_address.get();
    let lowest = guest::EXTENDED_START.next_multiple_of(header.kernel_alignment.get().into());
    Some(preferred)
        .filter(fits)
        .or_else(|| Some(lowest).filter(|start| header.is_relocatable() && fits(start)))
        .ok_or(PlanError::KernelMemory {
            needed: lowest.saturating_add(run_bytes),
            available: usable,
        })
}

/// As high as allowed: the kernel decompresses upwards from its place.
fn place_initrd(
    header: &SetupHeader,
    len_bytes: u64,
    kernel_end: u64,
    usable: u64,
) -> Result<Range<u64>, PlanError> {
    if len_bytes == 0 {
        return Ok(0..0);
    }
    let limit = usable.min(u64::from(header.initrd_addr_max.get()) + 1);
    let floor = kernel_end.next_multiple_of(PAGE_SIZE);
    match limit
        .checked_sub(len_bytes)
        .map(|start| start & !(PAGE_SIZE - 1))
    {
        Some(start) if start >= floor => Ok(start..start + len_bytes),
        _ => Err(PlanError::InitrdMemory {
            needed: len_bytes,
            available: limit.saturating_sub(floor),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::tests::header;
    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZES: Sizes = Sizes {
        kernel: 0x800 + 3 * MIB,
        initrd: 5 * MIB + 3,
        command_line: 20,
    };

    fn plan(header: SetupHeader, sizes: Sizes, mib: u64) -> Result<LoadPlan, PlanError> {
        LoadPlan::try_new(header, sizes, RamMap::of_size(mib * MIB).unwrap())
    }

    #[test]
    fn kernel_goes_where_it_prefers() {
        let plan = plan(header(), SIZES, 256).unwrap();
        assert_eq!(plan.kernel(), 0x100_0000..0x100_0000 + 3 * MIB);
        assert_eq!(plan.launch_state().rip, 0x100_0200);
        assert_eq!(plan.launch_state().rsi, guest::ZERO_PAGE);
    }

    #[test]
    fn kernel_moves_down_if_it_does_not_fit() {
        let header = SetupHeader {
            init_size: 0x140_0000.into(),
            ..header()
        };
        let sizes = Sizes {
            initrd: MIB,
            ..SIZES
        };
        assert_eq!(
            plan(header.clone(), sizes, 32).unwrap().kernel().start,
            2 * MIB
        );
        let fixed = SetupHeader {
            relocatable_kernel: 0,
            ..header
        };
        assert!(matches!(
            plan(fixed, sizes, 32),
            Err(PlanError::KernelMemory { .. })
        ));
    }

    #[test]
    fn initrd_lies_high_and_apart_from_the_kernel_and_the_tables() {
        for mib in [64, 256, 4096] {
            let plan = plan(header(), SIZES, mib).unwrap();
            let initrd = plan.initrd();
            assert_eq!(initrd.end - initrd.start, SIZES.initrd);
            assert!(initrd.start >= 0x140_0000 && initrd.start.is_multiple_of(PAGE_SIZE));
            assert!(initrd.end <= plan.ram.acpi_tables().start);
            assert!(initrd.end <= 0x8000_0000);
        }
    }

    #[test]
    fn too_little_memory_is_named_with_numbers() {
        let big = SetupHeader {
            init_size: 0x4000_0000.into(),
            ..header()
        };
        let error = plan(big, SIZES, 256).unwrap_err();
        assert!(
            matches!(
                error,
                PlanError::KernelMemory {
                    needed: 0x4020_0000,
                    ..
                }
            ),
            "{error}"
        );
        let error = plan(
            header(),
            Sizes {
                initrd: 300 * MIB,
                ..SIZES
            },
            256,
        )
        .unwrap_err();
        assert!(matches!(error, PlanError::InitrdMemory { .. }), "{error}");
        let error = plan(
            header(),
            Sizes {
                initrd: u64::MAX,
                ..SIZES
            },
            256,
        )
        .unwrap_err();
        assert!(matches!(error, PlanError::InitrdMemory { .. }), "{error}");
    }

    #[test]
    fn command_line_beyond_the_kernels_limit_is_refused() {
        let error = plan(
            header(),
            Sizes {
                command_line: 2048,
                ..SIZES
            },
            256,
        )
        .unwrap_err();
        assert_eq!(
            error,
            PlanError::CommandLine {
                len_bytes: 2048,
                limit: 2047
            }
        );
    }

    #[test]
    fn absurd_headers_never_place_outside_memory() {
        for pref_address in [0, 0x1000, u64::MAX, 0x1_0000_0000, 0xFFFF_F000] {
            for init_size in [0, u32::MAX] {
                let header = SetupHeader {
                    pref_address: pref_address.into(),
                    init_size: init_size.into(),
                    ..header()
                };
                if let Ok(plan) = plan(header, SIZES, 256) {
                    assert!(plan.kernel().start >= MIB && plan.kernel().end <= 256 * MIB);
                }
            }
        }
    }

    #[test]
    fn setup_part_is_cut_from_chunks() {
        let plan = plan(header(), SIZES, 256).unwrap();
        let chunk = [0; 0x1000];
        let (gpa, part) = plan.place_kernel_chunk(0, &chunk);
        assert_eq!((gpa, part.len()), (0x100_0000, 0x800));
        let (gpa, part) = plan.place_kernel_chunk(0x1000, &chunk);
        assert_eq!((gpa, part.len()), (0x100_0800, 0x1000));
        let (gpa, part) = plan.place_kernel_chunk(0x100, &chunk[..0x100]);
        assert_eq!((gpa, part.len()), (0x100_0000, 0));
    }
}
