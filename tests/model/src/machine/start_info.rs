//! What a PVH loader hands over: memory map, modules, command line. Xen, `start_info.h`.

use core::ffi::CStr;
use core::ops::Range;

use thiserror::Error;

/// `hvm_start_info`, version 1.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Raw {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const _: () = assert!(
    size_of::<Raw>() == 56 && size_of::<Module>() == 32 && size_of::<MemoryMapEntry>() == 24
);

const MAGIC: u32 = 0x336E_C578;
const RAM: u32 = 1;

/// Why there is nothing to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StartInfoError {
    /// Not a PVH loader.
    #[error("the loader is not PVH: magic {0:#x}")]
    Magic(u32),
    /// A PVH loader without a memory map.
    #[error("the loader passes no memory map: PVH version {0}")]
    Version(u32),
    /// The command line is not text.
    #[error("the command line is not UTF-8")]
    CommandLine,
}

/// The loader's words, in its memory.
#[derive(Debug)]
pub(super) struct StartInfo {
    raw: Raw,
    memory_map: &'static [MemoryMapEntry],
    module: Option<Module>,
    command_line: &'static str,
    at: u64,
}

impl StartInfo {
    /// Reads what is at `address`.
    ///
    /// # Safety
    ///
    /// 1. `address` is what the loader passed in EBX; its memory is as the loader left it, and stays so.
    pub(super) unsafe fn read(address: u64) -> Result<Self, StartInfoError> {
        // SAFETY: (1) a loader that keeps to the protocol points there; the magic tells.
        let raw: Raw = unsafe { *pointer(address) };
        if raw.magic != MAGIC {
            return Err(StartInfoError::Magic(raw.magic));
        }
        if raw.version < 1 {
            return Err(StartInfoError::Version(raw.version));
        }
        // SAFETY: (1) the list has that many entries.
        let memory_map = unsafe { list(raw.memory_map, raw.memory_map_entries) };
        // SAFETY: (1) as above.
        let modules: &[Module] = unsafe { list(raw.module_list, raw.modules) };
        let command_line = if raw.command_line == 0 {
            c""
        } else {
            // SAFETY: (1) a zero-terminated string.
            unsafe { CStr::from_ptr(pointer(raw.command_line)) }
        };
        let command_line = command_line
            .to_str()
            .map_err(|_| StartInfoError::CommandLine)?;
        Ok(Self {
            raw,
            memory_map,
            module: modules.first().copied(),
            command_line,
            at: address,
        })
    }

    /// The command line.
    pub(super) const fn command_line(&self) -> &'static str {
        self.command_line
    }

    /// Address of the RSDP, or 0.
    pub(super) const fn rsdp(&self) -> u64 {
        self.raw.rsdp
    }

    /// The first module's bytes; none when there is no module.
    pub(super) fn module(&self) -> Option<&'static [u8]> {
        let module = self.module?;
        let length = usize::try_from(module.size).ok()?;
        // SAFETY: the loader put that many bytes there, and `used` keeps them from being given out.
        Some(unsafe { core::slice::from_raw_parts(pointer(module.address), length) })
    }

    /// The ranges of RAM.
    pub(super) fn ram(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let ram = self.memory_map.iter().filter(|entry| entry.kind == RAM);
        ram.map(|entry| entry.address..entry.address.saturating_add(entry.size))
    }

    /// What of the RAM the loader uses.
    pub(super) fn used(&self) -> [Range<u64>; 5] {
        let raw = &self.raw;
        let of = |start: u64, bytes: u64| start..start.saturating_add(bytes);
        [
            of(self.at, 56),
            of(raw.memory_map, u64::from(raw.memory_map_entries) * 24),
            of(raw.module_list, u64::from(raw.modules) * 32),
            of(raw.command_line, self.command_line.len() as u64 + 1),
            self.module
                .map_or(0..0, |module| of(module.address, module.size)),
        ]
    }
}

fn pointer<T>(address: u64) -> *const T {
    super::memory::HostPa::new(address)
        .as_ptr::<T>()
        .cast_const()
}

/// # Safety
///
/// 1. `count` objects lie at `address` and stay, unless `count` or `address` is 0.
unsafe fn list<T>(address: u64, count: u32) -> &'static [T] {
    match usize::try_from(count) {
        // SAFETY: (1).
        Ok(count) if count > 0 && address > 0 => unsafe {
            core::slice::from_raw_parts(pointer(address), count)
        },
        _ => &[],
    }
}
