//! From a decoded exit to what answers it.

use stockade_abi::exit::NpfInfo;
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::Vmsa;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::debug;
use stockade_intercept::emulate::{Done, Exception, Hint, Stop};
use stockade_intercept::exit::{Advance, Exit, IoAccess};

use crate::gpr;
use crate::host::Timekeeper;
use crate::machine::Machine;
use crate::registers;
use crate::short::string::Way;
use crate::short::{read, string, write};
use crate::stats::Work;
use crate::vcpu::{Bus, Vcpu};

/// How often in a row the guest may fault on one page of its own RAM before the host is taken to have withdrawn it.
const WITHDRAWN_AFTER: u64 = 64;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Enter the guest again.
    Resume,
    /// The guest halted.
    Wait,
    /// A chip was touched: see whether it has something for the outside.
    Device,
    /// The guest cannot go on.
    Stop(StopReason),
}

/// Answers an exit.
pub(crate) fn dispatch<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    vmsa: &mut Vmsa,
    memory: &dyn GuestMemory,
    exit: Exit,
) -> Next {
    if !matches!(exit, Exit::Npf { .. } | Exit::PageNotValidated { .. }) {
        vcpu.faults_in_a_row = 0;
    }
    match exit {
        Exit::Cpuid => {
            registers::cpuid(vcpu, vmsa);
            finish(vcpu, vmsa, exit)
        }
        Exit::Msr(direction) => {
            let outcome = registers::msr(vcpu, machine, vmsa, memory, direction);
            or_fault(vcpu, vmsa, exit, outcome)
        }
        Exit::Xsetbv => {
            let outcome = registers::xsetbv(vcpu, vmsa);
            or_fault(vcpu, vmsa, exit, outcome)
        }
        Exit::Ioio(io) => port(vcpu, machine, vmsa, memory, &io),
        Exit::Npf { gpa, info } => nested_page_fault(vcpu, machine, vmsa, memory, gpa, info),
        Exit::PageNotValidated { gpa } => not_ours(vcpu, memory, gpa),
        Exit::Hlt | Exit::IdleHlt => {
            finish(vcpu, vmsa, exit);
            // HLT has ended: its trap comes instead of the wait.
            if debug::step(vmsa) {
                return raise(vcpu, Exception::DEBUG);
            }
            Next::Wait
        }
        Exit::HostEvent(_) | Exit::Vintr => {
            vcpu.stats.empty_returns += 1;
            Next::Resume
        }
        // Caches are coherent and nothing of ours is write-back to a device.
        Exit::Wbinvd | Exit::Invd | Exit::CrWriteTrap { .. } | Exit::EferWriteTrap => {
            finish(vcpu, vmsa, exit)
        }
        Exit::Rdtsc | Exit::Rdtscp => {
            registers::rdtsc(vmsa, exit, machine.clock().tsc());
            finish(vcpu, vmsa, exit)
        }
        Exit::Rdpmc => or_fault(vcpu, vmsa, exit, Err(Exception::GENERAL_PROTECTION)),
        Exit::Monitor | Exit::Mwait | Exit::SvmInstruction | Exit::Invlpgb | Exit::Rdpru => {
            raise(vcpu, Exception::INVALID_OPCODE)
        }
        Exit::Vmmcall => {
            let outcome = vcpu
                .cpuid
                .hypercall(vmsa)
                .map_err(|_| Exception::INVALID_OPCODE);
            or_fault(vcpu, vmsa, exit, outcome)
        }
        Exit::Shutdown => Next::Stop(StopReason::GUEST_TRIPLE_FAULT),
        Exit::Invalid => Next::Stop(StopReason::VMSA_INVALID),
        // The host claims to have run what we hold: only it can have made that up.
        Exit::Busy => Next::Stop(StopReason::HOST_LIED),
        // Nothing of this is intercepted for a guest like ours unless the host means ill.
        Exit::Exception { .. }
        | Exit::Cr { .. }
        | Exit::Dr { .. }
        | Exit::DescriptorTable(_)
        | Exit::InvalidatePage
        | Exit::Avic
        | Exit::BusLock
        | Exit::NotRestartable
        | Exit::Unknown(_) => {
            log::error!(
                "vCPU {}: no answer to {exit} at {:#x}",
                vcpu.index,
                vmsa.rip
            );
            Next::Stop(StopReason::UNSUPPORTED_EXIT)
        }
    }
}

/// Moves RIP past what was answered (step 6 of the run loop).
fn finish(vcpu: &mut Vcpu, vmsa: &mut Vmsa, exit: Exit) -> Next {
    match exit.advance() {
        Advance::NextRip => {
            gpr::complete(vmsa, vmsa.guest_nrip);
            // The processor did not execute the instruction, so its trap is ours to raise (APM vol. 2, 13.1.4).
            if debug::step(vmsa) {
                raise(vcpu, Exception::DEBUG);
            }
        }
        Advance::Already => vmsa.vintr_ctrl.set_int_shadow(false),
        Advance::Emulate | Advance::Stay => {}
    }
    Next::Resume
}

fn or_fault(vcpu: &mut Vcpu, vmsa: &mut Vmsa, exit: Exit, outcome: Result<(), Exception>) -> Next {
    match outcome {
        Ok(()) => finish(vcpu, vmsa, exit),
        Err(exception) => raise(vcpu, exception),
    }
}

fn raise(vcpu: &mut Vcpu, exception: Exception) -> Next {
    vcpu.exception = Some(exception);
    Next::Resume
}

fn port<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    vmsa: &mut Vmsa,
    memory: &dyn GuestMemory,
    io: &IoAccess,
) -> Next {
    let next_rip = vmsa.guest_nrip;
    emulate(vcpu, machine, |emulator, bus| {
        emulator.port_access(vmsa, memory, bus, io, next_rip)
    })
}

/// Whether the fault is for a device is for our own map to say, never for the host's word.
fn nested_page_fault<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    vmsa: &mut Vmsa,
    memory: &dyn GuestMemory,
    gpa: Gpa,
    info: NpfInfo,
) -> Next {
    if vcpu.apic.page() == Some(gpa.page())
        && let Some(write) = write::decode(vmsa, memory, gpa, info)
    {
        vcpu.faults_in_a_row = 0;
        vcpu.write_apic(gpa, write.value, machine);
        write.complete(vmsa);
        return Next::Resume;
    }
    if machine.is_tpm_register(gpa)
        && let Some(next) = tpm_register(machine, vmsa, memory, gpa, info)
    {
        vcpu.faults_in_a_row = 0;
        vcpu.work = Work::Tpm;
        return next;
    }
    // Of read-only memory a write is the guest's fault, and lost; all else is served without an exit.
    let is_write = info.contains(NpfInfo::WRITE) && !info.contains(NpfInfo::PAGE_TABLE_WALK);
    if memory.is_ram(gpa) || memory.is_rom(gpa) && !is_write {
        return not_ours(vcpu, memory, gpa);
    }
    // The processor was delivering an event, not executing: its tables lie where no memory is, as in a shutdown.
    if vmsa.event_inj.valid() {
        return Next::Stop(StopReason::GUEST_TRIPLE_FAULT);
    }
    vcpu.faults_in_a_row = 0;
    let hint = Hint::from_exit(info, gpa);
    emulate(vcpu, machine, |emulator, bus| {
        emulator.emulate(vmsa, memory, bus, hint)
    })
}

/// Answers a driver's access to a register of the TPM or to its buffer, if it is of a short kind. No chip is touched by it.
fn tpm_register<C: Timekeeper + Clone>(
    machine: &Machine<C>,
    vmsa: &mut Vmsa,
    memory: &dyn GuestMemory,
    gpa: Gpa,
    info: NpfInfo,
) -> Option<Next> {
    if let Some(write) = write::decode(vmsa, memory, gpa, info) {
        machine.mmio_write(gpa, &write.value.to_le_bytes());
        write.complete(vmsa);
    } else if let Some(read) = read::decode(vmsa, memory, gpa, info) {
        let mut word = [0; 4];
        machine.mmio_read(gpa, &mut word);
        read.complete(u32::from_le_bytes(word), vmsa);
    } else {
        let string = string::decode(vmsa, memory, gpa, info)?;
        let moved = string.carry_out(memory, |at, part| {
            let gpa = Gpa(gpa.0.wrapping_add(at));
            match string.way {
                Way::Out => machine.mmio_write(gpa, part),
                Way::In => machine.mmio_read(gpa, part),
            }
        });
        if moved.is_err() {
            return Some(Next::Stop(StopReason::HOST_WITHDREW_MEMORY));
        }
        string.complete(vmsa);
    }
    Some(Next::Resume)
}

/// A fault in guest RAM is the host's doing. Once is an accident of its paging; again and again it withholds the page.
fn not_ours(vcpu: &mut Vcpu, memory: &dyn GuestMemory, gpa: Gpa) -> Next {
    vcpu.stats.spurious_faults += 1;
    vcpu.faults_in_a_row += 1;
    let is_memory = memory.is_ram(gpa) || memory.is_rom(gpa);
    if !is_memory || vcpu.faults_in_a_row >= WITHDRAWN_AFTER {
        return Next::Stop(StopReason::HOST_WITHDREW_MEMORY);
    }
    Next::Resume
}

/// Runs one instruction against the machine and carries out what it asked of the local APIC.
fn emulate<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    execute: impl FnOnce(
        &mut stockade_intercept::emulate::Emulator,
        &mut Bus<'_, C>,
    ) -> Result<Done, Stop>,
) -> Next {
    let mut bus = Bus {
        apic: &mut vcpu.apic,
        machine,
        wakes: &mut vcpu.wakes,
        work: &mut vcpu.work,
        has_touched_chips: false,
    };
    let outcome = execute(&mut vcpu.emulator, &mut bus);
    let next = if bus.has_touched_chips {
        Next::Device
    } else {
        Next::Resume
    };
    match outcome {
        Ok(Done::Completed | Done::Again) => next,
        Ok(Done::Trapped) => {
            vcpu.exception = Some(Exception::DEBUG);
            next
        }
        Err(Stop::Exception(exception)) => raise(vcpu, exception),
        Err(Stop::Unsupported(_)) => {
            vcpu.stats.unsupported_instructions += 1;
            raise(vcpu, Exception::INVALID_OPCODE)
        }
        Err(Stop::Retry) => {
            vcpu.stats.spurious_faults += 1;
            Next::Resume
        }
        Err(Stop::Memory(_)) => Next::Stop(StopReason::HOST_WITHDREW_MEMORY),
        Err(Stop::MalformedPortExit) => Next::Stop(StopReason::UNSUPPORTED_EXIT),
    }
}
