//! What a vCPU does while its guest has nothing to execute: modules have it first, then the host.

use super::alarm::arm_timer;
use super::{End, come_back, depart};
use crate::console;
use crate::host::{Host, Timekeeper};
use crate::machine::Machine;
use crate::module;
use crate::share::{self, Given};
use crate::stats::Work;
use crate::vcpu::Vcpu;
use crate::vigil::{self, Kept};

/// Rests until there may be something to do.
pub(super) fn sleep<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), End> {
    console::flush(machine, host)?;
    if machine.modules().is_empty() {
        return doze(vcpu, machine, host);
    }
    // Who rings for a module after this looks for sleepers, who rang before is seen.
    machine
        .modules()
        .note(vcpu.index, module::set::Rest::Asleep);
    let rested = match share::lend(vcpu, machine, host) {
        Ok(Given::No) => doze(vcpu, machine, host),
        outcome => outcome.map(|_| ()),
    };
    machine.modules().note(vcpu.index, module::set::Rest::Awake);
    rested
}

fn doze<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), End> {
    // Devices that have more to do are not slept over.
    if machine.bays().want_attention() || vigil::keep(vcpu, machine, host)? == Kept::Yes {
        return Ok(());
    }
    arm_timer(vcpu, machine, host)?;
    if depart(vcpu, machine, host)? {
        host.wait()?;
        vcpu.work = Work::Wake;
        come_back(vcpu, machine);
    }
    Ok(())
}
