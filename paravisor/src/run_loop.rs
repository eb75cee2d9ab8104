//! The run loop of one vCPU.
//!
//! Each turn: catch up with time and mail, write what is to be injected, enter the guest, account for what was delivered, take
//! the exit, answer it. The numbers are the steps every paravisor under alternate injection must take; each has a test that fails
//! when the step is removed. How a vCPU leaves for its guest or the host is in `departure`, when the host brings it back in `alarm`, what it
//! does while its guest has nothing to execute in `sleep`.

use stockade_abi::exit::ExitCode;
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::Vmsa;
use stockade_apic::Mailbox;
use stockade_bus::GuestMemory;
use stockade_intercept::exit::Exit;

use crate::console;
use crate::dispatch::{Next, dispatch};
use crate::host::{Entered, Host, Processor, Timekeeper};
use crate::inject;
use crate::machine::{Machine, Request};
use crate::quick::{self, Quick};
use crate::share;
use crate::stats::Work;
use crate::vcpu::{Activity, Vcpu};
use crate::virtio::Gathering;

mod alarm;
mod departure;
mod sleep;

pub use crate::crew::End;
pub(crate) use alarm::arm_for;
pub(crate) use departure::{book, come_back, depart, kick_woken};

/// Runs the guest on this vCPU until its life ends, here or on another vCPU.
pub fn run<P: Processor, H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    processor: &mut P,
    host: &mut H,
    memory: &dyn GuestMemory,
) -> End {
    loop {
        let Err(end) = turn(vcpu, machine, processor, host, memory) else {
            continue;
        };
        let crew = machine.crew();
        if crew.end_with(end) {
            // A host that does not pass a kick on keeps a vCPU in its guest, as it may at any time.
            for other in crew.others(vcpu.index) {
                let _ = host.kick(other);
            }
        }
        // The last words of the guest; a host that does not take them has refused its own service.
        let _ = console::flush(machine, host);
        vcpu.left_at = None;
        return crew.end().unwrap_or(end);
    }
}

fn turn<P: Processor, H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    processor: &mut P,
    host: &mut H,
    memory: &dyn GuestMemory,
) -> Result<(), End> {
    // After an exit that moved no deadline the last look still holds, and what came since keeps the entry back.
    if !core::mem::take(&mut vcpu.is_settled)
        && settle(vcpu, machine, processor, host, memory)? == Rest::Yes
    {
        return Ok(());
    }
    // 1. Interrupts are written and the gate is open; busy is cleared by the entry itself.
    let backlog = inject::prepare(vcpu, processor.vmsa_mut(), machine);
    alarm::arm_for_backlog(backlog, vcpu, machine, host)?;
    if vcpu.prediction_barrier != 0 {
        processor.prediction_barrier(core::mem::take(&mut vcpu.prediction_barrier));
    }
    if !depart(vcpu, machine, host)? {
        return Ok(());
    }
    // 2. The entry sets busy again before anybody looks at the registers.
    let visited = visit(vcpu, machine, processor, memory);
    machine.crew().back(vcpu.index);
    match visited? {
        Visit::Cancelled => return Ok(()),
        Visit::Answered => {
            vcpu.is_settled = still_holds(vcpu, machine);
            return Ok(());
        }
        Visit::Exit => {}
    }
    // 3. and 4. What was being delivered goes in again; what was taken moves from IRR to ISR.
    inject::account(vcpu, processor.vmsa_mut(), machine);
    // 5. The exit is taken out, so that the host cannot have it served twice.
    let exit = take_exit(processor.vmsa_mut());
    vcpu.stats.count(&exit);
    vcpu.work = Work::of_exit(&exit);
    // 6. Dispatch advances RIP as the kind of exit demands.
    answer(vcpu, machine, processor, host, memory, exit)
}

/// Returns whether the last look at time and devices still holds after the exit that was just answered.
fn still_holds<C: Timekeeper + Clone>(vcpu: &Vcpu, machine: &Machine<C>) -> bool {
    // A command the guest has started is its engine's at once.
    let is_posted = vcpu.work == Work::Tpm && machine.modules().due_ns() != u64::MAX;
    vcpu.work.leaves_deadlines() && !is_posted && !machine.bays().want_attention()
}

/// How a visit of the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    /// Before it began: the host has signalled.
    Cancelled,
    /// With an exit that is answered.
    Answered,
    /// With an exit.
    Exit,
}

/// Enters the guest, again and again while its exits are of the quick kind.
fn visit<P: Processor, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    processor: &mut P,
    memory: &dyn GuestMemory,
) -> Result<Visit, StopReason> {
    let mailbox = machine.mailboxes().get(vcpu.index);
    loop {
        let entered = processor.enter();
        let since = machine.clock().tsc();
        let outcome = match entered? {
            Entered::EventPending => Visit::Cancelled,
            Entered::Ran => match quick::serve(vcpu, processor.vmsa_mut(), machine, memory) {
                // A host that does not pass a kick on shall not keep mail from the guest for longer than an exit.
                Quick::Again if mailbox.is_none_or(Mailbox::is_empty) => {
                    let cycles = machine.clock().tsc().wrapping_sub(since);
                    vcpu.stats.book(vcpu.work, cycles);
                    continue;
                }
                Quick::Again | Quick::Answered => Visit::Answered,
                Quick::No => Visit::Exit,
            },
        };
        vcpu.left_at = Some(since);
        return Ok(outcome);
    }
}

/// Whether the vCPU has nothing to execute for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// It has slept, or may: look again.
    Yes,
    /// It goes on.
    No,
}

/// Takes what came from outside, lets time catch up, and sets the host's timer for what comes next.
fn settle<P: Processor, H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    processor: &mut P,
    host: &mut H,
    memory: &dyn GuestMemory,
) -> Result<Rest, End> {
    if let Some(end) = machine.crew().end() {
        return Err(end);
    }
    listen(vcpu, machine, host)?;
    machine.watch_bays();
    if machine.bays().want_attention() {
        let since = machine.clock().tsc();
        let gathering = machine.serve_bays(host, vcpu.patience.ns());
        let cycles = machine.clock().tsc().wrapping_sub(since);
        vcpu.stats.book(Work::Turns, cycles);
        vcpu.keeps_look |= gathering == Gathering::Yes;
    }
    vcpu.keeps_look &= machine.bays().look_ns() != u64::MAX;
    vcpu.catch_up(machine, processor.vmsa_mut(), memory);
    match vcpu.activity {
        Activity::Running => {}
        Activity::Halted if inject::has_wake_up(vcpu, processor.vmsa(), machine) => {
            vcpu.activity = Activity::Running;
        }
        Activity::Halted | Activity::WaitingForStartUp => {
            sleep::sleep(vcpu, machine, host)?;
            return Ok(Rest::Yes);
        }
    }
    if machine.modules().due_ns() != u64::MAX {
        share::offer(vcpu, machine, host)?;
    }
    alarm::arm_timer(vcpu, machine, host)?;
    Ok(Rest::No)
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
        Next::Resume => {
            vcpu.is_settled = still_holds(vcpu, machine);
            Ok(())
        }
        Next::Wait => {
            vcpu.activity = Activity::Halted;
            machine.bays().look_early();
            Ok(())
        }
        Next::Device => {
            console::serve(machine, host)?;
            match machine.take_request() {
                Request::None => Ok(()),
                Request::PowerOff => Err(End::PowerOff),
                Request::Reset => Err(End::Reset),
                Request::Exit(status) => Err(End::Exit(status)),
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
pub(crate) fn listen<H: Host, C: Timekeeper + Clone>(
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
    if signals.devices != 0 {
        machine.bays().signal(signals.devices);
    }
    if signals.console {
        console::receive(machine, host)?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
