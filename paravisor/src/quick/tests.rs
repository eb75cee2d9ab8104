//! Each of the loop's steps once more, for exits that do not go through all of it: a test fails when its step is taken out.

use stockade_abi::exit::ExitCode;
use stockade_abi::vmsa::{EventInfo, Vmsa};
use stockade_apic::Time;
use stockade_bus::Gpa;
use stockade_bus::fake::FakeClock;

use crate::machine::locks_taken;
use crate::run_loop::tests::{Rig, Scene, cpuid_exit, exit, host_interrupt};

const EOI: u32 = 0x80B;
const COMMAND: u32 = 0x830;
const INITIAL_COUNT: u32 = 0x838;

fn write(vmsa: &mut Vmsa, msr: u32, value: u64) {
    exit(vmsa, ExitCode::MSR);
    vmsa.guest_exit_info1 = 1;
    vmsa.rcx = u64::from(msr);
    (vmsa.rax, vmsa.rdx) = (value & 0xFFFF_FFFF, value >> 32);
}

const END: Scene = |vmsa| write(vmsa, EOI, 0);
const TO_SELF: Scene = |vmsa| write(vmsa, COMMAND, 0x4_4066);
/// IN EAX, DX at port 608h, the address size being 64 bits.
const PM_TIMER: Scene = |vmsa| {
    exit(vmsa, ExitCode::IOIO);
    vmsa.guest_exit_info1 = 0x0608_0241;
};

/// IN AL, DX at port 3FDh.
const CONSOLE_STATUS: Scene = |vmsa| {
    exit(vmsa, ExitCode::IOIO);
    vmsa.guest_exit_info1 = 0x03FD_0211;
};

/// A vCPU whose local APIC is in x2APIC mode and enabled.
fn rig<'a>(clock: &'a FakeClock, script: &[Scene]) -> Rig<'a> {
    let mut rig = Rig::new(clock, script);
    let apic = &mut rig.vcpu.apic;
    let base = apic.apic_base() | 1 << 10;
    for (msr, value) in [(0x1B, base), (0x80F, 0x1FF), (0x83E, 0xB)] {
        let _ = apic.write_msr(msr, value, Time::default()).unwrap();
    }
    apic.publish(&rig.machine.mailboxes()[0]);
    rig
}

/// Runs the guest until it does something else.
fn visit(rig: &mut Rig<'_>) {
    rig.turn().unwrap();
}

/// The point of it all: what a guest does most costs neither a lock nor memory, and no call of the host but the entry.
#[test]
fn common_exits_take_no_lock_allocate_nothing_and_ask_nothing_of_the_host() {
    let clock = FakeClock::default();
    let deadline: Scene = |vmsa| write(vmsa, 0x6E0, u64::MAX);
    let count: Scene = |vmsa| write(vmsa, INITIAL_COUNT, u64::from(u32::MAX));
    let script = [
        END,
        TO_SELF,
        END,
        deadline,
        count,
        PM_TIMER,
        CONSOLE_STATUS,
        cpuid_exit,
        host_interrupt,
    ];
    let mut rig = rig(&clock, &script);
    rig.machine.with_chips(|_| ());
    rig.request(0x55);
    rig.processor.delivered.reserve(8);
    let before = locks_taken();
    let allocated = allocation_counter::measure(|| visit(&mut rig));
    assert_eq!(allocated.count_total, 0);
    assert_eq!(locks_taken(), before);
    assert_eq!(rig.processor.vmsa.rip, 0x1000 + 2 * 8, "all in one visit");
    assert!(rig.host.armed.is_empty() && rig.host.kicked.is_empty());
}

/// A timer's interrupt and the way out of HLT may set the host's timer anew, but take no lock and no memory either.
#[test]
fn timer_interrupt_and_wake_up_take_no_lock_and_allocate_nothing() {
    let clock = FakeClock::default();
    let halt: Scene = |vmsa| exit(vmsa, ExitCode::HLT);
    let mut rig = rig(&clock, &[host_interrupt, halt, host_interrupt]);
    for (msr, value) in [(0x832, 0x4_0066), (0x6E0, 500)] {
        let _ = rig
            .vcpu
            .apic
            .write_msr(msr, value, Time::default())
            .unwrap();
    }
    rig.processor.delivered.reserve(8);
    rig.host.armed.reserve(8);
    visit(&mut rig);
    clock.advance(500);
    let before = locks_taken();
    let allocated = allocation_counter::measure(|| {
        visit(&mut rig);
        visit(&mut rig);
        rig.request(0x77);
        visit(&mut rig);
    });
    assert_eq!(allocated.count_total, 0);
    assert_eq!(locks_taken(), before);
    assert_eq!(rig.processor.delivered, [0x66, 0x77]);
    assert_eq!(rig.host.waits, 1);
}

/// Step 4, then the next vector at once: without the first the vector came twice, without the second it waited for another exit.
#[test]
fn end_of_interrupt_lets_the_next_vector_in() {
    let clock = FakeClock::default();
    let second: Scene = |vmsa| write(vmsa, COMMAND, 0x4_4044);
    let mut rig = rig(&clock, &[second, END, host_interrupt]);
    rig.request(0x55);
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [0x55, 0x44]);
    let in_service = rig.vcpu.apic.read_msr(0x812, Time::default());
    assert_eq!(in_service, Ok(1 << 4), "44h alone");
}

/// Sets pin 4 of the IOAPIC, the serial port's, up for a level-triggered vector, and raises it.
fn raise_level(rig: &mut Rig<'_>) {
    for (index, value) in [(0x18_u32, 0x8055_u32), (0x19, 0)] {
        let machine = &rig.machine;
        machine.mmio_write(Gpa(0xFEC0_0000), &index.to_le_bytes());
        machine.mmio_write(Gpa(0xFEC0_0010), &value.to_le_bytes());
    }
    // OUT2, and the interrupt of an empty transmitter.
    rig.machine.port_write(0x3FC, &[0x0B]);
    rig.machine.port_write(0x3F9, &[0x02]);
}

/// The driver has served its device before: nothing but the vector's place in ISR is left to do.
#[test]
fn end_of_a_level_that_has_fallen_takes_no_lock() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[END, host_interrupt]);
    raise_level(&mut rig);
    rig.machine.port_write(0x3F9, &[0]);
    let before = locks_taken();
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [0x55]);
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    assert_eq!(locks_taken(), before);
    rig.machine.port_write(0x3F9, &[0x02]);
    assert_eq!(rig.machine.take_wakes(), 1, "remote IRR is clear");
}

/// A level that lasts comes again at once.
#[test]
fn end_of_a_level_that_lasts_brings_it_again() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[END, host_interrupt]);
    raise_level(&mut rig);
    // The end, the mail it has led to, what comes of that.
    for _ in 0..3 {
        visit(&mut rig);
    }
    assert_eq!(rig.processor.delivered, [0x55, 0x55]);
}

/// Step 4: CR8 as the guest left it decides what is in its way.
#[test]
fn task_priority_the_guest_set_is_taken_over() {
    let clock = FakeClock::default();
    let closing: Scene = |vmsa| {
        vmsa.vintr_ctrl.set_v_tpr(9);
        END(vmsa);
    };
    let mut rig = rig(&clock, &[closing, host_interrupt]);
    visit(&mut rig);
    assert_eq!(rig.vcpu.apic.task_priority(), 0x90);
    assert_eq!(rig.processor.vmsa.vintr_ctrl.v_tpr(), 9);
}

/// Step 5: a host that shows the same exit again must not have a second interrupt ended.
#[test]
fn replayed_exit_is_not_served_twice() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[END, |_| {}]);
    visit(&mut rig);
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    assert_eq!(rig.vcpu.stats.empty_returns, 1);
}

/// Step 6: RIP goes on where hardware says, the interrupt shadow and RF end.
#[test]
fn answered_instruction_is_left_behind_with_its_shadow() {
    let clock = FakeClock::default();
    let shadowed: Scene = |vmsa| {
        cpuid_exit(vmsa);
        vmsa.vintr_ctrl.set_int_shadow(true);
        vmsa.rflags |= 1 << 16;
    };
    let mut rig = rig(&clock, &[shadowed, host_interrupt]);
    visit(&mut rig);
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    assert!(!rig.processor.vmsa.vintr_ctrl.int_shadow());
    assert_eq!(rig.processor.vmsa.rflags & 1 << 16, 0);
}

/// Step 3 is the loop's: an event whose delivery an exit cut short goes in again.
#[test]
fn event_cut_short_is_left_to_the_whole_loop() {
    let clock = FakeClock::default();
    let cut_short: Scene = |vmsa| {
        END(vmsa);
        vmsa.guest_exit_int_info = EventInfo::new().with_vector(0x41).with_valid(true);
    };
    let mut rig = rig(&clock, &[cut_short, host_interrupt]);
    visit(&mut rig);
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [0x41]);
}

/// An NMI without vNMI is given out by the whole loop, which alone sees when the one before has ended.
#[test]
fn vcpu_with_an_nmi_is_not_calm() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[END, host_interrupt, host_interrupt]);
    rig.vcpu.nmi.raise();
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [2]);
    assert!(!rig.vcpu.is_calm);
    rig.vcpu.nmi.raise();
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [2, 2]);
}

/// The trap comes instead of the next entry.
#[test]
fn single_step_over_a_quick_exit_traps_behind_it() {
    let clock = FakeClock::default();
    let step: Scene = |vmsa| {
        END(vmsa);
        vmsa.rflags |= 1 << 8;
    };
    let mut rig = rig(&clock, &[step, host_interrupt]);
    visit(&mut rig);
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [1]);
}

/// Only the emulator compares what it accesses with DR0 to DR3.
#[test]
fn breakpoint_on_a_quick_port_traps_behind_it() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[PM_TIMER, host_interrupt]);
    let vmsa = &mut rig.processor.vmsa;
    (vmsa.dr3, vmsa.dr7, vmsa.cr4) = (0x608, 1 << 6 | 0b10 << 28, 1 << 3);
    visit(&mut rig);
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [1]);
    assert_eq!(rig.processor.vmsa.dr6 & 0xF, 1 << 3);
}

/// An earlier deadline than the host's timer is set to would come late otherwise; a later one costs no call.
#[test]
fn only_an_earlier_deadline_sets_the_hosts_timer() {
    let clock = FakeClock::default();
    let far: Scene = |vmsa| write(vmsa, INITIAL_COUNT, 9000);
    let near: Scene = |vmsa| write(vmsa, INITIAL_COUNT, 300);
    let mut rig = rig(&clock, &[far, near, far, host_interrupt]);
    let _ = rig
        .vcpu
        .apic
        .write_msr(0x832, 0x66, Time::default())
        .unwrap();
    for armed in [&[][..], &[], &[9000]] {
        assert_eq!(rig.host.armed, armed);
        visit(&mut rig);
    }
    assert_eq!(rig.host.armed, [9000, 300]);
    assert_eq!(rig.vcpu.stats.empty_returns, 1);
}

/// A write the register refuses is #GP, which the whole loop raises.
#[test]
fn refused_write_faults() {
    let clock = FakeClock::default();
    let refused: Scene = |vmsa| write(vmsa, EOI, 1);
    let mut rig = rig(&clock, &[refused, host_interrupt]);
    visit(&mut rig);
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [13]);
    assert_eq!(rig.processor.vmsa.rip, 0x1000);
}

/// An MSR of x2APIC mode does not exist in xAPIC mode.
#[test]
fn end_by_msr_faults_in_xapic_mode() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[END, host_interrupt]);
    visit(&mut rig);
    visit(&mut rig);
    assert_eq!(rig.processor.delivered, [13]);
}

/// The clock alone says what the PM timer reads, in 32 bits that clear the upper half of RAX.
#[test]
fn pm_timer_reads_the_clock() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[PM_TIMER, host_interrupt]);
    clock.advance(1_000_000_000);
    rig.processor.vmsa.rax = u64::MAX;
    visit(&mut rig);
    assert_eq!(rig.processor.vmsa.rax, 3_579_545);
}

/// Input that has come, or output that fills the port, is for the chip to tell; the rest of RAX stays.
#[test]
fn status_of_the_console_is_answered_while_it_is_idle() {
    let clock = FakeClock::default();
    let script = [
        CONSOLE_STATUS,
        host_interrupt,
        CONSOLE_STATUS,
        host_interrupt,
    ];
    let mut rig = rig(&clock, &script);
    rig.machine.with_chips(|_| ());
    rig.processor.vmsa.rax = u64::MAX;
    visit(&mut rig);
    assert_eq!(rig.processor.vmsa.rax, u64::MAX << 8 | 0x60);
    rig.machine.with_chips(|chips| chips.com1.push_input(b"a"));
    let before = locks_taken();
    visit(&mut rig);
    assert_eq!(rig.processor.vmsa.rax & 0xFF, 0x61);
    assert!(locks_taken() > before);
}
