//! Which events a VMRUN delivers: the fields of the VMSA under alternate injection, the host's otherwise, and QEMU's
//! deviations from the manual.
//!
//! QEMU 7.2 takes a virtual interrupt whose priority *equals* the TPR and ignores the interrupt shadow on entry. So the
//! comparison is made here, writes to CR8 are intercepted while an interrupt waits, and an interrupt that waits behind a
//! shadow is held back for one single-stepped instruction.

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
    /// Pending virtual interrupt, TPR, shadow.
    pub(super) control: VintrControl,
    /// The event to deliver at the next entry.
    pub(super) event: Option<EventInfo>,
    /// What was offered at the last entry.
    offered: Option<u8>,
    /// The guest was single-stepped over a shadow; what its TF was.
    pub(super) stepping: Option<Stepping>,
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
}

/// What to put into the VMCB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// The virtual interrupt to offer.
    pub(super) offer: Option<u8>,
    /// Single-step one instruction.
    pub(super) step: bool,
    /// Intercept CR8 writes.
    pub(super) watch_tpr: bool,
}

impl Injection {
    /// Decides what the coming entry offers.
    pub(super) fn plan(&mut self, rflags: u64, rip: u64) -> Plan {
        let control = self.control;
        let waits = control.v_irq() && control.v_gif();
        let unmasked = control.ignore_tpr() || control.priority() > control.v_tpr() & 0xF;
        let ready = waits && unmasked;
        let step = ready && control.int_shadow() && rflags & FLAG_IF != 0 && self.event.is_none();
        self.offered = (ready && !step).then_some(control.vector());
        self.entry_rip = rip;
        Plan {
            offer: self.offered,
            step,
            watch_tpr: waits && !control.ignore_tpr(),
        }
    }

    /// Takes back what QEMU left in the VMCB.
    pub(super) fn take_back(&mut self, still_pending: bool, tpr: u8, shadow: bool, rip: u64) {
        if self.offered.is_some() && !still_pending {
            self.control.set_v_irq(false);
        }
        self.control.set_v_tpr(tpr);
        // QEMU forgets the shadow when the instruction after it was not run.
        let kept = self.control.int_shadow() && rip == self.entry_rip;
        self.control.set_int_shadow(shadow || kept);
    }

    /// An event was being delivered when the exit came: deliver it again. QEMU leaves V_IRQ set when the interrupt's own
    /// delivery was interrupted.
    pub(super) fn interrupted(&mut self, event: EventInfo) {
        let is_offered =
            event.event_type() == EventType::EXTERNAL && Some(event.vector()) == self.offered;
        if is_offered {
            self.control.set_v_irq(false);
        }
    }
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

    #[test]
    fn an_interrupt_needs_a_higher_priority_than_the_tpr() {
        let mut injection = waiting(0x51);
        injection.control.set_v_tpr(5);
        assert_eq!(
            injection.plan(0, 0),
            Plan {
                offer: None,
                step: false,
                watch_tpr: true
            }
        );
        injection.control.set_v_tpr(4);
        assert_eq!(injection.plan(0, 0).offer, Some(0x51));
        injection.control.set_v_tpr(15);
        injection.control.set_ignore_tpr(true);
        assert_eq!(
            injection.plan(0, 0),
            Plan {
                offer: Some(0x51),
                step: false,
                watch_tpr: false
            }
        );
    }

    /// The paravisor must set vGIF, or a queued interrupt is never taken.
    #[test]
    fn without_the_virtual_gif_nothing_is_offered() {
        let mut injection = waiting(0x51);
        injection.control.set_v_gif(false);
        assert_eq!(
            injection.plan(FLAG_IF, 0),
            Plan {
                offer: None,
                step: false,
                watch_tpr: false
            }
        );
    }

    /// STI; HLT: an interrupt before the HLT would be lost to it.
    #[test]
    fn an_interrupt_behind_a_shadow_waits_for_one_instruction() {
        let mut injection = waiting(0x51);
        injection.control.set_int_shadow(true);
        assert_eq!(
            injection.plan(FLAG_IF, 0x1000),
            Plan {
                offer: None,
                step: true,
                watch_tpr: true
            }
        );
        injection.take_back(false, 0, false, 0x1001);
        assert!(injection.control.v_irq(), "not offered, not taken");
        assert_eq!(injection.plan(FLAG_IF, 0x1001).offer, Some(0x51));
    }

    #[test]
    fn a_shadow_outlives_exits_until_its_instruction_ran() {
        let mut injection = waiting(0x51);
        injection.control.set_int_shadow(true);
        injection.plan(FLAG_IF, 0x1000);
        injection.take_back(false, 0, false, 0x1000);
        assert!(injection.control.int_shadow());
        injection.plan(FLAG_IF, 0x1000);
        injection.take_back(false, 0, false, 0x1001);
        assert!(!injection.control.int_shadow());
    }

    #[test]
    fn a_taken_interrupt_is_no_longer_pending() {
        let mut injection = waiting(0x51);
        injection.plan(FLAG_IF, 0);
        injection.take_back(false, 0, false, 4);
        assert!(!injection.control.v_irq());
    }

    #[test]
    fn an_interrupt_cut_short_is_taken_and_comes_again_as_an_event() {
        let mut injection = waiting(0x51);
        injection.plan(FLAG_IF, 0);
        injection.take_back(true, 0, false, 0);
        assert!(injection.control.v_irq());
        injection.interrupted(EventInfo::new().with_vector(0x51).with_valid(true));
        assert!(!injection.control.v_irq());
    }
}
