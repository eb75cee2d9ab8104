//! The exits a guest makes most, answered without the rest of the loop: registers of the local APIC that interrupts and timers take,
//! the PM timer, the status of an idle console, CPUID.
//!
//! [`serve`] does for them what the loop does for all, in the same steps, when nothing else is due: no event is on its way, none was
//! cut short, none waits ([`Vcpu::is_calm`]). It takes no lock and allocates nothing. The vCPU stays away for the others meanwhile
//! ([`crate::crew`]): whoever posts something for it kicks it, which keeps it out of the guest and sends it through the whole loop.

use stockade_abi::exit::{ExitCode, IoioInfo, MSR_INFO_WRITE, NpfInfo};
use stockade_abi::vmsa::Vmsa;
use stockade_apic::{Effect, Ending, LocalApic, MSR_TSC_DEADLINE, MSR_X2APIC, TimerDeadline};
use stockade_bus::{Gpa, GuestMemory};
use stockade_devices::{power, serial};
use stockade_intercept::debug;
use stockade_intercept::exit::{Direction, Exit};

use crate::gpr;
use crate::host::Timekeeper;
use crate::inject;
use crate::machine::Machine;
use crate::registers;
use crate::short::write::{self, RegisterWrite};
use crate::stats::Work;
use crate::vcpu::{Vcpu, apic_time};

/// The PM timer's port (`TIMER` of the power block at 600h, where we and stock firmware put it). A guest that moves the block finds the timer
/// there too: nothing else is.
const PM_TIMER: u16 = 0x608;
/// The console's line status, which a guest reads before each character, and ever again while it waits for one.
const CONSOLE_STATUS: u16 = 0x3F8 + serial::LINE_STATUS;
/// Registers of the local APIC that are served here, by their places.
const END_OF_INTERRUPT: u16 = 0x0B;
const MSR_END_OF_INTERRUPT: u32 = MSR_X2APIC + END_OF_INTERRUPT as u32;
const COMMAND: u16 = 0x30;
const INITIAL_COUNT: u16 = 0x38;
const SELF_IPI: u16 = 0x3F;

/// What became of an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    /// It is for the loop to answer; nothing was done.
    No,
    /// It is answered and the save area ready for the next entry.
    Again,
    /// It is answered, and the loop has to look at what came of it.
    Answered,
}

/// What the guest asks for.
enum Ask {
    /// An end of interrupt, by the page.
    EndByPage(RegisterWrite),
    /// The same by MSR.
    EndByMsr,
    /// A write to a register of the local APIC, by its page.
    Page(u16, RegisterWrite),
    /// The same by MSR.
    Msr(u32),
    /// The PM timer.
    PmTimer,
    /// The console's line status.
    ConsoleStatus,
    /// CPUID.
    Cpuid,
}

/// Answers the exit in the save area if it is one of those.
pub(crate) fn serve<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    vmsa: &mut Vmsa,
    machine: &Machine<C>,
    memory: &dyn GuestMemory,
) -> Quick {
    if !is_plain(vcpu, vmsa) {
        return Quick::No;
    }
    let Some(ask) = decode(&vcpu.apic, vmsa, memory) else {
        return Quick::No;
    };
    inject::note_taken(vcpu, vmsa, machine);
    let Some(quick) = carry_out(&ask, vcpu, vmsa, machine) else {
        return Quick::No;
    };
    vmsa.guest_exit_code = ExitCode::INTR;
    vcpu.faults_in_a_row = 0;
    if quick == Quick::Again {
        inject::queue_local(vcpu, vmsa);
    }
    quick
}

/// Returns whether the guest was doing nothing but executing, and has nothing coming but interrupts of its local APIC.
fn is_plain(vcpu: &Vcpu, vmsa: &Vmsa) -> bool {
    vcpu.is_calm
        && !vmsa.guest_exit_int_info.valid()
        && !vmsa.event_inj.valid()
        && !debug::is_watched(vmsa)
}

fn decode(apic: &LocalApic, vmsa: &Vmsa, memory: &dyn GuestMemory) -> Option<Ask> {
    match vmsa.guest_exit_code {
        ExitCode::MSR if vmsa.guest_exit_info1 & MSR_INFO_WRITE != 0 => {
            let msr = registers::low(vmsa.rcx);
            if msr == MSR_END_OF_INTERRUPT && apic.is_x2apic() && registers::pair(vmsa) == 0 {
                return Some(Ask::EndByMsr);
            }
            let place = u16::try_from(msr.wrapping_sub(MSR_X2APIC));
            let is_ours = place.is_ok_and(is_place) || msr == MSR_TSC_DEADLINE;
            is_ours.then_some(Ask::Msr(msr))
        }
        ExitCode::NPF => {
            let gpa = Gpa(vmsa.guest_exit_info2);
            let info = NpfInfo::from_bits_retain(vmsa.guest_exit_info1);
            let offset = u16::try_from(gpa.page_offset()).ok()?;
            if apic.page() != Some(gpa.page()) || offset & 0xF != 0 {
                return None;
            }
            let place = offset >> 4;
            if place == END_OF_INTERRUPT {
                return write::decode(vmsa, memory, gpa, info).map(Ask::EndByPage);
            }
            if !is_place(place) {
                return None;
            }
            write::decode(vmsa, memory, gpa, info).map(|write| Ask::Page(offset, write))
        }
        ExitCode::IOIO => {
            let info = IoioInfo::from_bits(vmsa.guest_exit_info1);
            match info.port() {
                _ if !info.is_in() || info.string() => None,
                PM_TIMER if info.size32() => Some(Ask::PmTimer),
                CONSOLE_STATUS if info.size8() => Some(Ask::ConsoleStatus),
                _ => None,
            }
        }
        ExitCode::CPUID => Some(Ask::Cpuid),
        _ => None,
    }
}

const fn is_place(place: u16) -> bool {
    matches!(place, COMMAND | INITIAL_COUNT | SELF_IPI)
}

/// Does what is asked for and completes the instruction; `None` where it faults.
fn carry_out<C: Timekeeper + Clone>(
    ask: &Ask,
    vcpu: &mut Vcpu,
    vmsa: &mut Vmsa,
    machine: &Machine<C>,
) -> Option<Quick> {
    match ask {
        Ask::EndByPage(write) => {
            vcpu.work = Work::Eoi;
            write.complete(vmsa);
            vcpu.stats.count(&NPF);
            Some(end_of_interrupt(vcpu, machine))
        }
        Ask::EndByMsr => {
            vcpu.work = Work::Eoi;
            gpr::complete(vmsa, vmsa.guest_nrip);
            vcpu.stats.count(&Exit::Msr(Direction::Write));
            Some(end_of_interrupt(vcpu, machine))
        }
        Ask::Page(offset, write) => {
            vcpu.work = Work::of_apic_register(offset >> 4);
            let now = apic_time(machine, vcpu.work);
            let bytes = write.value.to_le_bytes();
            let effect = vcpu.apic.write_mmio(*offset, &bytes, now).ok()?;
            write.complete(vmsa);
            vcpu.stats.count(&NPF);
            Some(follow(effect, vcpu, machine))
        }
        Ask::Msr(msr) => {
            let work = Work::of_apic_msr(*msr);
            let now = apic_time(machine, work);
            let written = vcpu.apic.write_msr(*msr, registers::pair(vmsa), now);
            let effect = written.ok()?;
            vcpu.work = work;
            gpr::complete(vmsa, vmsa.guest_nrip);
            vcpu.stats.count(&Exit::Msr(Direction::Write));
            Some(follow(effect, vcpu, machine))
        }
        Ask::PmTimer => {
            vcpu.work = Work::PmTimer;
            vmsa.rax = u64::from(power::timer_at(machine.clock().now_ns()));
            gpr::complete(vmsa, vmsa.guest_nrip);
            vcpu.stats.count_port();
            Some(Quick::Again)
        }
        Ask::ConsoleStatus if machine.is_console_idle() => {
            vcpu.work = Work::Com1;
            vmsa.rax = vmsa.rax & !0xFF | u64::from(serial::IDLE_STATUS);
            gpr::complete(vmsa, vmsa.guest_nrip);
            vcpu.stats.count_port();
            Some(Quick::Again)
        }
        Ask::ConsoleStatus => None,
        Ask::Cpuid => {
            vcpu.work = Work::Cpuid;
            registers::cpuid(vcpu, vmsa);
            gpr::complete(vmsa, vmsa.guest_nrip);
            vcpu.stats.count(&Exit::Cpuid);
            Some(Quick::Again)
        }
    }
}

/// What a nested page fault is counted as.
const NPF: Exit = Exit::Npf {
    gpa: Gpa(0),
    info: NpfInfo::empty(),
};

fn end_of_interrupt<C: Timekeeper + Clone>(vcpu: &mut Vcpu, machine: &Machine<C>) -> Quick {
    match vcpu.apic.end_of_interrupt() {
        Effect::None => Quick::Again,
        Effect::EoiBroadcast(vector) => match machine.end_level(vector) {
            Ending::Left => Quick::Again,
            Ending::AwaitedByPin => Quick::Answered,
        },
        effect => {
            vcpu.apply(effect, machine);
            Quick::Answered
        }
    }
}

/// Carries out what a write asked for beyond the local APIC, and says whether the loop must look.
fn follow<C: Timekeeper + Clone>(effect: Effect, vcpu: &mut Vcpu, machine: &Machine<C>) -> Quick {
    if effect != Effect::None {
        vcpu.apply(effect, machine);
        return Quick::Answered;
    }
    let due = match vcpu.work {
        Work::TimerCount | Work::TscDeadline => vcpu.apic.deadline(),
        _ => None,
    };
    let is_early = match due {
        None => false,
        Some(TimerDeadline::Tsc(tsc)) => tsc < vcpu.armed_tsc,
        Some(TimerDeadline::Nanoseconds(ns)) => machine.clock().tsc_at(ns) < vcpu.armed_tsc,
    };
    if is_early {
        Quick::Answered
    } else {
        Quick::Again
    }
}

#[cfg(test)]
mod tests;
