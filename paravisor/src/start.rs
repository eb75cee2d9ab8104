//! The start: the guest's machine from what the launch left, and every processor to its place.

use alloc::boxed::Box;
use alloc::sync::Arc;

use spin::{Mutex, Once};
use stockade_abi::terminate::StopReason;
use stockade_apic::Features;
use stockade_boot::layout::paravisor;
use stockade_boot::manifest::{GuestFlags, Manifest, Start};
use stockade_boot::measured;
use stockade_devices::rtc;
use stockade_intercept::cpuid::CpuidPolicy;
use stockade_intercept::emulate;
use stockade_paravisor::crew::End;
use stockade_paravisor::guest::{self, Plan};
use stockade_paravisor::life::{self, Post};
use stockade_paravisor::machine::{FirmwareFittings, Fittings, Functions, Machine, TestFittings};
use stockade_paravisor::module::Modules;
use stockade_paravisor::module::outside::NoEntropy;
use stockade_paravisor::tpm::{self, Lasting, Presence, TpmFitting};
use stockade_paravisor::vcpu::Vcpu;
use stockade_paravisor::virtio::Bays;
use stockade_platform::boot::heap;
use stockade_platform::cpuid::CpuidTable;
use stockade_platform::ghcb::IoWidth;
use stockade_platform::memory::GuestRam;
use stockade_platform::module::ModuleMemory;
use stockade_platform::{Cpu, Ghcb, Platform, console, random, stop};

use crate::adapters::{GuestProcessor, PlatformHost, Staging, Time, open_console};
use crate::firmware;
use crate::fit::{self, Fit, Fitter};
use crate::identity;
use crate::modules::{self, Kept};

/// What every processor finds when it starts.
struct Shared {
    start: Start,
    policy: CpuidPolicy,
    features: Features,
    cpuid: &'static CpuidTable,
    machine: Machine<Time>,
    ram: &'static GuestRam,
    modules: Option<ModuleMemory>,
}

static RAM: Once<GuestRam> = Once::new();
static SHARED: Once<Shared> = Once::new();

/// Runs the guest until it switches off, or stops the machine with a reason.
pub(crate) fn run(platform: Platform) -> ! {
    let Platform {
        cpu,
        ram,
        clock,
        launch,
        bounce,
        mut psp,
        modules,
        mut processors,
        ..
    } = platform;
    // The decoder's tables are made now, not at the guest's first exit.
    emulate::prepare();
    let clock = Time(clock);
    let vcpus = launch.parameters.vcpu_count;
    let ram: &'static GuestRam = RAM.call_once(|| ram);
    let plan = Plan {
        manifest: launch.manifest.clone(),
        ram: *ram.map(),
        vcpus,
        tsc_khz: clock.0.frequency_hz() / 1000,
    };
    load_firmware(&launch.manifest, ram).unwrap_or_else(|reason| stop(reason));
    let mut fitter = Fitter {
        host: &mut PlatformHost::new(&cpu),
        ram,
        clock,
        psp: &mut psp,
        ghcb: cpu.ghcb,
        vcpus,
    };
    let devices = fit::devices(&launch.manifest, bounce, &mut fitter);
    let mut devices = devices.unwrap_or_else(|reason| stop(reason));
    let firmware = firmware::fittings(&launch, ram, &devices);
    let firmware = firmware.unwrap_or_else(|reason| stop(reason));
    let unix_seconds = wall_clock(&cpu.ghcb);
    let records = Kept::new(&launch.manifest, devices.bays.records());
    check_tpm_state(&launch.manifest, &records).unwrap_or_else(|reason| stop(reason));
    let means = modules::Means {
        memory: modules.clone(),
        ram,
        clock,
        unix_seconds,
        cpuid: launch.cpuid,
        records,
        psp: Arc::new(Mutex::new(psp)),
    };
    let tenants = Arc::new(modules::modules(&launch.manifest, &means));
    devices.bays.ring_for_records(tenants.bell());
    let fittings = fittings(&launch.manifest, vcpus, ram, tenants);
    let fittings = fittings.unwrap_or_else(|reason| stop(reason));
    let shared = SHARED.call_once(|| Shared {
        start: launch.manifest.start(),
        policy: identity::policy(&launch, clock.0.frequency_hz()),
        features: identity::features(launch.manifest.flags()),
        cpuid: launch.cpuid,
        machine: Machine::with_fittings(
            count(vcpus),
            clock,
            unix_seconds,
            fitted(fittings, devices, firmware),
        ),
        ram,
        modules,
    });
    if let Err(error) = open_console(&cpu.ghcb) {
        log::warn!("console input does not come in: {error}");
    }
    for apic_id in 1..vcpus {
        if let Err(error) = processors.start(&cpu.ghcb, apic_id, follow) {
            log::error!("processor {apic_id}: {error}");
            stop(StopReason::VMSA_CREATE_FAILED);
        }
    }
    lead(shared, &plan, cpu)
}

/// Programs the guest's read-only memory, checks it and lets the guest have it.
fn load_firmware(manifest: &Manifest, ram: &GuestRam) -> Result<(), StopReason> {
    if manifest.start() == Start::Kernel {
        return Ok(());
    }
    let program = |gpa, bytes: &[u8]| ram.write_rom(gpa, bytes);
    guest::load_firmware(manifest, &mut Staging(ram), program).map_err(|error| {
        log::error!("{error}");
        error.reason()
    })?;
    ram.open_rom().map_err(|error| {
        log::error!("the firmware's pages: {error}");
        StopReason::ACCEPT_FAILED
    })
}

/// The first processor: starts the guest, and ends the machine when the guest has ended.
fn lead(shared: &'static Shared, plan: &Plan, cpu: Cpu) -> ! {
    let ghcb = cpu.ghcb;
    let mut vcpu = shared.vcpu(&cpu);
    vcpu.stats.paravisor_bytes = paravisor::SIZE + plan.manifest.extra_bytes();
    let (mut host, mut processor) = shared.sides(cpu);
    let post = shared.post(&mut vcpu, &mut processor, &mut host);
    let end = life::lead(post, &mut |vmsa| {
        if shared.machine.take_clear_request() {
            guest::clear_memory(&plan.ram, shared.ram)
                .map_err(|_| StopReason::HOST_WITHDREW_MEMORY)?;
        }
        let prepared = guest::prepare(plan, &mut Staging(shared.ram), shared.ram);
        let state = prepared.map_err(|error| {
            log::error!("{error}");
            error.reason()
        })?;
        if let Some(state) = state {
            guest::set_registers(vmsa, &state);
        }
        // What one life of the guest leaves behind shows in the next.
        log::info!("heap: {} bytes in use", heap::used_bytes());
        Ok(())
    });
    vcpu.stats.refusals = shared.machine.bays().refusals();
    let modules = shared.modules.as_ref();
    vcpu.stats.module_bytes = modules.map_or(0, ModuleMemory::most_bytes);
    console::print_line(format_args!("stockade-stats: {}", vcpu.stats.to_json()));
    finish((end, ghcb))
}

/// Every other processor.
fn follow(cpu: Cpu) -> ! {
    // The first processor had everything ready before it started this one.
    let Some(shared) = SHARED.get() else {
        stop(StopReason::INTERNAL_PANIC)
    };
    let mut vcpu = shared.vcpu(&cpu);
    let (mut host, mut processor) = shared.sides(cpu);
    stop(life::follow(shared.post(
        &mut vcpu,
        &mut processor,
        &mut host,
    )))
}

impl Shared {
    fn vcpu(&self, cpu: &Cpu) -> Box<Vcpu> {
        let (policy, features) = (self.policy.clone(), self.features);
        let vcpu = Vcpu::new(count(cpu.apic_id), policy, features, self.ram.map());
        Box::new(vcpu.started_by(self.start))
    }

    fn sides(&self, cpu: Cpu) -> (PlatformHost, GuestProcessor) {
        let host = PlatformHost::new(&cpu);
        let cpuid = self.cpuid;
        (host, GuestProcessor { cpu, cpuid })
    }

    fn post<'a>(
        &'static self,
        vcpu: &'a mut Vcpu,
        processor: &'a mut GuestProcessor,
        host: &'a mut PlatformHost,
    ) -> Post<'a, GuestProcessor, PlatformHost, Time> {
        Post {
            vcpu,
            machine: &self.machine,
            processor,
            host,
            memory: self.ram,
        }
    }
}

/// A number of processors, which always fits.
fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn fittings(
    manifest: &Manifest,
    vcpus: u32,
    ram: &'static GuestRam,
    modules: Arc<Modules>,
) -> Result<Fittings, StopReason> {
    let test_devices = TestFittings {
        memory: ram,
        vcpus: u16::try_from(vcpus).unwrap_or(u16::MAX),
        ram_bytes: ram.map().bytes(),
    };
    let flags = manifest.flags();
    Ok(Fittings {
        start: manifest.start(),
        hpet: flags.contains(GuestFlags::HPET),
        firmware: None,
        functions: Functions::default(),
        bays: Bays::default(),
        tpm: tpm(manifest, &modules)?,
        modules,
        test_devices: flags
            .contains(GuestFlags::TEST_DEVICES)
            .then_some(test_devices),
    })
}

/// A guest whose TPM cannot have its state is not started: with a TPM that fails, or with a new one, it would go another way than the one
/// its owner sealed and measured.
fn check_tpm_state(manifest: &Manifest, records: &Kept) -> Result<(), StopReason> {
    if manifest.flags().contains(GuestFlags::TPM) && matches!(records, Kept::Nowhere) {
        log::error!("the TPM: T01: the store that has its state is missing");
        return Err(StopReason::TPM_LOST);
    }
    Ok(())
}

/// Returns what the TPM is put together from, if the guest is to have one. A host that changes the words of its engine takes its name away.
fn tpm(manifest: &Manifest, modules: &Modules) -> Result<Option<TpmFitting>, StopReason> {
    if !manifest.flags().contains(GuestFlags::TPM) {
        return Ok(None);
    }
    let Some(channel) = modules.channel(tpm::ENGINE) else {
        log::error!("the TPM: T02: no module is its engine");
        return Err(StopReason::TPM_LOST);
    };
    let lasting = match manifest.devices().store() {
        Some(_) => Lasting::Kept,
        None => {
            log::warn!("the TPM is a new one: its keys and all it keeps end with the machine");
            Lasting::Ephemeral
        }
    };
    Ok(Some(TpmFitting {
        channel,
        lasting,
        measurements: measured::measurements(manifest),
        presence: match manifest.start() {
            Start::Kernel => Presence::Absent,
            Start::Firmware => Presence::Firmware,
        },
        random: |value| random::fill(value).map_err(|_| NoEntropy),
    }))
}

fn fitted(fittings: Fittings, devices: Fit, firmware: Option<FirmwareFittings>) -> Fittings {
    Fittings {
        firmware,
        functions: devices.functions,
        bays: devices.bays,
        ..fittings
    }
}

fn finish((end, ghcb): (End, Ghcb)) -> ! {
    match end {
        End::PowerOff | End::Reset | End::Exit(_) => {
            if let End::Exit(status) = end {
                console::print_line(format_args!("stockade-exit: {status}"));
            }
            // A host that does not switch off is left with a stop it cannot overlook.
            let _ = ghcb.power_off();
            stop(StopReason::GHCB_PROTOCOL)
        }
        End::Stop(reason) => {
            log::error!("stopping: {reason}");
            stop(reason)
        }
    }
}

/// The time of day as the host has it. Nothing secret or lasting depends on it; a guest that needs the true time asks elsewhere.
fn wall_clock(ghcb: &Ghcb) -> u64 {
    let read = |cell: u8| {
        let asked = ghcb.io_out(0x70, IoWidth::Byte, u32::from(cell));
        let value = asked.and_then(|()| ghcb.io_in(0x71, IoWidth::Byte));
        value.map_or(0xFF, |value| value.to_le_bytes()[0])
    };
    rtc::unix_seconds(read).unwrap_or(0)
}
