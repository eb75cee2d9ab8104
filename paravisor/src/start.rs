//! The guest's lives: started, run to its end, started again after a reset.

use stockade_abi::cpuid_page::CpuidPage;
use stockade_abi::terminate::StopReason;
use stockade_apic::{Features, local::BUS_CLOCK_HZ};
use stockade_boot::layout::paravisor;
use stockade_boot::manifest::GuestFlags;
use stockade_bus::Clock;
use stockade_devices::rtc;
use stockade_intercept::cpuid::{CpuidInputs, CpuidPolicy, HypervisorIdentity, TscAdjust, X2Apic};
use stockade_intercept::emulate;
use stockade_paravisor::guest::{self, Plan};
use stockade_paravisor::host::Processor;
use stockade_paravisor::machine::Machine;
use stockade_paravisor::run_loop::{self, End};
use stockade_paravisor::vcpu::Vcpu;
use stockade_platform::ghcb::IoWidth;
use stockade_platform::memory::GuestRam;
use stockade_platform::{Ghcb, Launch, Platform, console, stop};
use zerocopy::FromZeros;

use crate::adapters::{GuestProcessor, PlatformHost, Staging, Time, open_console};

/// How many resets in a row, each soon after the one before, are a loop.
const RESET_LOOP_LIMIT: u32 = 8;
/// What soon is.
const RESET_LOOP_NS: u64 = 10_000_000_000;

/// Runs the guest until it switches off, or stops the machine with a reason.
pub(crate) fn run(platform: Platform) -> ! {
    let Platform {
        cpu,
        ram,
        clock,
        launch,
        ..
    } = platform;
    // The decoder's tables are made now, not at the guest's first exit.
    emulate::prepare();
    let clock = Time(clock);
    let plan = Plan {
        manifest: launch.manifest.clone(),
        ram: *ram.map(),
        vcpus: launch.parameters.vcpu_count,
        tsc_khz: clock.0.frequency_hz() / 1000,
    };
    let policy = cpuid_policy(&launch, &clock);
    let features = Features {
        x2apic: false,
        tsc_deadline: true,
        eoi_suppression: false,
    };
    let mut vcpu = Vcpu::new(0, policy, features, &plan.ram);
    vcpu.stats.paravisor_bytes = paravisor::SIZE;
    let machine = Machine::new(1, clock, wall_clock(&cpu.ghcb));
    if let Err(error) = open_console(&cpu.ghcb) {
        log::warn!("console input does not come in: {error}");
    }
    let processor = GuestProcessor {
        cpu,
        cpuid: launch.cpuid,
    };
    let end = lives(&plan, &mut vcpu, &machine, processor, &ram);
    console::print_line(format_args!("stockade-stats: {}", vcpu.stats.to_json()));
    finish(end)
}

/// Starts the guest again and again, until it ends otherwise than by a reset.
fn lives(
    plan: &Plan,
    vcpu: &mut Vcpu,
    machine: &Machine<Time>,
    mut processor: GuestProcessor,
    ram: &GuestRam,
) -> (End, Ghcb) {
    let mut host = PlatformHost::new(&processor.cpu);
    let (mut resets_in_a_row, mut last_reset_ns) = (0, 0);
    loop {
        processor.reset();
        match guest::prepare(plan, &mut Staging(ram), ram) {
            Ok(state) => guest::set_registers(processor.vmsa_mut(), &state),
            Err(error) => {
                log::error!("{error}");
                return (End::Stop(error.reason()), processor.cpu.ghcb);
            }
        }
        vcpu.power_on(machine);
        log::info!("entering the guest");
        let end = run_loop::run(vcpu, machine, &mut processor, &mut host, ram);
        if end != End::Reset {
            return (end, processor.cpu.ghcb);
        }
        vcpu.stats.resets += 1;
        let now = machine.clock().now_ns();
        let is_soon = now - last_reset_ns < RESET_LOOP_NS;
        resets_in_a_row = if is_soon { resets_in_a_row + 1 } else { 1 };
        last_reset_ns = now;
        if resets_in_a_row > RESET_LOOP_LIMIT {
            return (End::Stop(StopReason::GUEST_RESET_LOOP), processor.cpu.ghcb);
        }
        log::info!("the guest resets");
        machine.reset();
    }
}

fn finish((end, ghcb): (End, Ghcb)) -> ! {
    match end {
        End::PowerOff | End::Reset => {
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

fn cpuid_policy(launch: &Launch, clock: &Time) -> CpuidPolicy {
    let mut page = CpuidPage::new_zeroed();
    for (slot, entry) in page.entries.iter_mut().zip(launch.cpuid.entries()) {
        *slot = *entry;
        page.count += 1;
    }
    let inputs = CpuidInputs {
        vcpus: launch.parameters.vcpu_count,
        tsc_hz: clock.0.frequency_hz(),
        apic_timer_hz: u32::try_from(BUS_CLOCK_HZ).unwrap_or(u32::MAX),
        identity: identity(launch.manifest.flags()),
        x2apic: X2Apic::Hidden,
        tsc_adjust: TscAdjust::default(),
    };
    CpuidPolicy::try_new(&page, inputs).unwrap_or_else(|error| {
        log::error!("{error}");
        stop(StopReason::CPUID_PAGE_INVALID)
    })
}

fn identity(flags: GuestFlags) -> HypervisorIdentity {
    if flags.contains(GuestFlags::BARE_IDENTITY) {
        HypervisorIdentity::Bare
    } else if flags.contains(GuestFlags::VMWARE_IDENTITY) {
        HypervisorIdentity::Vmware
    } else {
        HypervisorIdentity::Stockade
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
