//! One vCPU: everything the guest's processor has beyond the registers in its save area.

use stockade_apic::{
    Config, Effect, Features, LocalApic, LocalEvent, NmiLatch, Role, Time, TimerDeadline,
    VirtualInterrupt, route,
};
use stockade_boot::layout::LOW_RAM_END;
use stockade_boot::ram::RamMap;
use stockade_bus::{AccessError, Gpa};
use stockade_intercept::cpuid::CpuidPolicy;
use stockade_intercept::emulate::{Emulator, Exception, MmioBus, PortBus};
use stockade_intercept::msr::MsrFile;

use crate::host::Timekeeper;
use crate::machine::Machine;
use crate::stats::Stats;

/// Width of the guest's physical addresses: all below vTOM.
pub const PHYSICAL_BITS: u8 = 46;

/// Whether the guest's processor executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It does.
    Running,
    /// It waits in HLT.
    Halted,
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
    /// Where RAM ends above 4 GiB: what firmware would have put into TOP_MEM2.
    ram_end: Gpa,
    /// Executes what touches a device.
    pub emulator: Emulator,
    /// Executing or halted.
    pub activity: Activity,
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
    /// The console had more input than the guest's port had room.
    pub is_input_waiting: bool,
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
            cpuid,
            ram_end: Gpa(ram.high_end()),
            emulator: Emulator::new(PHYSICAL_BITS),
            activity: Activity::Running,
            nmi: NmiLatch::default(),
            exception: None,
            prediction_barrier: 0,
            queued: None,
            armed_tsc: u64::MAX,
            faults_in_a_row: 0,
            is_input_waiting: true,
            stats: Stats::default(),
        };
        vcpu.reset();
        vcpu
    }

    /// Puts the vCPU back to power-on. The host's timer stays set, and counting goes on.
    pub fn reset(&mut self) {
        let Self {
            index: _,
            apic,
            msrs,
            cpuid,
            ram_end,
            emulator: _,
            activity,
            nmi,
            exception,
            prediction_barrier,
            queued,
            armed_tsc: _,
            faults_in_a_row,
            is_input_waiting: _,
            stats: _,
        } = self;
        apic.reset();
        // There is no firmware: vCPU, APIC and memory types are handed over as it would.
        apic.set_virtual_wire();
        *msrs = MsrFile::new(cpuid.msr_features());
        msrs.set_as_firmware_would(Gpa(LOW_RAM_END), *ram_end);
        *activity = Activity::Running;
        nmi.reset();
        *exception = None;
        *prediction_barrier = 0;
        *queued = None;
        *faults_in_a_row = 0;
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

    /// Lets the local timer catch up and takes what others have for this vCPU.
    pub fn catch_up<C: Timekeeper + Clone>(&mut self, machine: &Machine<C>) {
        machine.advance();
        let now = machine.clock().now();
        if self.is_timer_due(now) {
            self.apic.advance(now);
        }
        let Some(mailbox) = machine.mailboxes().get(self.index) else {
            return;
        };
        for event in self.apic.deliver_remote(mailbox) {
            match event {
                LocalEvent::Nmi => self.nmi.raise(),
                // Start-up and INIT are for further vCPUs; there is no SMM.
                LocalEvent::Init | LocalEvent::StartUp(_) | LocalEvent::Smi => {}
            }
        }
    }

    fn is_timer_due(&self, now: Time) -> bool {
        match self.apic.deadline() {
            None => false,
            Some(TimerDeadline::Nanoseconds(ns)) => ns <= now.ns,
            Some(TimerDeadline::Tsc(tsc)) => tsc <= now.tsc,
        }
    }

    /// Returns the TSC value at which something is next due for this vCPU; `u64::MAX` if nothing is.
    pub fn deadline_tsc<C: Timekeeper + Clone>(&self, machine: &Machine<C>) -> u64 {
        let clock = machine.clock();
        let local = match self.apic.deadline() {
            None => u64::MAX,
            Some(TimerDeadline::Nanoseconds(ns)) => clock.tsc_at(ns),
            Some(TimerDeadline::Tsc(tsc)) => tsc,
        };
        let shared = machine.deadline().map_or(u64::MAX, |ns| clock.tsc_at(ns));
        local.min(shared)
    }

    /// Carries out what a write to the local APIC asks for.
    pub fn apply<C: Timekeeper + Clone>(&mut self, effect: Effect, machine: &Machine<C>) {
        match effect {
            Effect::None => {}
            Effect::Ipi(ipi) => route::send_ipi(machine.mailboxes(), &ipi, |_| {}),
            Effect::EoiBroadcast(vector) => {
                machine.with_chips(|chips| chips.ioapic.end_of_interrupt(vector));
            }
            Effect::AddressChanged => {
                if let Some(mailbox) = machine.mailboxes().get(self.index) {
                    self.apic.publish(mailbox);
                }
            }
        }
    }
}

/// What an emulated instruction of this vCPU reaches: its own local APIC, and the machine.
pub struct Bus<'a, C> {
    /// The vCPU's local APIC.
    pub apic: &'a mut LocalApic,
    /// The machine.
    pub machine: &'a Machine<C>,
    /// What the local APIC asked for; one instruction writes it once at most, but for strings.
    pub effects: alloc::vec::Vec<Effect>,
}

impl<C: Timekeeper + Clone> Bus<'_, C> {
    /// Returns the offset in the local APIC's page, if the address is in it.
    fn apic_offset(&self, gpa: Gpa) -> Option<u16> {
        let offset = u16::try_from(gpa.page_offset()).ok()?;
        (self.apic.page() == Some(gpa.page())).then_some(offset)
    }
}

impl<C: Timekeeper + Clone> MmioBus for Bus<'_, C> {
    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) {
        match self.apic_offset(gpa) {
            Some(offset) => {
                let now = self.machine.clock().now();
                if self.apic.read_mmio(offset, data, now).is_err() {
                    data.fill(0xFF);
                }
            }
            None => self.machine.mmio_read(gpa, data),
        }
    }

    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) {
        match self.apic_offset(gpa) {
            Some(offset) => {
                let now = self.machine.clock().now();
                let outcome: Result<Effect, AccessError> = self.apic.write_mmio(offset, data, now);
                match outcome {
                    Ok(Effect::None) | Err(_) => {}
                    Ok(effect) => self.effects.push(effect),
                }
            }
            None => self.machine.mmio_write(gpa, data),
        }
    }
}

impl<C: Timekeeper + Clone> PortBus for Bus<'_, C> {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.machine.port_read(port, data);
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.machine.port_write(port, data);
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
