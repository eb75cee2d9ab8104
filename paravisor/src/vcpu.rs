//! One vCPU: everything the guest's processor has beyond the registers in its save area.

mod bus;

use stockade_abi::vmsa::Vmsa;
use stockade_apic::{
    Config, Effect, Features, LocalApic, LocalEvent, NmiLatch, Role, Time, TimerDeadline,
    VirtualInterrupt, route,
};
use stockade_boot::layout::{LOW_RAM_END, PCI_WINDOW64_BASE, PCI_WINDOW64_SIZE};
use stockade_boot::manifest::Start;
use stockade_boot::ram::RamMap;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::cpuid::{CpuidPolicy, CpuidState, PHYSICAL_ADDRESS_BITS};
use stockade_intercept::emulate::{Emulator, Exception};
use stockade_intercept::msr::MsrFile;

use crate::host::Timekeeper;
use crate::hyperv::HyperV;
use crate::machine::Machine;
use crate::patience::Patience;
use crate::startup;
use crate::stats::{Stats, Work};
use crate::vigil::Vigils;

pub use bus::Bus;

/// Width of the guest's physical addresses, for the local APIC's own.
#[expect(clippy::cast_possible_truncation, reason = "it is less than 64")]
pub const PHYSICAL_BITS: u8 = PHYSICAL_ADDRESS_BITS as u8;
/// Bits of an address in the guest's page tables that its processor, which has more than it tells, takes: all below vTOM.
pub(crate) const TRANSLATED_BITS: u8 = 46;
const _: () = assert!(PCI_WINDOW64_BASE + PCI_WINDOW64_SIZE == 1 << PHYSICAL_ADDRESS_BITS);

/// Whether the guest's processor executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It does.
    Running,
    /// It waits in HLT.
    Halted,
    /// It waits for a start-up IPI (APM vol. 2, 16.5), as application processors do after RESET and INIT.
    WaitingForStartUp,
}

/// One vCPU.
pub struct Vcpu {
    /// Its number, which is its APIC id.
    pub index: usize,
    /// Its local APIC.
    pub apic: LocalApic,
    /// MSRs that are not in the save area.
    pub msrs: MsrFile,
    /// What CPUID answers.
    pub cpuid: CpuidPolicy,
    /// Hyper-V's interface, if the guest is told of it.
    pub hyperv: Option<HyperV>,
    /// Where RAM ends above 4 GiB: what firmware would have put into TOP_MEM2.
    ram_end: Gpa,
    /// What the guest's first vCPU starts with.
    start: Start,
    /// Executes what touches a device.
    pub emulator: Emulator,
    /// Executing or halted.
    pub activity: Activity,
    /// Whether the processor delivers and masks the guest's NMIs by itself.
    pub has_virtual_nmi: bool,
    /// NMIs the save area does not hold.
    pub nmi: NmiLatch,
    /// The exception to raise at the next entry.
    pub exception: Option<Exception>,
    /// Branch prediction barriers (PRED_CMD) the guest asked for since its last entry.
    pub prediction_barrier: u64,
    /// What was put into the save area's virtual interrupt at the last entry.
    pub queued: Option<VirtualInterrupt>,
    /// The TSC value the host's timer is set to; `u64::MAX` while it is not.
    pub armed_tsc: u64,
    /// Faults in guest RAM since the last exit of another kind.
    pub faults_in_a_row: u64,
    /// How long devices may gather.
    pub patience: Patience,
    /// What came of looking for the host's answers before it sleeps.
    pub vigils: Vigils,
    /// Whether it is to come back when a device has gathered for so long.
    pub keeps_look: bool,
    /// Whom its interrupts were for and who must be kicked for them, a bit a vCPU.
    pub wakes: u64,
    /// What the exit that is being answered turned out to be.
    pub work: Work,
    /// Whether the last look at time and host still holds: the exit since then moved no deadline.
    pub is_settled: bool,
    /// Whether nothing waits to get into the guest but interrupts of its local APIC, and nothing went in but those.
    pub is_calm: bool,
    /// The TSC when the guest's last exit or the last sleep ended, until the next entry.
    pub left_at: Option<u64>,
    /// What is counted.
    pub stats: Stats,
}

impl Vcpu {
    /// Returns vCPU `index` after power-on.
    #[must_use]
    pub fn new(index: usize, cpuid: CpuidPolicy, features: Features, ram: &RamMap) -> Self {
        let config = Config {
            id: u32::try_from(index).unwrap_or(u32::MAX),
            role: if index == 0 {
                Role::Bootstrap
            } else {
                Role::Application
            },
            features,
            physical_address_bits: PHYSICAL_BITS,
        };
        let mut vcpu = Self {
            index,
            apic: LocalApic::new(config),
            msrs: MsrFile::new(cpuid.msr_features()),
            has_virtual_nmi: cpuid.has_virtual_nmi(),
            hyperv: cpuid.reference_clock().map(HyperV::new),
            cpuid,
            ram_end: Gpa(ram.high_end()),
            start: Start::default(),
            emulator: Emulator::new(TRANSLATED_BITS),
            activity: Activity::Running,
            nmi: NmiLatch::default(),
            exception: None,
            prediction_barrier: 0,
            queued: None,
            armed_tsc: u64::MAX,
            faults_in_a_row: 0,
            patience: Patience::default(),
            vigils: Vigils::default(),
            keeps_look: false,
            wakes: 0,
            work: Work::default(),
            is_settled: false,
            is_calm: false,
            left_at: None,
            stats: Stats::default(),
        };
        vcpu.reset();
        vcpu
    }

    /// Returns the vCPU of a guest that is started so.
    #[must_use]
    pub fn started_by(mut self, start: Start) -> Self {
        self.start = start;
        self.reset();
        self
    }

    /// Returns what CPUID says the processor is: the value of EDX after RESET (APM vol. 2, 14.1.3).
    #[must_use]
    pub fn signature(&self, vmsa: &Vmsa) -> u32 {
        let state = CpuidState::new(vmsa, self.apic.config().id, true);
        self.cpuid.query(1, 0, &state).eax
    }

    /// Puts the vCPU back to power-on. The host's timer stays set, and counting goes on.
    pub fn reset(&mut self) {
        let Self {
            index: _,
            apic,
            msrs,
            cpuid,
            hyperv,
            ram_end,
            start,
            emulator: _,
            activity,
            has_virtual_nmi: _,
            nmi,
            exception,
            prediction_barrier,
            queued,
            armed_tsc: _,
            faults_in_a_row,
            patience: _,
            vigils: _,
            keeps_look: _,
            wakes,
            work: _,
            is_settled,
            is_calm,
            left_at: _,
            stats: _,
        } = self;
        apic.reset();
        let is_first = apic.config().role == Role::Bootstrap;
        *activity = if is_first {
            Activity::Running
        } else {
            Activity::WaitingForStartUp
        };
        *msrs = MsrFile::new(cpuid.msr_features());
        // Without firmware vCPU, APIC and memory types are handed over as it would.
        if *start == Start::Kernel {
            msrs.set_as_firmware_would(Gpa(LOW_RAM_END), *ram_end);
            if is_first {
                apic.set_virtual_wire();
            }
        }
        if let Some(hyperv) = hyperv {
            hyperv.reset();
        }
        nmi.reset();
        *exception = None;
        *prediction_barrier = 0;
        *queued = None;
        *faults_in_a_row = 0;
        *wakes = 0;
        (*is_settled, *is_calm) = (false, false);
    }

    /// Puts the vCPU back to power-on and makes it known to the machine.
    pub fn power_on<C: Timekeeper + Clone>(&mut self, machine: &Machine<C>) {
        self.reset();
        if let Some(mailbox) = machine.mailboxes().get(self.index) {
            // What was on its way to the guest's former life is not for this one.
            let _ = self.apic.deliver_remote(mailbox);
            self.reset();
            self.apic.publish(mailbox);
        }
    }

    /// Lets the timers catch up and takes what others have for this vCPU.
    pub fn catch_up<C: Timekeeper + Clone>(
        &mut self,
        machine: &Machine<C>,
        vmsa: &mut Vmsa,
        memory: &dyn GuestMemory,
    ) {
        machine.crew().take_call(self.index);
        machine.advance(self.index);
        if self.is_timer_due(machine) {
            self.apic.advance(machine.clock().now());
        }
        let Some(mailbox) = machine.mailboxes().get(self.index) else {
            return;
        };
        if let Some(hyperv) = &mut self.hyperv {
            hyperv.catch_up(machine.clock().tsc(), memory, mailbox);
        }
        if mailbox.is_empty() {
            return;
        }
        for event in self.apic.deliver_remote(mailbox) {
            self.take_event(event, vmsa);
        }
    }

    fn take_event(&mut self, event: LocalEvent, vmsa: &mut Vmsa) {
        match event {
            LocalEvent::Nmi => self.nmi.raise(),
            LocalEvent::Init => self.init(vmsa),
            LocalEvent::StartUp(page) if self.activity == Activity::WaitingForStartUp => {
                startup::start_up(vmsa, page);
                self.activity = Activity::Running;
            }
            // A processor that runs ignores it (APM vol. 2, 16.5). There is no SMM.
            LocalEvent::StartUp(_) | LocalEvent::Smi => {}
        }
    }

    /// Does what INIT does beyond the local APIC, which has seen to itself.
    fn init(&mut self, vmsa: &mut Vmsa) {
        startup::init(vmsa, self.signature(vmsa));
        self.nmi.reset();
        self.exception = None;
        self.queued = None;
        self.activity = if self.apic.is_bootstrap() {
            Activity::Running
        } else {
            Activity::WaitingForStartUp
        };
    }

    fn is_timer_due<C: Timekeeper + Clone>(&self, machine: &Machine<C>) -> bool {
        match self.apic.deadline() {
            None => false,
            Some(TimerDeadline::Nanoseconds(ns)) => ns <= machine.clock().now_ns(),
            Some(TimerDeadline::Tsc(tsc)) => tsc <= machine.clock().tsc(),
        }
    }

    /// Returns the TSC value at which something is next due for this vCPU; `u64::MAX` if nothing is. What modules want is no part of it.
    pub fn deadline_tsc<C: Timekeeper + Clone>(&self, machine: &Machine<C>) -> u64 {
        let clock = machine.clock();
        let local = match self.apic.deadline() {
            None => u64::MAX,
            Some(TimerDeadline::Nanoseconds(ns)) => clock.tsc_at(ns),
            Some(TimerDeadline::Tsc(tsc)) => tsc,
        };
        let shared = machine.deadline(self.index);
        let shared = shared.map_or(u64::MAX, |ns| clock.tsc_at(ns));
        let watched = match machine.bays().due_ns() {
            u64::MAX => u64::MAX,
            due => clock.tsc_at(due),
        };
        let look = match machine.bays().look_ns() {
            due if due != u64::MAX && self.keeps_look => self.look_tsc(due, clock),
            _ => u64::MAX,
        };
        let synthetic = self.hyperv.as_ref().map_or(u64::MAX, HyperV::deadline_tsc);
        local.min(shared).min(watched).min(look).min(synthetic)
    }

    /// Returns the TSC value for a look at `due_ns`; `u64::MAX` if the host's timer brings it late by no more than it may be.
    fn look_tsc<C: Timekeeper>(&self, due_ns: u64, clock: &C) -> u64 {
        let latest = due_ns.saturating_add(self.patience.ns());
        if self.armed_tsc <= clock.tsc_at(latest) {
            return u64::MAX;
        }
        clock.tsc_at(due_ns)
    }

    /// Writes a register in the local APIC's page.
    pub(crate) fn write_apic<C: Timekeeper + Clone>(
        &mut self,
        gpa: Gpa,
        value: u32,
        machine: &Machine<C>,
    ) {
        let offset = u16::try_from(gpa.page_offset()).unwrap_or(u16::MAX);
        self.work = Work::of_apic_register(offset >> 4);
        let now = apic_time(machine, self.work);
        if let Ok(effect) = self.apic.write_mmio(offset, &value.to_le_bytes(), now) {
            self.apply(effect, machine);
        }
    }

    /// Carries out what a write to the local APIC asks for.
    pub fn apply<C: Timekeeper + Clone>(&mut self, effect: Effect, machine: &Machine<C>) {
        apply(&self.apic, &mut self.wakes, effect, machine);
    }
}

/// Carries out what a write to `apic` asks for; who must be kicked for it is added to `wakes`.
fn apply<C: Timekeeper + Clone>(
    apic: &LocalApic,
    wakes: &mut u64,
    effect: Effect,
    machine: &Machine<C>,
) {
    match effect {
        Effect::None => {}
        Effect::Ipi(ipi) => route::send_ipi(machine.mailboxes(), &ipi, |vcpu| {
            let bit = u32::try_from(vcpu)
                .ok()
                .and_then(|vcpu| 1_u64.checked_shl(vcpu));
            *wakes |= bit.unwrap_or(0);
        }),
        Effect::EoiBroadcast(vector) => {
            let _ = machine.end_level(vector);
        }
        Effect::AddressChanged => {
            let own = usize::try_from(apic.config().id).ok();
            if let Some(mailbox) = own.and_then(|own| machine.mailboxes().get(own)) {
                apic.publish(mailbox);
            }
        }
    }
}

/// Returns the moment for a write to a local APIC's register. An EOI and an IPI do not ask what time it is.
pub(crate) fn apic_time<C: Timekeeper + Clone>(machine: &Machine<C>, work: Work) -> Time {
    match work {
        Work::Eoi | Work::Ipi => Time::default(),
        _ => machine.clock().now(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use stockade_apic::{Config, Features, LocalApic, Role, Time};

    use super::PHYSICAL_BITS;

    /// A local APIC whose spurious vector register says enabled.
    pub(crate) fn enabled_apic() -> LocalApic {
        let mut apic = LocalApic::new(Config {
            id: 0,
            role: Role::Bootstrap,
            features: Features {
                x2apic: false,
                tsc_deadline: true,
                eoi_suppression: false,
            },
            physical_address_bits: PHYSICAL_BITS,
        });
        let _ = apic
            .write_mmio(0xF0, &0x1FF_u32.to_le_bytes(), Time::default())
            .unwrap();
        apic
    }
}
