//! Between a vCPU's interrupt state and the injection fields of its save area (APM vol. 2, 15.36.15).
//!
//! [`prepare`] writes what is to be delivered before an entry; [`account`] reads what became of it afterwards.

use stockade_abi::vmsa::{EventInfo, EventType, Vmsa};
use stockade_apic::VirtualInterrupt;
use stockade_apic::inject::{Event, Exception, Guest, Requests, Source, VirtualNmi, decide, wakes};

use crate::host::Timekeeper;
use crate::machine::Machine;
use crate::vcpu::Vcpu;

const RFLAGS_IF: u64 = 1 << 9;
/// #BP and #OF: like INT n, the instruction that raised them executes again.
const VECTORS_OF_INSTRUCTIONS: [u8; 2] = [3, 4];

/// Whether something waits that no hardware window will let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backlog {
    /// Nothing does.
    None,
    /// Have the guest leave again soon.
    Waits,
}

/// Writes what the guest is to be given into its save area, and opens its interrupt gate (step 1 of the run loop).
pub(crate) fn prepare<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    vmsa: &mut Vmsa,
    machine: &Machine<C>,
) -> Backlog {
    let guest = guest_state(vcpu, vmsa);
    let decision = decide(&guest, &requests(vcpu, machine));
    match decision.event {
        Some(Event::Exception(_)) => {
            if let Some(exception) = vcpu.exception.take() {
                exception.prepare(vmsa);
                vmsa.event_inj = exception.event(vmsa);
            }
        }
        Some(Event::Nmi) => {
            vmsa.event_inj = EventInfo::new()
                .with_vector(2)
                .with_event_type(EventType::NMI)
                .with_valid(true);
        }
        None => {}
    }
    vcpu.is_calm = decision.event.is_none()
        && !decision.needs_early_exit
        && vcpu.nmi.is_idle()
        && !vcpu.apic.wants_ext_int();
    vcpu.nmi.commit(&decision);
    vmsa.vintr_ctrl = vmsa
        .vintr_ctrl
        .with_v_nmi_enable(vcpu.has_virtual_nmi)
        .with_v_nmi(vmsa.vintr_ctrl.v_nmi() | decision.virtual_nmi);
    write_virtual(vcpu, vmsa, decision.virtual_interrupt);
    if decision.needs_early_exit {
        Backlog::Waits
    } else {
        Backlog::None
    }
}

/// Does the same for a vCPU that is calm: all it can be given is a vector of its local APIC.
pub(crate) fn queue_local(vcpu: &mut Vcpu, vmsa: &mut Vmsa) {
    let interrupt = vcpu.apic.queueable_vector().map(|vector| VirtualInterrupt {
        vector,
        source: Source::Local,
    });
    write_virtual(vcpu, vmsa, interrupt);
}

fn write_virtual(vcpu: &mut Vcpu, vmsa: &mut Vmsa, interrupt: Option<VirtualInterrupt>) {
    vcpu.queued = interrupt;
    // TPR and CR8 are one register with two doors; the guest may have used the other one.
    let control = vmsa.vintr_ctrl.with_v_gif(true).with_v_tpr(vcpu.apic.cr8());
    vmsa.vintr_ctrl = match interrupt {
        Some(interrupt) => control
            .with_v_irq(true)
            .with_vector(interrupt.vector)
            .with_priority(interrupt.priority())
            .with_ignore_tpr(interrupt.ignores_tpr()),
        None => control.with_v_irq(false),
    };
}

/// Reads what became of it: an interrupted delivery is carried over, a vector taken is accounted for (steps 3 and 4).
pub(crate) fn account<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    vmsa: &mut Vmsa,
    machine: &Machine<C>,
) {
    carry_interrupted_event(vmsa);
    note_taken(vcpu, vmsa, machine);
    vcpu.nmi.observe_exit(&guest_state(vcpu, vmsa));
}

/// Moves a vector the guest took from IRR to ISR, and takes over the task priority it set (step 4).
#[inline]
pub(crate) fn note_taken<C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    vmsa: &Vmsa,
    machine: &Machine<C>,
) {
    if !vmsa.vintr_ctrl.v_irq()
        && let Some(interrupt) = vcpu.queued.take()
    {
        interrupt.taken(&mut vcpu.apic);
        if interrupt.source == Source::ExtInt {
            tell_pic(interrupt.vector, machine);
        }
    }
    vcpu.apic.set_cr8(vmsa.vintr_ctrl.v_tpr() & 0xF);
}

#[cold]
fn tell_pic<C: Timekeeper + Clone>(vector: u8, machine: &Machine<C>) {
    machine.with_chips(|chips| chips.pic.take(vector));
}

/// Under alternate injection nobody else delivers an event again whose delivery was cut short by an exit.
fn carry_interrupted_event(vmsa: &mut Vmsa) {
    let interrupted = core::mem::take(&mut vmsa.guest_exit_int_info);
    if !interrupted.valid() {
        return;
    }
    let executes_again = interrupted.event_type() == EventType::SOFTWARE
        || (interrupted.event_type() == EventType::EXCEPTION
            && VECTORS_OF_INSTRUCTIONS.contains(&interrupted.vector()));
    if interrupted.event_type() == EventType::NMI {
        // Its handler was not reached: it would be injected into a guest that masks it (APM vol. 2, 15.21.10).
        vmsa.vintr_ctrl.set_v_nmi_mask(false);
    }
    if !executes_again && !vmsa.event_inj.valid() {
        vmsa.event_inj = interrupted;
    }
}

/// Returns whether a halted guest has something to wake up for.
pub(crate) fn has_wake_up<C: Timekeeper + Clone>(
    vcpu: &Vcpu,
    vmsa: &Vmsa,
    machine: &Machine<C>,
) -> bool {
    // HLT may have run in a shadow that held the virtual NMI off.
    let control = vmsa.vintr_ctrl;
    let has_nmi = control.v_nmi_enable() && control.v_nmi() && !control.v_nmi_mask();
    has_nmi || wakes(&guest_state(vcpu, vmsa), &requests(vcpu, machine))
}

fn guest_state(vcpu: &Vcpu, vmsa: &Vmsa) -> Guest {
    Guest {
        event_pending: vmsa.event_inj.valid(),
        interrupts_enabled: vmsa.rflags & RFLAGS_IF != 0,
        interrupt_shadow: vmsa.vintr_ctrl.int_shadow(),
        virtual_nmi: match (vcpu.has_virtual_nmi, vmsa.vintr_ctrl.v_nmi_mask()) {
            (false, _) => VirtualNmi::Absent,
            (true, false) => VirtualNmi::Open,
            (true, true) => VirtualNmi::Masked,
        },
    }
}

fn requests<'a, C: Timekeeper + Clone>(vcpu: &'a Vcpu, machine: &Machine<C>) -> Requests<'a> {
    let ext_int = if vcpu.apic.wants_ext_int() {
        machine.with_chips(|chips| chips.pic.peek())
    } else {
        None
    };
    Requests {
        local: &vcpu.apic,
        ext_int,
        nmi: &vcpu.nmi,
        exception: vcpu.exception.map(|exception| Exception {
            vector: exception.vector,
            error_code: exception.error_code,
        }),
    }
}
