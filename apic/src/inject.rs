//! What to write into a guest's VMSA before it is entered.
//!
//! Under alternate injection there is one slot for an event that is delivered at once (`event_inj`), one virtual interrupt that
//! hardware delivers when IF, the interrupt shadow and CR8 allow it (`vintr_ctrl`), and on some parts a virtual NMI that hardware
//! masks until IRET. [`decide`] chooses what goes into each. It changes nothing: the choice is made anew before each entry, so a
//! queued vector gives way to a higher one that came meanwhile. Only what the guest really took moves on:
//!
//! 1. before the entry: [`decide`], write it, [`NmiLatch::commit`];
//! 2. after it, if `v_irq` has gone to 0: [`VirtualInterrupt::taken`], which moves a local vector from IRR to ISR; for a vector of
//!    the 8259 pair also [`Pic::take`](crate::Pic::take);
//! 3. then carry `exit_int_info` over and tell [`NmiLatch::observe_exit`].
//!
//! The local APIC's vector is queued even while CR8 holds it back, since the guest lowers CR8 without an exit.

use crate::local::LocalApic;

/// Where the vector of a virtual interrupt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The local APIC.
    Local,
    /// The 8259 pair, by ExtINT.
    ExtInt,
}

/// An interrupt for `vintr_ctrl`, with `v_irq` set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualInterrupt {
    /// The vector.
    pub vector: u8,
    /// Where it comes from.
    pub source: Source,
}

impl VirtualInterrupt {
    /// Returns `v_intr_prio`, which hardware compares with CR8.
    #[must_use]
    pub const fn priority(&self) -> u8 {
        self.vector >> 4
    }

    /// Returns `v_ign_tpr`: an ExtINT does not pass through the priorities of the local APIC.
    #[must_use]
    pub fn ignores_tpr(&self) -> bool {
        self.source == Source::ExtInt
    }

    /// Notes in the local APIC that the guest took it. For [`Source::ExtInt`] the 8259 pair is to be told as well, of just this vector:
    /// it may ask for another one by now.
    pub fn taken(&self, local: &mut LocalApic) {
        match self.source {
            Source::Local => {
                local.accept(self.vector);
            }
            Source::ExtInt => local.ext_int_taken(),
        }
    }
}

/// An exception that the guest's own instruction caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code, if the vector has one.
    pub error_code: Option<u32>,
}

/// An event for `event_inj`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Type 3.
    Exception(Exception),
    /// Type 2.
    Nmi,
}

/// Whether hardware keeps the guest's NMIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualNmi {
    /// No vNMI: they go by `event_inj`.
    Absent,
    /// `v_nmi_enable` is set: hardware delivers them, and they are open.
    Open,
    /// `v_nmi_enable` is set, and hardware masks them until IRET.
    Masked,
}

/// What the VMSA says before the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// `event_inj` is valid already: an event whose delivery was interrupted goes first.
    pub event_pending: bool,
    /// RFLAGS.IF.
    pub interrupts_enabled: bool,
    /// The guest is in the shadow of STI or MOV SS.
    pub interrupt_shadow: bool,
    /// How NMIs get in.
    pub virtual_nmi: VirtualNmi,
}

/// What asks to get in.
#[derive(Clone, Copy, Debug)]
pub struct Requests<'a> {
    /// The vCPU's local APIC, its mailbox drained and its timer advanced.
    pub local: &'a LocalApic,
    /// If [`LocalApic::wants_ext_int`]: what [`Pic::peek`](crate::Pic::peek) says.
    pub ext_int: Option<u8>,
    /// The vCPU's NMIs.
    pub nmi: &'a NmiLatch,
    /// The exception to raise.
    pub exception: Option<Exception>,
}

/// What to write into the VMSA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// To be written to `event_inj`; `None` leaves it as it is. If an exception was asked for and this is something else, it must be
    /// asked for again.
    pub event: Option<Event>,
    /// Set `v_nmi`. It may be set already: hardware keeps one NMI.
    pub virtual_nmi: bool,
    /// The virtual interrupt; `None` clears `v_irq`.
    pub virtual_interrupt: Option<VirtualInterrupt>,
    /// Something had to wait that no hardware window will let in: have the guest leave again soon.
    pub needs_early_exit: bool,
}

/// Decides what goes into the VMSA.
///
/// Exceptions go before NMIs, NMIs before interrupts, and nothing before an event that is in `event_inj` already. ExtINT goes before
/// the local APIC's vectors, as it passes them by.
pub fn decide(guest: &Guest, requests: &Requests<'_>) -> Decision {
    let mut decision = Decision {
        virtual_interrupt: queue(requests),
        ..Decision::default()
    };
    if let Some(exception) = requests.exception {
        if guest.event_pending {
            decision.needs_early_exit = true;
        } else {
            decision.event = Some(Event::Exception(exception));
        }
    }
    if requests.nmi.pending {
        let has_room = decision.event.is_none() && !guest.event_pending;
        match guest.virtual_nmi {
            VirtualNmi::Open | VirtualNmi::Masked => decision.virtual_nmi = true,
            VirtualNmi::Absent if has_room && !guest.interrupt_shadow && !requests.nmi.blocked => {
                decision.event = Some(Event::Nmi);
            }
            VirtualNmi::Absent => decision.needs_early_exit = true,
        }
    }
    decision
}

/// Returns whether a halted guest goes on: for an interrupt that it would take, or for an NMI or exception.
#[must_use]
pub fn wakes(guest: &Guest, requests: &Requests<'_>) -> bool {
    let has_interrupt = requests.ext_int.is_some() || requests.local.deliverable_vector().is_some();
    let is_nmi_held_back = match guest.virtual_nmi {
        VirtualNmi::Absent => requests.nmi.blocked,
        VirtualNmi::Open => false,
        VirtualNmi::Masked => true,
    };
    guest.event_pending
        || requests.exception.is_some()
        || (requests.nmi.pending && !is_nmi_held_back)
        || (guest.interrupts_enabled && has_interrupt)
}

fn queue(requests: &Requests<'_>) -> Option<VirtualInterrupt> {
    let ext_int = requests.ext_int.map(|vector| VirtualInterrupt {
        vector,
        source: Source::ExtInt,
    });
    ext_int.or_else(|| {
        let vector = requests.local.queueable_vector()?;
        Some(VirtualInterrupt {
            vector,
            source: Source::Local,
        })
    })
}

/// The NMIs of one vCPU that its VMSA does not hold yet.
///
/// With vNMI hardware masks them until IRET and nothing is left to do here. Without it nobody tells us of the IRET: intercepts
/// belong to the host. So an NMI that was injected blocks the next one until an exit finds RFLAGS.IF set: the gate has cleared it,
/// and the handler's IRET is what sets it again. A guest that runs with interrupts closed gets its second NMI late, but never gets
/// one inside the handler of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NmiLatch {
    pending: bool,
    blocked: bool,
}

impl NmiLatch {
    /// Latches an NMI. One more while one waits is the same.
    pub const fn raise(&mut self) {
        self.pending = true;
    }

    /// Notes that a decision was written into the VMSA.
    pub fn commit(&mut self, decision: &Decision) {
        if decision.event == Some(Event::Nmi) {
            self.pending = false;
            self.blocked = true;
        } else if decision.virtual_nmi {
            self.pending = false;
        }
    }

    /// Looks at the guest after an exit, once `exit_int_info` was carried over: an NMI whose delivery was cut short goes in again.
    pub const fn observe_exit(&mut self, guest: &Guest) {
        if guest.interrupts_enabled && !guest.event_pending {
            self.blocked = false;
        }
    }

    /// Returns whether no NMI waits and none blocks the next.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        !self.pending && !self.blocked
    }

    /// Forgets all, as a reset or INIT does.
    pub const fn reset(&mut self) {
        *self = Self {
            pending: false,
            blocked: false,
        };
    }

    /// Returns the state, as bits: 0 pending, 1 blocked.
    #[must_use]
    pub fn save(&self) -> u8 {
        let Self { pending, blocked } = *self;
        u8::from(pending) | u8::from(blocked) << 1
    }

    /// Returns the latch that [`Self::save`] saved; `None` for a value it never gives.
    #[must_use]
    pub const fn restored(bits: u8) -> Option<Self> {
        if bits > 3 {
            return None;
        }
        Some(Self {
            pending: bits & 1 != 0,
            blocked: bits & 2 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Decision, Event, Exception, Guest, NmiLatch, Requests, Source, VirtualInterrupt,
        VirtualNmi, decide, wakes,
    };
    use crate::local::LocalApic;
    use crate::local::tests::enabled;

    const GUEST: Guest = Guest {
        event_pending: false,
        interrupts_enabled: true,
        interrupt_shadow: false,
        virtual_nmi: VirtualNmi::Absent,
    };
    const PAGE_FAULT: Exception = Exception {
        vector: 14,
        error_code: Some(2),
    };

    fn requests<'a>(local: &'a LocalApic, nmi: &'a NmiLatch) -> Requests<'a> {
        Requests {
            local,
            ext_int: None,
            nmi,
            exception: None,
        }
    }

    fn raised() -> NmiLatch {
        let mut nmi = NmiLatch::default();
        nmi.raise();
        nmi
    }

    fn local(vector: u8) -> Option<VirtualInterrupt> {
        Some(VirtualInterrupt {
            vector,
            source: Source::Local,
        })
    }

    #[test]
    fn nothing_asked_for_clears_the_virtual_interrupt() {
        let apic = enabled(0);
        let decision = decide(&GUEST, &requests(&apic, &NmiLatch::default()));
        assert_eq!(decision, Decision::default());
    }

    #[test]
    fn queued_vector_gives_way_to_a_higher_one_and_comes_back() {
        let (mut apic, nmi) = (enabled(0), NmiLatch::default());
        apic.send_to_self(0x41);
        let first = decide(&GUEST, &requests(&apic, &nmi)).virtual_interrupt;
        assert_eq!(first, local(0x41));
        apic.send_to_self(0x82);
        let second = decide(&GUEST, &requests(&apic, &nmi)).virtual_interrupt;
        assert_eq!(second, local(0x82));
        second.unwrap().taken(&mut apic);
        assert_eq!(
            decide(&GUEST, &requests(&apic, &nmi)).virtual_interrupt,
            None
        );
        let _ = apic.end_of_interrupt();
        assert_eq!(
            decide(&GUEST, &requests(&apic, &nmi)).virtual_interrupt,
            local(0x41)
        );
    }

    #[test]
    fn vector_held_back_by_cr8_is_queued_for_hardware_to_compare() {
        let (mut apic, nmi) = (enabled(0), NmiLatch::default());
        apic.set_cr8(15);
        apic.send_to_self(0x41);
        let queued = decide(&GUEST, &requests(&apic, &nmi))
            .virtual_interrupt
            .unwrap();
        assert_eq!(
            (queued.vector, queued.priority(), queued.ignores_tpr()),
            (0x41, 4, false)
        );
    }

    #[test]
    fn ext_int_goes_first_and_past_cr8() {
        let (mut apic, nmi) = (enabled(0), NmiLatch::default());
        apic.send_to_self(0xF1);
        let requests = Requests {
            ext_int: Some(0x08),
            ..requests(&apic, &nmi)
        };
        let queued = decide(&GUEST, &requests).virtual_interrupt.unwrap();
        assert_eq!(
            queued,
            VirtualInterrupt {
                vector: 0x08,
                source: Source::ExtInt
            }
        );
        assert!(queued.ignores_tpr());
    }

    #[test]
    fn pending_event_is_never_overwritten() {
        let (apic, nmi) = (enabled(0), raised());
        let busy = Guest {
            event_pending: true,
            ..GUEST
        };
        let requests = Requests {
            exception: Some(PAGE_FAULT),
            ..requests(&apic, &nmi)
        };
        let decision = decide(&busy, &requests);
        assert_eq!(decision.event, None);
        assert!(decision.needs_early_exit);
    }

    #[test]
    fn exception_goes_before_an_nmi_which_asks_for_an_early_exit() {
        let (apic, nmi) = (enabled(0), raised());
        let requests = Requests {
            exception: Some(PAGE_FAULT),
            ..requests(&apic, &nmi)
        };
        let decision = decide(&GUEST, &requests);
        assert_eq!(decision.event, Some(Event::Exception(PAGE_FAULT)));
        assert!(decision.needs_early_exit);
    }

    #[test]
    fn virtual_nmi_goes_beside_an_exception() {
        let (apic, mut nmi) = (enabled(0), raised());
        let guest = Guest {
            virtual_nmi: VirtualNmi::Open,
            ..GUEST
        };
        let requests = Requests {
            exception: Some(PAGE_FAULT),
            ..requests(&apic, &nmi)
        };
        let decision = decide(&guest, &requests);
        assert!(decision.virtual_nmi && !decision.needs_early_exit);
        nmi.commit(&decision);
        assert_eq!(nmi, NmiLatch::default());
    }

    #[test]
    fn second_nmi_waits_for_an_exit_with_interrupts_open() {
        let (apic, mut nmi) = (enabled(0), raised());
        let first = decide(&GUEST, &requests(&apic, &nmi));
        assert_eq!(first.event, Some(Event::Nmi));
        nmi.commit(&first);
        nmi.raise();
        let in_handler = Guest {
            interrupts_enabled: false,
            ..GUEST
        };
        nmi.observe_exit(&in_handler);
        let second = decide(&in_handler, &requests(&apic, &nmi));
        assert_eq!((second.event, second.needs_early_exit), (None, true));
        nmi.observe_exit(&GUEST);
        assert_eq!(
            decide(&GUEST, &requests(&apic, &nmi)).event,
            Some(Event::Nmi)
        );
    }

    #[test]
    fn nmi_whose_delivery_was_cut_short_still_blocks() {
        let (apic, mut nmi) = (enabled(0), raised());
        nmi.commit(&decide(&GUEST, &requests(&apic, &nmi)));
        nmi.raise();
        nmi.observe_exit(&Guest {
            event_pending: true,
            ..GUEST
        });
        assert_eq!(decide(&GUEST, &requests(&apic, &nmi)).event, None);
    }

    #[test]
    fn nmi_waits_out_an_interrupt_shadow() {
        let (apic, nmi) = (enabled(0), raised());
        let guest = Guest {
            interrupt_shadow: true,
            ..GUEST
        };
        let decision = decide(&guest, &requests(&apic, &nmi));
        assert_eq!((decision.event, decision.needs_early_exit), (None, true));
    }

    #[test]
    fn halted_guest_wakes_for_what_it_would_take() {
        let (mut apic, nmi) = (enabled(0), NmiLatch::default());
        let closed = Guest {
            interrupts_enabled: false,
            ..GUEST
        };
        assert!(!wakes(&GUEST, &requests(&apic, &nmi)));
        apic.send_to_self(0x41);
        assert!(wakes(&GUEST, &requests(&apic, &nmi)));
        assert!(!wakes(&closed, &requests(&apic, &nmi)));
        apic.set_cr8(4);
        assert!(!wakes(&GUEST, &requests(&apic, &nmi)));
        assert!(wakes(&closed, &requests(&apic, &raised())));
    }

    #[test]
    fn halted_nmi_handler_does_not_wake_for_another_nmi() {
        let (apic, nmi) = (enabled(0), raised());
        let guest = |virtual_nmi| Guest {
            virtual_nmi,
            ..GUEST
        };
        assert!(!wakes(&guest(VirtualNmi::Masked), &requests(&apic, &nmi)));
        assert!(wakes(&guest(VirtualNmi::Open), &requests(&apic, &nmi)));
    }

    #[test]
    fn saved_latch_is_restored_whole() {
        for bits in 0..=255 {
            let restored = NmiLatch::restored(bits);
            assert_eq!(restored.map(|nmi| nmi.save()), (bits < 4).then_some(bits));
        }
    }
}
