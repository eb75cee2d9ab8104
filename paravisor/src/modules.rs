//! The modules of the manifest, on the platform's address spaces.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use spin::Mutex;
use stockade_boot::manifest::{Manifest, Payload};
use stockade_boot::payload::{self, PayloadSource, Unreadable};
use stockade_bus::Clock;
use stockade_paravisor::module::channel::Bell;
use stockade_paravisor::module::outside::{NoEntropy, NoReport};
use stockade_paravisor::module::runtime::{Limits, Plan, Runtime};
use stockade_paravisor::module::space::{
    Access, BadAddress, Exception, Exit, OutOfMemory, Registers, Space,
};
use stockade_paravisor::module::{
    Modules, NoRecords, Outside, RecordStore, SealedRecords, VolatileRecords,
};
use stockade_paravisor::records::Records;
use stockade_platform::cpuid::CpuidTable;
use stockade_platform::memory::GuestRam;
use stockade_platform::module::{
    ModuleExit, ModuleMemory, ModuleRegisters, ModuleSpace, PageAccess,
};
use stockade_platform::psp::{Psp, PspError};
use stockade_platform::random;
use zerocopy::IntoBytes;

use crate::adapters::{Staging, Time};

const PAGES_A_MIB: usize = 256;
const NANOSECONDS: u64 = 1_000_000_000;

/// What modules are made of.
pub(crate) struct Means {
    pub(crate) memory: Option<ModuleMemory>,
    pub(crate) ram: &'static GuestRam,
    pub(crate) clock: Time,
    pub(crate) unix_seconds: u64,
    pub(crate) cpuid: &'static CpuidTable,
    pub(crate) records: Kept,
    pub(crate) psp: Arc<Mutex<Psp>>,
}

/// Where modules' records are kept.
pub(crate) enum Kept {
    /// In the sealed store.
    In(Records),
    /// In memory: the image has no store.
    InMemory,
    /// Nowhere: the image has a store, and it cannot be opened.
    Nowhere,
}

impl Kept {
    /// Returns where, from the store the image has and the one that could be opened.
    pub(crate) fn new(manifest: &Manifest, records: Option<&Records>) -> Self {
        match (records, manifest.devices().store()) {
            (Some(records), _) => Self::In(records.clone()),
            (None, Some(_)) => Self::Nowhere,
            (None, None) => Self::InMemory,
        }
    }

    fn store(&self, module: &str, bell: &Bell) -> Box<dyn RecordStore> {
        match self {
            Self::In(records) => Box::new(SealedRecords::new(
                records.clone(),
                module.as_bytes(),
                bell.clone(),
            )),
            Self::InMemory => Box::new(VolatileRecords::default()),
            Self::Nowhere => Box::new(NoRecords),
        }
    }

    fn report(&self) {
        match self {
            Self::In(_) => log::info!("modules' records are in the sealed store"),
            Self::InMemory => {
                log::warn!("modules' records are kept in memory alone: they end with the machine");
            }
            Self::Nowhere => log::error!("modules' records are missing: they are refused"),
        }
    }
}

/// Returns the modules of the manifest; their programs are loaded when they have their first turns.
pub(crate) fn modules(manifest: &Manifest, means: &Means) -> Modules {
    let mut modules = Modules::default();
    let Some(memory) = &means.memory else {
        return modules;
    };
    let limits = manifest.module_limits();
    let limits = Limits {
        pages: usize::from(limits.memory_mib.get()) * PAGES_A_MIB,
        busy_ns: u64::from(limits.busy_seconds.get()) * NANOSECONDS,
    };
    for (file, words) in manifest.paravisor_modules() {
        let plan = Plan {
            file: *file,
            arguments: arguments(words, means.ram),
            limits,
        };
        add(&mut modules, plan, memory, means);
    }
    means.records.report();
    modules
}

fn add(modules: &mut Modules, plan: Plan, memory: &ModuleMemory, means: &Means) {
    let name = String::from(plan.name());
    if modules.channel(&name).is_some() {
        // It would find the first one's records, and have reports that pass for the first one's.
        log::error!("module {name}: another one has this name, it is not started");
        return;
    }
    let records = means.records.store(&name, modules.bell());
    let space = match memory.space() {
        Ok(space) => OwnSpace(space),
        Err(error) => {
            log::error!("module {name}: {error}");
            return;
        }
    };
    let outside = World {
        clock: means.clock,
        unix_seconds: means.unix_seconds,
        cpuid: means.cpuid,
        psp: Arc::clone(&means.psp),
    };
    let runtime = Runtime::new(
        plan,
        ModuleFile(means.ram),
        space,
        modules.bell().clone(),
        records,
        Box::new(outside),
    );
    let channel = Arc::clone(runtime.channel());
    modules.add(&name, channel, Box::new(runtime));
}

/// Returns the words of a module; what the host made unreadable are none.
fn arguments(words: Option<&Payload>, ram: &'static GuestRam) -> Vec<String> {
    let text = words.map(|words| payload::read(words, &mut Staging(ram)));
    let text = match text {
        Some(Ok(text)) => text,
        Some(Err(error)) => {
            log::error!("{error}");
            Vec::new()
        }
        None => Vec::new(),
    };
    let text = String::from_utf8_lossy(&text);
    text.split_ascii_whitespace().map(String::from).collect()
}

/// The staged file of a module.
struct ModuleFile(&'static GuestRam);

impl PayloadSource for ModuleFile {
    fn read(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        Staging(self.0).read(gpa, buffer)
    }
}

/// The world as modules are given it.
struct World {
    clock: Time,
    unix_seconds: u64,
    cpuid: &'static CpuidTable,
    psp: Arc<Mutex<Psp>>,
}

impl Outside for World {
    fn monotonic_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn realtime_ns(&self) -> u64 {
        let start = self.unix_seconds.saturating_mul(NANOSECONDS);
        start.saturating_add(self.clock.now_ns())
    }

    fn random(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        random::fill(buffer).map_err(|_| NoEntropy)
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.cpuid.module_answer(leaf, subleaf)
    }

    fn report(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, NoReport> {
        let report = self.psp.lock().report_here(report_data);
        match report {
            Ok(report) => Ok(report.as_bytes().to_vec()),
            Err(PspError::Busy) => Err(NoReport::Busy),
            Err(error) => {
                log::error!("no attestation report: {error}");
                Err(NoReport::Refused)
            }
        }
    }

    fn log(&mut self, module: &str, line: &str) {
        log::info!("module {module}: {line}");
    }
}

/// The platform's address space under the library's trait.
struct OwnSpace(ModuleSpace);

impl Space for OwnSpace {
    fn map(&mut self, page: u64, access: Access, limit: usize) -> Result<(), OutOfMemory> {
        let access = match access {
            Access::None => PageAccess::None,
            Access::Read => PageAccess::Read,
            Access::Write => PageAccess::Write,
            Access::Execute => PageAccess::Execute,
        };
        self.0.map(page, access, limit).map_err(|_| OutOfMemory)
    }

    fn unmap(&mut self, pages: Range<u64>) {
        self.0.unmap(pages);
    }

    fn shift(&mut self, from: u64, to: u64, limit: usize) -> Result<(), OutOfMemory> {
        self.0.shift(from, to, limit).map_err(|_| OutOfMemory)
    }

    fn pages(&self) -> usize {
        self.0.frames()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.0
            .read(address, buffer)
            .map_err(|error| BadAddress(error.0))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.0
            .write(address, bytes)
            .map_err(|error| BadAddress(error.0))
    }

    fn load(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.0
            .load(address, bytes)
            .map_err(|error| BadAddress(error.0))
    }

    fn run(&mut self, registers: &mut Registers) -> Exit {
        let mut own = to_platform(registers);
        let exit = self.0.run(&mut own);
        *registers = from_platform(&own);
        match exit {
            ModuleExit::Call => Exit::Call,
            ModuleExit::Interrupted => Exit::Interrupted,
            ModuleExit::Exception(vector, error, address) => Exit::Exception(Exception {
                vector,
                error,
                address,
            }),
        }
    }
}

fn to_platform(from: &Registers) -> ModuleRegisters {
    ModuleRegisters {
        general: [
            from.rbx, from.rcx, from.rdx, from.rsi, from.rdi, from.rbp, from.r8, from.r9, from.r10,
            from.r11, from.r12, from.r13, from.r14, from.r15,
        ],
        rax: from.rax,
        rsp: from.rsp,
        rip: from.rip,
        rflags: from.rflags,
        fs_base: from.fs_base,
    }
}

fn from_platform(from: &ModuleRegisters) -> Registers {
    let [
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = from.general;
    Registers {
        rax: from.rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp: from.rsp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: from.rip,
        rflags: from.rflags,
        fs_base: from.fs_base,
    }
}
