//! What modules get of a vCPU: all of its time while its guest has nothing to do, else a share. And what is done before the guest starts
//! and after its end.
//!
//! While modules have it, the vCPU counts as away, so whoever has something for it kicks it, and every signal of the host ends the slice.

use stockade_abi::terminate::StopReason;

use crate::crew::End;
use crate::host::{Host, Timekeeper};
use crate::machine::Machine;
use crate::module::ChannelError;
use crate::module::set::{IDLE_SLICE_NS, SLICE_NS};
use crate::run_loop::{arm_for, come_back, depart, listen};
use crate::stats::Work;
use crate::tpm::TpmError;
use crate::vcpu::Vcpu;

/// How long the guest waits for modules to get ready before it starts.
const START_NS: u64 = 20_000_000_000;
/// How long for its TPM: a new one makes keys, an emulated processor takes its time, and without one the guest has failed already.
const TPM_START_NS: u64 = 120_000_000_000;

const NS_A_MS: u64 = 1_000_000;

/// How long the machine's end waits for its host to write what is kept.
const KEEP_NS: u64 = 5_000_000_000;

/// Whether modules have had the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// They have.
    Yes,
    /// None wanted it.
    No,
}

/// Returns the TSC value at which a vCPU that gives modules nothing is to look at them.
pub(crate) fn due_tsc<C: Timekeeper + Clone>(machine: &Machine<C>) -> u64 {
    match machine.modules().share_ns() {
        u64::MAX => u64::MAX,
        due => machine.clock().tsc_at(due),
    }
}

/// Gives modules a slice of a vCPU whose guest is busy, if one is due and no vCPU sleeps that could.
pub(crate) fn offer<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), End> {
    let (modules, now) = (machine.modules(), machine.clock().now_ns());
    if modules.share_ns() > now {
        return Ok(());
    }
    let sleeper = modules.sleeper(now);
    if sleeper != 0 {
        vcpu.wakes |= sleeper;
        return Ok(());
    }
    give(vcpu, machine, host, now + SLICE_NS)?;
    modules.shared(now, machine.clock().now_ns());
    Ok(())
}

/// Gives modules that want it a vCPU whose guest has nothing to do, until it has.
pub(crate) fn lend<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<Given, End> {
    let now = machine.clock().now_ns();
    if machine.modules().due_ns() > now {
        return Ok(Given::No);
    }
    give(vcpu, machine, host, now + IDLE_SLICE_NS)?;
    Ok(Given::Yes)
}

fn give<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
    until_ns: u64,
) -> Result<(), End> {
    let until = machine.clock().tsc_at(until_ns);
    // Modules want more than they have: were that a reason to look up, the host would signal before they had begun.
    arm_for(until.min(vcpu.deadline_tsc(machine)), vcpu, machine, host)?;
    if depart(vcpu, machine, host)? {
        machine.modules().serve(until_ns);
        vcpu.work = Work::Wake;
    }
    come_back(vcpu, machine);
    Ok(())
}

/// Lets modules get ready before there is a guest. One that takes too long goes on beside it.
pub(crate) fn start_modules<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let clock = machine.clock();
    let begun = clock.now_ns();
    loop {
        let now = clock.now_ns();
        serve_before_guest(vcpu, machine, host, now)?;
        if machine.modules().due_ns() > now || now >= begun + START_NS {
            break;
        }
    }
    // After a guest's reset they are what they were.
    match (clock.now_ns() - begun) / NS_A_MS {
        0 => {}
        ms => log::info!("modules took {ms} ms to load and to start"),
    }
    Ok(())
}

/// Has the TPM ready before there is a guest. One that is not there in time, or fails, the guest will find failing; without one that is as
/// measured there is no guest.
pub(crate) fn start_tpm<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let clock = machine.clock();
    let end = clock.now_ns() + TPM_START_NS;
    let mut stopped = Ok(());
    let outcome = machine.start_tpm(&mut || {
        let now = clock.now_ns();
        stopped = serve_before_guest(vcpu, machine, host, now);
        stopped.is_ok() && now < end
    });
    stopped?;
    match outcome {
        None => {}
        Some(Ok(times)) => log::info!(
            "the TPM is on: {} ms for power, {} for measurements, {} for its self-test",
            times.power_ns / NS_A_MS,
            times.measure_ns / NS_A_MS,
            times.test_ns / NS_A_MS,
        ),
        Some(Err(error @ TpmError::Channel(ChannelError::NotLoaded))) => {
            log::error!("the TPM: T02: {error}");
            return Err(StopReason::TPM_LOST);
        }
        Some(Err(error)) => log::error!("the TPM fails: {error}"),
    }
    Ok(())
}

/// Waits until firmware's variables are as durable as they are going to be: the guest took them for written.
pub(crate) fn keep_variables<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let clock = machine.clock();
    let end = clock.now_ns() + KEEP_NS;
    while !machine.is_kept() {
        listen(vcpu, machine, host)?;
        let now = clock.now_ns();
        if machine.bays().want_attention() {
            // Before and after a guest nothing is gathered.
            let _ = machine.serve_bays(host, 0);
        } else if now >= end {
            log::error!("firmware variables: V05: the host does not write the latest changes");
            break;
        } else {
            arm_for(clock.tsc_at(now + IDLE_SLICE_NS), vcpu, machine, host)?;
            host.wait()?;
        }
    }
    Ok(())
}

fn serve_before_guest<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
    now: u64,
) -> Result<(), StopReason> {
    listen(vcpu, machine, host)?;
    // What modules keep goes to the host, too.
    machine.watch_bays();
    if machine.bays().want_attention() {
        // Before and after a guest nothing is gathered.
        let _ = machine.serve_bays(host, 0);
    }
    let until = now + IDLE_SLICE_NS;
    arm_for(machine.clock().tsc_at(until), vcpu, machine, host)?;
    machine.modules().serve(until);
    Ok(())
}
