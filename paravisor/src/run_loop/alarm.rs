//! When the host is to bring a vCPU back: its timer, set to what comes first.

use stockade_abi::terminate::StopReason;

use crate::host::{Host, Timekeeper};
use crate::inject::Backlog;
use crate::machine::Machine;
use crate::share;
use crate::vcpu::Vcpu;

/// How soon a guest is brought back that could not be given all there is: an NMI behind an event, a shadow or another NMI.
const BACKLOG_NS: u64 = 200_000;

/// Sets the host's timer if something is due before it would fire. An early tick costs a turn, a late one the guest's time.
pub(super) fn arm_timer<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let due = vcpu.deadline_tsc(machine).min(share::due_tsc(machine));
    arm_for(due, vcpu, machine, host)
}

/// Has the guest brought back for what could not be given to it, or for a device that has more to do. Turns of a device may be long, so
/// the guest gets its time between two of them, unless it halts.
pub(super) fn arm_for_backlog<H: Host, C: Timekeeper + Clone>(
    backlog: Backlog,
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let after = if backlog == Backlog::Waits {
        BACKLOG_NS
    } else if machine.bays().want_attention() {
        vcpu.patience.ns()
    } else {
        return Ok(());
    };
    let soon = machine.clock().now_ns().saturating_add(after);
    arm_for(machine.clock().tsc_at(soon), vcpu, machine, host)
}

pub(crate) fn arm_for<H: Host, C: Timekeeper + Clone>(
    due: u64,
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    if due < vcpu.armed_tsc {
        let sample = vcpu.patience.wants_sample();
        let since = sample.then(|| machine.clock().now_ns());
        host.arm_timer(due)?;
        vcpu.armed_tsc = due;
        if let Some(since) = since {
            let call = machine.clock().now_ns().saturating_sub(since);
            vcpu.patience.note_call(call);
        }
    }
    Ok(())
}
