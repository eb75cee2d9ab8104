//! The interface through the run loop: a scripted guest writes MSRs, time passes, vectors arrive.

use stockade_abi::exit::{ExitCode, MSR_INFO_WRITE};
use stockade_abi::vmsa::Vmsa;
use stockade_bus::fake::FakeClock;
use stockade_bus::{Gpa, GuestMemory};
use stockade_intercept::cpuid::{HypervisorIdentity, X2Apic};
use stockade_intercept::exit::Exit;
use stockade_intercept::hyperv::ReferenceClock;

use super::HyperV;
use crate::dispatch::{Next, dispatch};
use crate::host::Timekeeper;
use crate::run_loop::tests::{Rig, cpuid_of};

const GUEST_OS_ID: u32 = 0x4000_0000;
const HYPERCALL: u32 = 0x4000_0001;
const VP_INDEX: u32 = 0x4000_0002;
const CONFIG0: u32 = 0x4000_00B0;
const COUNT0: u32 = 0x4000_00B1;
const DIRECT: u64 = 1 | 1 << 12 | 0xED << 4;

fn rig(clock: &FakeClock) -> Rig<'_> {
    let mut rig = Rig::new(clock, &[]);
    rig.vcpu.cpuid = cpuid_of(X2Apic::Offered, HypervisorIdentity::HyperV);
    rig.vcpu.hyperv = rig.vcpu.cpuid.reference_clock().map(HyperV::new);
    assert!(rig.vcpu.hyperv.is_some());
    rig
}

/// Executes RDMSR or WRMSR; `None` if it faults.
fn msr(rig: &mut Rig<'_>, number: u32, write: Option<u64>) -> Option<u64> {
    let mut vmsa = Vmsa::zeroed();
    vmsa.guest_exit_code = ExitCode::MSR;
    vmsa.rcx = number.into();
    if let Some(value) = write {
        vmsa.guest_exit_info1 = MSR_INFO_WRITE;
        (vmsa.rax, vmsa.rdx) = (value & 0xFFFF_FFFF, value >> 32);
    }
    let exit = Exit::decode(&vmsa);
    let next = dispatch(&mut rig.vcpu, &rig.machine, &mut vmsa, &rig.memory, exit);
    assert_eq!(next, Next::Resume);
    let is_fault = rig.vcpu.exception.take().is_some();
    (!is_fault).then_some(vmsa.rdx << 32 | vmsa.rax)
}

#[test]
fn the_hypercall_page_is_code_where_the_guest_wants_it() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock);
    assert!(msr(&mut rig, GUEST_OS_ID, Some(0x8100)).is_some());
    assert!(msr(&mut rig, HYPERCALL, Some(0x3001)).is_some());
    let mut code = [0; 4];
    rig.memory.read(Gpa(0x3000), &mut code).unwrap();
    assert_eq!(code, [0x0F, 0x01, 0xD9, 0xC3]);
    assert_eq!(msr(&mut rig, HYPERCALL, None), Some(0x3001));
    rig.machine.reset();
    assert_eq!(msr(&mut rig, HYPERCALL, None), Some(0));
}

/// A timer of the guest's former life would raise its vector in the next one, or write into its memory.
#[test]
fn power_on_leaves_no_timer_and_no_page_of_the_life_before() {
    const PAGE: u64 = 0x5001;
    let clock = FakeClock::default();
    let mut rig = rig(&clock);
    let after_power_on = [
        (0x4000_0073, 0),
        (0x4000_0080, 0),
        (0x4000_0082, 0),
        (0x4000_0083, 0),
        (0x4000_0092, 1 << 16),
        (COUNT0, 0),
        (CONFIG0, 0),
    ];
    let written = [PAGE, 1, PAGE, PAGE, 0xEE, 50_000, DIRECT];
    for ((number, _), value) in after_power_on.into_iter().zip(written) {
        assert!(msr(&mut rig, number, Some(value)).is_some());
        assert_eq!(msr(&mut rig, number, None), Some(value), "{number:#x}");
    }
    assert_ne!(rig.vcpu.deadline_tsc(&rig.machine), u64::MAX);
    rig.vcpu.power_on(&rig.machine);
    for (number, value) in after_power_on {
        assert_eq!(msr(&mut rig, number, None), Some(value), "{number:#x}");
    }
    assert_eq!(rig.vcpu.deadline_tsc(&rig.machine), u64::MAX);
}

#[test]
fn a_direct_timer_arms_the_host_and_comes_as_its_vector() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock);
    let units = ReferenceClock::try_new(1_000_000_000).unwrap();
    let due = units.at(clock_tsc(&rig)) + 50_000;
    assert!(msr(&mut rig, COUNT0, Some(due)).is_some());
    assert!(msr(&mut rig, CONFIG0, Some(DIRECT)).is_some());
    assert_eq!(rig.vcpu.deadline_tsc(&rig.machine), units.tsc_at(due));
    let mut vmsa = Vmsa::zeroed();
    let _ = rig
        .vcpu
        .apic
        .write_mmio(0xF0, &0x1FF_u32.to_le_bytes(), rig.machine.clock().now());
    rig.vcpu.catch_up(&rig.machine, &mut vmsa, &rig.memory);
    assert_eq!(rig.vcpu.apic.queueable_vector(), None);
    clock.advance(5_000_001);
    rig.vcpu.catch_up(&rig.machine, &mut vmsa, &rig.memory);
    assert_eq!(rig.vcpu.apic.queueable_vector(), Some(0xED));
}

#[test]
fn registers_of_the_local_apic_can_be_reached_by_msr() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock);
    assert!(msr(&mut rig, 0x4000_0072, Some(0x50)).is_some());
    assert_eq!(msr(&mut rig, 0x4000_0072, None), Some(0x50));
    assert!(msr(&mut rig, 0x4000_0071, Some(0x0300_0000_0004_4099)).is_some());
    assert_eq!(
        msr(&mut rig, 0x4000_0071, None),
        Some(0x0300_0000_0004_4099)
    );
    assert!(msr(&mut rig, 0x4000_0070, Some(0)).is_some());
    assert_eq!(msr(&mut rig, 0x4000_0070, None), None);
}

#[test]
fn the_page_about_a_processor_is_handed_over_empty() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock);
    rig.memory.write(Gpa(0x5000), &[0xFF; 8]).unwrap();
    assert!(msr(&mut rig, 0x4000_0073, Some(0x5001)).is_some());
    let mut bytes = [1; 8];
    rig.memory.read(Gpa(0x5000), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 8]);
    assert_eq!(msr(&mut rig, 0x4000_0073, Some(0xFFFF_FFFF_F001)), None);
}

#[test]
fn clocks_and_the_index_cannot_be_written() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock);
    assert_eq!(msr(&mut rig, VP_INDEX, None), Some(0));
    assert_eq!(msr(&mut rig, 0x4000_0022, None), Some(1_000_000_000));
    assert_eq!(msr(&mut rig, 0x4000_0023, None), Some(1_000_000_000));
    for number in [VP_INDEX, 0x4000_0020, 0x4000_0022, 0x4000_0010, 0x4000_0085] {
        assert_eq!(msr(&mut rig, number, Some(0)), None, "{number:#x}");
    }
}

#[test]
fn a_guest_that_was_not_told_of_it_finds_nothing() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[]);
    for number in [GUEST_OS_ID, VP_INDEX, CONFIG0] {
        assert_eq!(msr(&mut rig, number, None), None, "{number:#x}");
    }
}

fn clock_tsc(rig: &Rig<'_>) -> u64 {
    rig.machine.clock().tsc()
}
