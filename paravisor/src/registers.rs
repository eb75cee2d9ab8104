//! CPUID, MSRs and XCR0: exits that only move registers.

use stockade_abi::vmsa::Vmsa;
use stockade_apic::GeneralProtection;
use stockade_bus::GuestMemory;
use stockade_intercept::cpuid::CpuidState;
use stockade_intercept::emulate::Exception;
use stockade_intercept::exit::{Direction, Exit};
use stockade_intercept::msr::{Msr, MsrFault, MsrRead, MsrWrite};

use crate::host::Timekeeper;
use crate::hyperv;
use crate::machine::Machine;
use crate::stats::Work;
use crate::vcpu::{Vcpu, apic_time};

const APIC_BASE_ENABLE: u64 = 1 << 11;
const CR4_OSXSAVE: u64 = 1 << 18;

pub(crate) fn low(register: u64) -> u32 {
    let [a, b, c, d, ..] = register.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// EDX:EAX as one value.
pub(crate) fn pair(vmsa: &Vmsa) -> u64 {
    u64::from(low(vmsa.rdx)) << 32 | u64::from(low(vmsa.rax))
}

fn set_pair(vmsa: &mut Vmsa, value: u64) {
    vmsa.rax = value & 0xFFFF_FFFF;
    vmsa.rdx = value >> 32;
}

/// Answers CPUID.
pub(crate) fn cpuid(vcpu: &Vcpu, vmsa: &mut Vmsa) {
    let is_apic_enabled = vcpu.apic.apic_base() & APIC_BASE_ENABLE != 0;
    let state = CpuidState::new(vmsa, vcpu.apic.config().id, is_apic_enabled);
    let (leaf, subleaf) = (low(vmsa.rax), low(vmsa.rcx));
    vcpu.cpuid.query(leaf, subleaf, &state).store(vmsa);
}

/// Answers RDMSR or WRMSR.
pub(crate) fn msr<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    vmsa: &mut Vmsa,
    memory: &dyn GuestMemory,
    direction: Direction,
) -> Result<(), Exception> {
    let msr = Msr(low(vmsa.rcx));
    let outcome = match direction {
        Direction::Read if hyperv::is_ours(vcpu, msr.0) => {
            hyperv::read(vcpu, machine, msr.0).map(|value| set_pair(vmsa, value))
        }
        Direction::Write if hyperv::is_ours(vcpu, msr.0) => {
            hyperv::write(vcpu, machine, memory, msr.0, pair(vmsa))
        }
        Direction::Read => read(vcpu, machine, vmsa, msr),
        Direction::Write => write(vcpu, machine, vmsa, msr),
    };
    outcome.map_err(|fault| {
        if fault == MsrFault::Unknown {
            vcpu.stats.unknown_msrs += 1;
            vcpu.stats.last_unknown_msr = msr.0;
        }
        Exception::GENERAL_PROTECTION
    })
}

fn read<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    vmsa: &mut Vmsa,
    msr: Msr,
) -> Result<(), MsrFault> {
    let value = match vcpu.msrs.read(msr, vmsa)? {
        MsrRead::Value(value) => value,
        MsrRead::Tsc => machine.clock().tsc(),
        MsrRead::Apic(_) => {
            vcpu.work = Work::Apic;
            let now = machine.clock().now();
            vcpu.apic.read_msr(msr.0, now).map_err(refused)?
        }
    };
    set_pair(vmsa, value);
    Ok(())
}

fn write<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    vmsa: &mut Vmsa,
    msr: Msr,
) -> Result<(), MsrFault> {
    let value = pair(vmsa);
    match vcpu.msrs.write(msr, value, vmsa)? {
        MsrWrite::Done => {}
        MsrWrite::Apic(_) => {
            vcpu.work = Work::of_apic_msr(msr.0);
            let now = apic_time(machine, vcpu.work);
            let effect = vcpu.apic.write_msr(msr.0, value, now).map_err(refused)?;
            vcpu.apply(effect, machine);
        }
        MsrWrite::PredictionBarrier(bits) => vcpu.prediction_barrier |= bits,
    }
    Ok(())
}

fn refused(_: GeneralProtection) -> MsrFault {
    MsrFault::Refused
}

/// Answers XSETBV (APM vol. 4, XSETBV): XCR0 only, at CPL 0, with a value the processor has.
pub(crate) fn xsetbv(vcpu: &Vcpu, vmsa: &mut Vmsa) -> Result<(), Exception> {
    if vmsa.cr4 & CR4_OSXSAVE == 0 {
        return Err(Exception::INVALID_OPCODE);
    }
    let value = pair(vmsa);
    if vmsa.cpl != 0 || low(vmsa.rcx) != 0 || !vcpu.cpuid.is_valid_xcr0(value) {
        return Err(Exception::GENERAL_PROTECTION);
    }
    vmsa.xcr0 = value;
    Ok(())
}

/// Answers RDTSC and RDTSCP, should the host intercept them: the guest's counter is the processor's.
pub(crate) fn rdtsc(vmsa: &mut Vmsa, exit: Exit, tsc: u64) {
    set_pair(vmsa, tsc);
    if exit == Exit::Rdtscp {
        vmsa.rcx = u64::from(vmsa.tsc_aux);
    }
}
