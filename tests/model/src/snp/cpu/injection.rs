//! Which events a VMRUN delivers: the fields of the VMSA under alternate injection, the host's otherwise, and QEMU's
//! deviations from the manual.
//!
//! QEMU 7.2 takes a virtual interrupt whose priority *equals* the TPR, leaves it pending when its delivery faults, ignores
//! the interrupt shadow on entry, and has no virtual NMI. So everything is compared here and injected as an event at the
//! moment the guest would take it: a virtual interrupt that must wait for IF opens QEMU's window instead (V_IRQ with its
//! intercept), what waits behind a shadow is held back for one single-stepped instruction, and while virtual NMIs are
//! masked IRET is intercepted and single-stepped.

use stockade_abi::vmsa::{EventInfo, EventType, VintrControl};

const FLAG_IF: u64 = 1 << 9;

/// Where the events of the VMSA being run come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Source {
    /// The host's VMCB.
    #[default]
    Host,
    /// The VMSA.
    Vmsa,
}

/// The state of injection between two exits of the real VMRUN.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Injection {
    /// Whose events.
    pub(super) source: Source,
    /// Pending virtual interrupt and NMI, TPR, shadow.
    pub(super) control: VintrControl,
    /// The event to deliver at the next entry.
    pub(super) event: Option<EventInfo>,
    /// The guest is being single-stepped.
    pub(super) stepping: Option<Stepping>,
    /// The next instruction is an IRET that ends an NMI handler.
    pub(super) is_at_iret: bool,
    /// RIP at the last entry.
    entry_rip: u64,
}

/// What single-stepping must restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stepping {
    /// The guest's own RFLAGS.TF.
    pub(super) trap_flag: bool,
    /// The guest's DR6.
    pub(super) dr6: u64,
    /// What is stepped over.
    pub(super) over: Over,
}

/// An instruction that is single-stepped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// One in the interrupt shadow.
    Shadow,
    /// The IRET that unmasks virtual NMIs.
    Iret,
}

/// What to put into the VMCB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    /// The event to inject.
    pub(super) event: Option<EventInfo>,
    /// Come back when the guest can take an interrupt.
    pub(super) window: bool,
    /// Single-step one instruction.
    pub(super) step: Option<Over>,
    /// Come back at IRET.
    pub(super) watch_iret: bool,
    /// Come back as soon as the event is delivered: something comes right behind it.
    pub(super) at_once: bool,
}

impl Injection {
    /// Decides what the coming entry delivers. What it delivers is no longer pending.
    pub(super) fn plan(&mut self, rflags: u64, rip: u64) -> Plan {
        self.entry_rip = rip;
        let has_room = self.event.is_none();
        let (has_nmi, has_interrupt) = (self.has_nmi(), self.has_interrupt());
        let takes_interrupt = has_interrupt && rflags & FLAG_IF != 0;
        let is_held_off = self.control.int_shadow() && (has_nmi || takes_interrupt);
        let mut plan = Plan::default();
        if !has_room {
            plan.event = self.event.take();
            plan.at_once = has_nmi;
        } else if self.is_at_iret {
            plan.step = Some(Over::Iret);
        } else if is_held_off {
            plan.step = Some(Over::Shadow);
        } else if has_nmi {
            self.control.set_v_nmi(false);
            plan.event = Some(event(EventType::NMI, 2));
        } else if takes_interrupt {
            self.control.set_v_irq(false);
            plan.event = Some(event(EventType::EXTERNAL, self.control.vector()));
        }
        if self.control.v_nmi_enable() && plan.event.is_some_and(is_nmi) {
            self.control.set_v_nmi_mask(true);
        }
        plan.window = self.has_interrupt() && plan.step.is_none();
        plan.watch_iret =
            self.control.v_nmi_enable() && self.control.v_nmi_mask() && !self.is_at_iret;
        self.is_at_iret = false;
        plan
    }

    fn has_interrupt(&self) -> bool {
        let control = self.control;
        let is_above = control.ignore_tpr() || control.priority() > control.v_tpr() & 0xF;
        control.v_irq() && control.v_gif() && is_above
    }

    fn has_nmi(&self) -> bool {
        let control = self.control;
        control.v_nmi_enable() && control.v_nmi() && !control.v_nmi_mask() && control.v_gif()
    }

    /// Takes back what QEMU left in the VMCB.
    pub(super) fn take_back(&mut self, tpr: u8, shadow: bool, rip: u64) {
        self.control.set_v_tpr(tpr);
        // QEMU forgets the shadow when the instruction after it was not run.
        let kept = self.control.int_shadow() && rip == self.entry_rip;
        self.control.set_int_shadow(shadow || kept);
    }
}

fn event(event_type: EventType, vector: u8) -> EventInfo {
    EventInfo::new()
        .with_vector(vector)
        .with_event_type(event_type)
        .with_valid(true)
}

fn is_nmi(event: EventInfo) -> bool {
    event.event_type() == EventType::NMI
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(vector: u8) -> Injection {
        let control = VintrControl::new()
            .with_v_irq(true)
            .with_v_gif(true)
            .with_vector(vector)
            .with_priority(vector >> 4);
        Injection {
            control,
            ..Injection::default()
        }
    }

    fn with_nmi() -> Injection {
        let control = VintrControl::new()
            .with_v_gif(true)
            .with_v_nmi(true)
            .with_v_nmi_enable(true);
        Injection {
            control,
            ..Injection::default()
        }
    }

    const WINDOW: Plan = Plan {
        event: None,
        window: true,
        step: None,
        watch_iret: false,
        at_once: false,
    };

    #[test]
    fn an_interrupt_needs_a_higher_priority_than_the_tpr() {
        let mut injection = waiting(0x51);
        injection.control.set_v_tpr(5);
        assert_eq!(injection.plan(FLAG_IF, 0), Plan::default());
        injection.control.set_v_tpr(4);
        assert_eq!(
            injection.plan(FLAG_IF, 0).event,
            Some(event(EventType::EXTERNAL, 0x51))
        );
        let mut injection = waiting(0x51);
        injection.control.set_v_tpr(15);
        injection.control.set_ignore_tpr(true);
        assert_eq!(
            injection.plan(FLAG_IF, 0).event,
            Some(event(EventType::EXTERNAL, 0x51))
        );
    }

    /// The paravisor must set vGIF, or a queued interrupt is never taken.
    #[test]
    fn without_the_virtual_gif_nothing_is_delivered() {
        let mut injection = waiting(0x51);
        injection.control.set_v_gif(false);
        assert_eq!(injection.plan(FLAG_IF, 0), Plan::default());
    }

    #[test]
    fn with_interrupts_off_a_window_is_opened() {
        let mut injection = waiting(0x51);
        assert_eq!(injection.plan(0, 0), WINDOW);
        assert!(injection.control.v_irq());
    }

    /// STI; HLT: an interrupt before the HLT would be lost to it.
    #[test]
    fn an_interrupt_behind_a_shadow_waits_for_one_instruction() {
        let mut injection = waiting(0x51);
        injection.control.set_int_shadow(true);
        let plan = injection.plan(FLAG_IF, 0x1000);
        assert_eq!((plan.event, plan.step), (None, Some(Over::Shadow)));
        injection.take_back(0, false, 0x1001);
        assert!(injection.control.v_irq(), "not delivered, not taken");
        assert!(injection.plan(FLAG_IF, 0x1001).event.is_some());
    }

    #[test]
    fn a_shadow_outlives_exits_until_its_instruction_ran() {
        let mut injection = waiting(0x51);
        injection.control.set_int_shadow(true);
        injection.plan(FLAG_IF, 0x1000);
        injection.take_back(0, false, 0x1000);
        assert!(injection.control.int_shadow());
        injection.plan(FLAG_IF, 0x1000);
        injection.take_back(0, false, 0x1001);
        assert!(!injection.control.int_shadow());
    }

    #[test]
    fn a_taken_interrupt_is_no_longer_pending() {
        let mut injection = waiting(0x51);
        injection.plan(FLAG_IF, 0);
        assert!(!injection.control.v_irq());
        assert_eq!(injection.plan(FLAG_IF, 0), Plan::default());
    }

    #[test]
    fn an_nmi_masks_the_next_until_iret_was_stepped_over() {
        let mut injection = with_nmi();
        let plan = injection.plan(0, 0);
        assert_eq!(plan.event, Some(event(EventType::NMI, 2)));
        assert!(plan.watch_iret && injection.control.v_nmi_mask());
        injection.control.set_v_nmi(true);
        assert_eq!(injection.plan(0, 0).event, None);
        injection.is_at_iret = true;
        let plan = injection.plan(0, 0);
        assert_eq!((plan.step, plan.watch_iret), (Some(Over::Iret), false));
        injection.control.set_v_nmi_mask(false);
        assert!(injection.plan(0, 0).event.is_some());
    }

    #[test]
    fn an_nmi_goes_before_an_interrupt_and_after_an_event() {
        let mut injection = with_nmi();
        injection.control.set_v_irq(true);
        injection.control.set_ignore_tpr(true);
        injection.event = Some(event(EventType::EXCEPTION, 6));
        let plan = injection.plan(FLAG_IF, 0);
        assert_eq!(plan.event, Some(event(EventType::EXCEPTION, 6)));
        assert!(plan.at_once && plan.window);
        let plan = injection.plan(FLAG_IF, 0);
        assert_eq!(plan.event, Some(event(EventType::NMI, 2)));
        assert!(injection.control.v_irq());
    }

    /// APM vol. 2, 15.21.10: without V_NMI_ENABLE the other bits mean nothing.
    #[test]
    fn without_virtual_nmis_nothing_is_masked() {
        let mut injection = with_nmi();
        injection.control.set_v_nmi_enable(false);
        assert_eq!(injection.plan(0, 0), Plan::default());
        injection.event = Some(event(EventType::NMI, 2));
        assert!(!injection.plan(0, 0).watch_iret && !injection.control.v_nmi_mask());
    }
}
