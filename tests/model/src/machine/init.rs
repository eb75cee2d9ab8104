//! The first processor's way from the loader to a machine that is ready.

use alloc::boxed::Box;
use core::ops::Range;

use thiserror::Error;

use super::firmware::Tables;
use super::memory::{CHUNK_BYTES, HostPa};
use super::options::{OptionError, Options};
use super::processor::{self, PerCpu};
use super::start_info::{StartInfo, StartInfoError};
use super::{clock, console, frames, heap, ioapic, iommu, lapic, memory_map, paging, pic, smp};

/// What the loader asked for.
#[derive(Debug)]
pub struct Boot {
    /// The command line's words.
    pub options: Options<'static>,
    /// The IGVM file: the loader's only module.
    pub image: Option<&'static [u8]>,
}

/// Why the machine cannot be used.
#[derive(Debug, Error)]
pub enum InitError {
    /// The loader's words make no sense.
    #[error(transparent)]
    StartInfo(#[from] StartInfoError),
    /// There is too little memory.
    #[error("too little memory: the largest free range has {0} bytes")]
    Memory(u64),
    /// The command line is wrong.
    #[error(transparent)]
    Options(#[from] OptionError<'static>),
    /// The firmware's ACPI tables are wrong.
    #[error("the firmware's ACPI tables: {0}")]
    Firmware(&'static str),
    /// The processor lacks something.
    #[error(
        "the processor has {0} physical address bits, 52 are needed: start QEMU with -cpu EPYC-Milan,+la57,phys-bits=52"
    )]
    AddressBits(u32),
}

unsafe extern "C" {
    /// The page below the first processor's stack.
    safe static boot_stack_guard: u8;
}

/// Memory the mapping reaches.
const MAPPED: Range<u64> = 0..512 << 30;
/// The firmware's and the trampoline's.
const LOW: Range<u64> = 0..0x10_0000;
/// The largest heap, and the share of memory it may take.
const HEAP_BYTES: u64 = 64 << 20;
const HEAP_SHARE: u64 = 6;

/// Makes this, the first, processor and all the machine's devices ready.
///
/// # Errors
///
/// An [`InitError`]; the console works by then.
///
/// # Safety
///
/// 1. It is called once, first of all, on the first processor, with the address the loader passed, the image at `image`.
pub unsafe fn init(start_info: u64, image: Range<u64>) -> Result<Boot, InitError> {
    console::start();
    // SAFETY: (1).
    let info = unsafe { StartInfo::read(start_info) }?;
    // SAFETY: (1) nothing is in use yet but the image and what the loader says.
    unsafe { share_memory_out(&info, image) }?;
    // SAFETY: (1) free memory was shared out by the loader's map, which leaves the tables out.
    let tables =
        unsafe { Tables::read(info.rsdp()) }.map_err(|_| InitError::Firmware("unreadable"))?;
    smp::set_processors(lapic::id(), &tables.apic_ids);
    let boot = PerCpu::try_new(smp::boot_index(), lapic::id()).ok_or(InitError::Memory(0))?;
    smp::make_ready(Box::leak(Box::new(boot)));
    lapic::listen_to_pic(true);
    processor::announce(processor::current());
    clock::start();
    pic::start();
    check_processor()?;
    let options = Options::parse(info.command_line())?;
    guard_own_pages();
    start_devices(&tables, options.tsc_khz)?;
    let image = info.module();
    log::info!(
        "{} processors, {} MiB free, image of {} bytes",
        smp::count(),
        frames::free_bytes() >> 20,
        image.map_or(0, <[u8]>::len)
    );
    Ok(Boot { options, image })
}

/// Makes ready what the firmware's tables name.
fn start_devices(tables: &Tables, tsc_khz: Option<u64>) -> Result<(), InitError> {
    ioapic::start(tables.ioapic.ok_or(InitError::Firmware("no IOAPIC"))?);
    let port = tables
        .pm_timer_port
        .ok_or(InitError::Firmware("no PM timer"))?;
    clock::calibrate(port, tsc_khz);
    if let Some(base) = tables.iommu {
        iommu::found(base);
    }
    Ok(())
}

/// # Safety
///
/// 1. Nothing uses memory but the image and what `info` says.
unsafe fn share_memory_out(info: &StartInfo, image: Range<u64>) -> Result<(), InitError> {
    let [a, b, c, d, e] = info.used();
    let mut used = [LOW, MAPPED.end..u64::MAX, image, a, b, c, d, e, 0..0];
    let mut largest = 0..0;
    memory_map::free_parts(info.ram(), &used, |part| {
        if part.end - part.start > largest.end - largest.start {
            largest = part;
        }
    });
    let size = largest.end - largest.start;
    let start = largest.start.next_multiple_of(CHUNK_BYTES);
    let bytes = (size / HEAP_SHARE).min(HEAP_BYTES) & !(CHUNK_BYTES - 1);
    if bytes == 0 || start + bytes > largest.end {
        return Err(InitError::Memory(size));
    }
    let length = usize::try_from(bytes).map_err(|_| InitError::Memory(size))?;
    // SAFETY: (1) the range is RAM nobody uses, and joins `used` below.
    unsafe { heap::start(HostPa::new(start).as_ptr(), length) };
    if let Some(last) = used.last_mut() {
        *last = start..start + bytes;
    }
    // SAFETY: (1) each part is RAM nobody uses.
    memory_map::free_parts(info.ram(), &used, |part| unsafe { frames::add(part) });
    Ok(())
}

/// Makes the page below the first stack absent, and the null pointer's.
fn guard_own_pages() {
    for page in [HostPa::of(&boot_stack_guard), HostPa::new(0)] {
        // SAFETY: the first is padding; page 0 was the firmware's, and its tables have been read.
        let is_guarded = unsafe { paging::guard(page) };
        assert!(is_guarded, "no memory for page tables");
    }
}

fn check_processor() -> Result<(), InitError> {
    // The entry checked the features; CPUID 8000_0008 is there on every long-mode processor.
    let bits = core::arch::x86_64::__cpuid(0x8000_0008).eax & 0xFF;
    if bits < 52 {
        return Err(InitError::AddressBits(bits));
    }
    Ok(())
}
