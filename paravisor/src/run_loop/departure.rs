//! How a vCPU leaves, for its guest or for the host, and comes back: others are kicked first, and the time between is booked.

use stockade_abi::terminate::StopReason;

use crate::host::{Host, Timekeeper};
use crate::machine::Machine;
use crate::vcpu::Vcpu;

/// Kicks whom this vCPU has sent something, and says that it goes itself; returns whether it may. [`come_back`] follows.
pub(crate) fn depart<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<bool, StopReason> {
    kick_woken(vcpu, machine, host)?;
    let crew = machine.crew();
    let may_go = crew.depart(vcpu.index);
    let mailbox = machine.mailboxes().get(vcpu.index);
    if !may_go || mailbox.is_some_and(|mailbox| !mailbox.is_empty()) {
        crew.back(vcpu.index);
        return Ok(false);
    }
    book(vcpu, machine);
    Ok(true)
}

/// Kicks whom this vCPU has sent something.
pub(crate) fn kick_woken<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let wakes = core::mem::take(&mut vcpu.wakes) | machine.take_wakes();
    if wakes == 0 {
        return Ok(());
    }
    let crew = machine.crew();
    for other in crew.others(vcpu.index) {
        if wakes >> other & 1 != 0 && crew.must_kick(other) {
            vcpu.stats.kicks += 1;
            host.kick(other)?;
        }
    }
    Ok(())
}

/// Books the time since the guest's last exit, or the last sleep.
pub(crate) fn book<C: Timekeeper + Clone>(vcpu: &mut Vcpu, machine: &Machine<C>) {
    if let Some(since) = vcpu.left_at.take() {
        let cycles = machine.clock().tsc().wrapping_sub(since);
        vcpu.stats.book(vcpu.work, cycles);
    }
}

/// Says that this vCPU is back, from a sleep or a module: from now on the time is its own work's.
pub(crate) fn come_back<C: Timekeeper + Clone>(vcpu: &mut Vcpu, machine: &Machine<C>) {
    vcpu.left_at = Some(machine.clock().tsc());
    machine.crew().back(vcpu.index);
}
