//! Hyper-V's interface, for guests that were told of it: MSRs from 4000_0000 on, the reference clock, the synthetic timers.
//!
//! What all vCPUs share is [`stockade_intercept::hyperv::Partition`], in the machine; [`HyperV`] is a vCPU's own.

use stockade_apic::synthetic::{self, Written};
use stockade_apic::{GeneralProtection, Mailbox, Synthetic, Trigger};
use stockade_bus::GuestMemory;
use stockade_intercept::hyperv::{
    self, APIC_FREQUENCY, ASSIST_PAGE, END_OF_INTERRUPT, FIRST_MSR, INTERRUPT_COMMAND, LAST_MSR,
    ReferenceClock, Refused, TASK_PRIORITY, TIME_REF_COUNT, TSC_FREQUENCY, VP_INDEX,
};
use stockade_intercept::msr::MsrFault;

use crate::host::Timekeeper;
use crate::machine::Machine;
use crate::stats::Work;
use crate::vcpu::Vcpu;

/// Registers in the local APIC's page.
const APIC_TASK_PRIORITY: u16 = 0x80;
const APIC_COMMAND_LOW: u16 = 0x300;
const APIC_COMMAND_HIGH: u16 = 0x310;

/// A vCPU's side of it.
#[derive(Clone, Debug)]
pub struct HyperV {
    clock: ReferenceClock,
    synthetic: Synthetic,
    assist_page: u64,
}

impl HyperV {
    /// Returns it as after power-on.
    #[must_use]
    pub fn new(clock: ReferenceClock) -> Self {
        Self {
            clock,
            synthetic: Synthetic::new(),
            assist_page: 0,
        }
    }

    /// Puts it back to power-on.
    pub fn reset(&mut self) {
        let Self {
            clock: _,
            synthetic,
            assist_page,
        } = self;
        synthetic.reset();
        *assist_page = 0;
    }

    /// Returns the TSC value at which a timer is next due; `u64::MAX` if none runs.
    #[must_use]
    pub fn deadline_tsc(&self) -> u64 {
        let due = self.synthetic.deadline();
        due.map_or(u64::MAX, |units| self.clock.tsc_at(units))
    }

    /// Lets the timers catch up; what they raise goes into the vCPU's own mailbox.
    pub fn catch_up(&mut self, tsc: u64, memory: &dyn GuestMemory, mailbox: &Mailbox) {
        let now = self.clock.at(tsc);
        self.synthetic.advance(now, memory, |vector| {
            // Whoever catches up looks into the mailbox next.
            let _ = mailbox.post_vector(vector, Trigger::Edge);
        });
    }
}

/// Returns whether the MSR is of this interface, if the vCPU has it.
#[must_use]
pub(crate) fn is_ours(vcpu: &Vcpu, msr: u32) -> bool {
    vcpu.hyperv.is_some() && (FIRST_MSR..=LAST_MSR).contains(&msr)
}

/// Reads one of its MSRs.
pub(crate) fn read<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    msr: u32,
) -> Result<u64, MsrFault> {
    let Some(hyperv) = &vcpu.hyperv else {
        return Err(MsrFault::Unknown);
    };
    match msr {
        VP_INDEX => Ok(vcpu.index as u64),
        TIME_REF_COUNT => Ok(hyperv.clock.at(machine.clock().tsc())),
        TSC_FREQUENCY => Ok(hyperv.clock.tsc_hz()),
        APIC_FREQUENCY => Ok(vcpu.cpuid.apic_timer_hz().into()),
        ASSIST_PAGE => Ok(hyperv.assist_page),
        TASK_PRIORITY => read_apic(vcpu, machine, APIC_TASK_PRIORITY).map(u64::from),
        INTERRUPT_COMMAND => {
            let high = u64::from(read_apic(vcpu, machine, APIC_COMMAND_HIGH)?);
            Ok(high << 32 | u64::from(read_apic(vcpu, machine, APIC_COMMAND_LOW)?))
        }
        synthetic::FIRST..=synthetic::LAST => {
            let value = hyperv.synthetic.read(msr);
            value.map_err(|GeneralProtection| MsrFault::Unknown)
        }
        _ => machine.partition().read(msr).ok_or(MsrFault::Unknown),
    }
}

/// Writes one of its MSRs.
pub(crate) fn write<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    memory: &dyn GuestMemory,
    msr: u32,
    value: u64,
) -> Result<(), MsrFault> {
    let Some(hyperv) = &mut vcpu.hyperv else {
        return Err(MsrFault::Unknown);
    };
    match msr {
        END_OF_INTERRUPT => {
            vcpu.work = Work::Eoi;
            let effect = vcpu.apic.end_of_interrupt();
            vcpu.apply(effect, machine);
            Ok(())
        }
        TASK_PRIORITY => {
            let [priority, ..] = value.to_le_bytes();
            write_apic(vcpu, machine, APIC_TASK_PRIORITY, priority.into())
        }
        INTERRUPT_COMMAND => {
            let [low, high] = halves(value);
            write_apic(vcpu, machine, APIC_COMMAND_HIGH, high)?;
            write_apic(vcpu, machine, APIC_COMMAND_LOW, low)
        }
        ASSIST_PAGE => {
            hyperv::clear_page(value, memory).map_err(|_| MsrFault::Refused)?;
            hyperv.assist_page = value;
            Ok(())
        }
        synthetic::FIRST..=synthetic::LAST => {
            let now = hyperv.clock.at(machine.clock().tsc());
            let written = hyperv.synthetic.write(msr, value, now);
            match written.map_err(|GeneralProtection| MsrFault::Refused)? {
                Written::Done => Ok(()),
                // A page that is no memory takes no messages.
                Written::Page(page) => {
                    let _ = hyperv::clear_page(page, memory);
                    Ok(())
                }
            }
        }
        _ => {
            let written = machine.partition().write(msr, value, hyperv.clock, memory);
            let written = written.ok_or(MsrFault::Unknown)?;
            written.map_err(|Refused| MsrFault::Refused)
        }
    }
}

/// Reads a register in the local APIC's page, which it has in xAPIC mode only.
fn read_apic<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    offset: u16,
) -> Result<u32, MsrFault> {
    vcpu.work = Work::Apic;
    let mut bytes = [0; 4];
    let read = vcpu
        .apic
        .read_mmio(offset, &mut bytes, machine.clock().now());
    read.map_err(|_| MsrFault::Refused)?;
    Ok(u32::from_le_bytes(bytes))
}

fn write_apic<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    offset: u16,
    value: u32,
) -> Result<(), MsrFault> {
    vcpu.work = Work::of_apic_register(offset >> 4);
    let now = machine.clock().now();
    let written = vcpu.apic.write_mmio(offset, &value.to_le_bytes(), now);
    let effect = written.map_err(|_| MsrFault::Refused)?;
    vcpu.apply(effect, machine);
    Ok(())
}

/// Returns the low and the high half.
const fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

#[cfg(test)]
mod tests;
