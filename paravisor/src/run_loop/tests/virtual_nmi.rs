//! NMIs on a processor that keeps them itself (APM vol. 2, 15.21.10): handed over, never injected, never blocked here.

use super::*;

/// A vCPU whose guest, once entered, is in the state of a processor with virtual NMIs.
fn rig<'a>(clock: &'a FakeClock, script: &[Scene]) -> Rig<'a> {
    let mut rig = Rig::new(clock, script);
    rig.vcpu.has_virtual_nmi = true;
    rig
}

#[test]
fn nmi_is_handed_over_in_any_shadow_and_with_interrupts_off() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[host_interrupt]);
    rig.processor.vmsa.vintr_ctrl.set_int_shadow(true);
    rig.processor.vmsa.rflags = 2;
    rig.vcpu.nmi.raise();
    rig.turn().unwrap();
    let control = rig.processor.vmsa.vintr_ctrl;
    assert!(control.v_nmi_enable() && control.v_nmi());
    assert!(rig.processor.delivered.is_empty() && rig.host.armed.is_empty());
}

/// The bit is the processor's until it has delivered: a second look must not take it back.
#[test]
fn nmi_waiting_in_the_processor_outlives_exits() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[host_interrupt as Scene; 2]);
    rig.vcpu.nmi.raise();
    rig.turn().unwrap();
    rig.turn().unwrap();
    assert!(rig.processor.vmsa.vintr_ctrl.v_nmi());
}

#[test]
fn handler_that_halts_sleeps_on_when_another_nmi_comes() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[host_interrupt]);
    rig.processor.vmsa.vintr_ctrl.set_v_nmi_mask(true);
    rig.vcpu.activity = Activity::Halted;
    rig.vcpu.nmi.raise();
    rig.turn().unwrap();
    assert_eq!(rig.host.waits, 1);
    rig.processor.vmsa.vintr_ctrl.set_v_nmi_mask(false);
    rig.turn().unwrap();
    assert_eq!(rig.vcpu.activity, Activity::Running);
}

/// STI; HLT: the shadow holds the NMI off until the guest has halted.
#[test]
fn halted_guest_wakes_for_an_nmi_the_processor_holds() {
    let clock = FakeClock::default();
    let mut rig = rig(&clock, &[host_interrupt]);
    rig.processor.vmsa.vintr_ctrl = rig
        .processor
        .vmsa
        .vintr_ctrl
        .with_v_nmi_enable(true)
        .with_v_nmi(true);
    rig.vcpu.activity = Activity::Halted;
    rig.turn().unwrap();
    assert_eq!((rig.host.waits, rig.vcpu.activity), (0, Activity::Running));
}

/// The entry that injects it masks the next one; a mask that is left over would have it injected into its own handler.
#[test]
fn nmi_cut_short_goes_in_again_unmasked() {
    let clock = FakeClock::default();
    let cut_short: Scene = |vmsa| {
        host_interrupt(vmsa);
        vmsa.vintr_ctrl.set_v_nmi_mask(true);
        vmsa.guest_exit_int_info = EventInfo::new()
            .with_vector(2)
            .with_event_type(EventType::NMI)
            .with_valid(true);
    };
    let mut rig = rig(&clock, &[cut_short, host_interrupt]);
    rig.turn().unwrap();
    assert!(!rig.processor.vmsa.vintr_ctrl.v_nmi_mask());
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [2]);
}
