//! The run loop of one vCPU.
//!
//! Each turn: catch up with time and mail, write what is to be injected, enter the guest, account for what was delivered, take
//! the exit, answer it. The numbers are the steps every paravisor under alternate injection must take; each has a test that fails
//! when the step is removed.

use stockade_abi::exit::ExitCode;
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::Vmsa;
use stockade_bus::GuestMemory;
use stockade_intercept::exit::Exit;

use crate::console;
use crate::dispatch::{Next, dispatch};
use crate::host::{Entered, Host, Processor, Timekeeper};
use crate::inject;
use crate::machine::{Machine, Request};
use crate::vcpu::{Activity, Vcpu};

/// Why the guest no longer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PowerOff,
    /// It asked to start over.
    Reset,
    /// It cannot go on.
    Stop(StopReason),
}

impl From<StopReason> for End {
    fn from(reason: StopReason) -> Self {
        Self::Stop(reason)
    }
}

/// Runs the guest on this vCPU until it ends.
pub fn run<P: Processor, H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    processor: &mut P,
    host: &mut H,
    memory: &dyn GuestMemory,
) -> End {
    loop {
        match turn(vcpu, machine, processor, host, memory) {
            Ok(()) => {}
            Err(end) => {
                // The last words of the guest; a host that does not take them has refused its own service.
                let _ = console::flush(machine, host);
                return end;
            }
        }
    }
}

fn turn<P: Processor, H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    processor: &mut P,
    host: &mut H,
    memory: &dyn GuestMemory,
) -> Result<(), End> {
    listen(vcpu, machine, host)?;
    vcpu.catch_up(machine);
    if vcpu.activity == Activity::Halted {
        if !inject::has_wake_up(vcpu, processor.vmsa(), machine) {
            return sleep(vcpu, machine, host);
        }
        vcpu.activity = Activity::Running;
    }
    // 1. Interrupts are written and the gate is open; busy is cleared by the entry itself.
    inject::prepare(vcpu, processor.vmsa_mut(), machine);
    arm_timer(vcpu, machine, host)?;
    if vcpu.prediction_barrier != 0 {
        processor.prediction_barrier(core::mem::take(&mut vcpu.prediction_barrier));
    }
    // 2. The entry sets busy again before anybody looks at the registers.
    if processor.enter()? == Entered::EventPending {
        return Ok(());
    }
    // 3. and 4. What was being delivered goes in again; what was taken moves from IRR to ISR.
    inject::account(vcpu, processor.vmsa_mut(), machine);
    // 5. The exit is taken out, so that the host cannot have it served twice.
    let exit = take_exit(processor.vmsa_mut());
    vcpu.stats.count(exit.kind());
    // 6. Dispatch advances RIP as the kind of exit demands.
    answer(vcpu, machine, processor, host, memory, exit)
}

fn answer<P: Processor, H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    processor: &mut P,
    host: &mut H,
    memory: &dyn GuestMemory,
    exit: Exit,
) -> Result<(), End> {
    match dispatch(vcpu, machine, processor.vmsa_mut(), memory, exit) {
        Next::Resume => Ok(()),
        Next::Wait => {
            vcpu.activity = Activity::Halted;
            Ok(())
        }
        Next::Device => {
            console::serve(vcpu, machine, host)?;
            match machine.take_request() {
                Request::None => Ok(()),
                Request::PowerOff => Err(End::PowerOff),
                Request::Reset => Err(End::Reset),
            }
        }
        Next::Stop(reason) => Err(End::Stop(reason)),
    }
}

/// Leaves a benign code behind the one it takes.
fn take_exit(vmsa: &mut Vmsa) -> Exit {
    let exit = Exit::decode(vmsa);
    vmsa.guest_exit_code = ExitCode::INTR;
    exit
}

/// Takes what the host signalled.
fn listen<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let signals = host.drain()?;
    vcpu.stats.dropped_vectors += u64::from(signals.dropped);
    if signals.timer {
        vcpu.armed_tsc = u64::MAX;
        console::flush(machine, host)?;
    }
    if signals.console {
        console::receive(vcpu, machine, host)?;
    }
    Ok(())
}

/// Sets the host's timer if something is due before it would fire. An early tick costs a turn, a late one the guest's time.
fn arm_timer<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let due = vcpu.deadline_tsc(machine);
    if due < vcpu.armed_tsc {
        host.arm_timer(due)?;
        vcpu.armed_tsc = due;
    }
    Ok(())
}

fn sleep<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), End> {
    console::flush(machine, host)?;
    arm_timer(vcpu, machine, host)?;
    Ok(host.wait()?)
}

#[cfg(test)]
mod tests;
