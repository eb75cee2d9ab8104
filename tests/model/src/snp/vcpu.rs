//! What the host knows of one vCPU: its VMSAs by VMPL, which of them runs, and what waits to be told to it.

use super::addr::Gpa;
use super::cpu::HostHeldState;
use super::rmp::{VMPLS, Vmpl};
use super::work::Work;
use crate::host::ghcb::PAGE_BYTES;
use crate::host::lapic::{LocalApic, Role, Start};
use alloc::boxed::Box;
use stockade_abi::vmsa::{EventInfo, EventType, SevFeatures};

/// The vector of #HV.
const HV_VECTOR: u8 = 28;

/// How a VMPL asked for another to be run, hence how it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Through the GHCB at this address.
    Ghcb(u64),
    /// By the MSR protocol.
    Msr,
}

/// A VMPL that waits while a lower one runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Which.
    pub vmpl: Vmpl,
    /// How it asked.
    pub asked: Asked,
}

/// What the host knows of a vCPU at one VMPL.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Where the VMSA is, once there is one.
    pub vmsa: Option<Gpa>,
    /// A VMSA for the next INIT.
    pub vmsa_on_init: Option<Gpa>,
    /// The features the guest said the VMSA has; tells how to inject.
    pub features: u64,
    /// The GHCB MSR.
    pub ghcb_msr: u64,
    /// The registered GHCB.
    pub ghcb: Option<u64>,
    /// CR8 and interrupt shadow.
    pub held: HostHeldState,
    /// An event to inject (again).
    pub event: Option<EventInfo>,
    /// The virtual interrupt offered and not yet taken.
    pub offered: Option<Offer>,
    /// It executed HLT.
    pub is_halted: bool,
}

/// A virtual interrupt on offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The vector.
    pub vector: u8,
    /// Where it came from.
    pub from: OfferedBy,
}

/// Who wants a virtual interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OfferedBy {
    /// The local APIC.
    LocalApic,
    /// The machine's PIC, already acknowledged.
    Pic,
}

/// One vCPU.
pub struct Vcpu {
    /// Index, APIC id, and number of the processor it runs on.
    pub index: u32,
    /// The host's local APIC for it.
    pub lapic: LocalApic,
    /// By VMPL.
    pub contexts: [Context; VMPLS],
    /// The VMPL that runs.
    pub current: Vmpl,
    /// Who waits for `current` to exit.
    pub caller: Option<Caller>,
    /// The #HV doorbell page of VMPL0.
    pub doorbell: Option<u64>,
    /// #HV is to be raised.
    pub must_signal: bool,
    /// The exit VMPL0 works on.
    pub work: Work,
    /// A page for copies of the GHCB, when it is not in use.
    page: Option<Box<[u8; PAGE_BYTES]>>,
}

impl Vcpu {
    /// A vCPU that waits for a VMSA.
    pub fn new(index: u32, role: Role, start: Start) -> Self {
        Self {
            index,
            lapic: LocalApic::new(index, role, start),
            contexts: [Context::default(); VMPLS],
            current: Vmpl::ZERO,
            caller: None,
            doorbell: None,
            must_signal: false,
            work: Work::default(),
            page: None,
        }
    }

    /// A page for a copy of the GHCB.
    pub fn take_page(&mut self) -> Box<[u8; PAGE_BYTES]> {
        self.page
            .take()
            .unwrap_or_else(|| Box::new([0; PAGE_BYTES]))
    }

    /// Gives that page back.
    pub fn give_page(&mut self, page: Box<[u8; PAGE_BYTES]>) {
        self.page = Some(page);
    }

    /// The context that runs.
    pub fn context(&mut self) -> &mut Context {
        &mut self.contexts[self.current.index()]
    }

    /// Whether the host may inject nothing but #HV at `vmpl`.
    pub fn is_restricted(&self, vmpl: Vmpl) -> bool {
        let features = SevFeatures::from_bits_retain(self.contexts[vmpl.index()].features);
        features.contains(SevFeatures::RESTRICTED_INJECTION)
    }

    /// Puts the event of the coming entry into the context that runs.
    pub fn raise_signal(&mut self) {
        if self.must_signal && self.current == Vmpl::ZERO && self.contexts[0].event.is_none() {
            self.must_signal = false;
            let hv = EventInfo::new()
                .with_vector(HV_VECTOR)
                .with_event_type(EventType::EXCEPTION)
                .with_valid(true);
            self.contexts[0].event = Some(hv);
        }
    }

    /// Whether the context that runs has something to run for.
    pub fn is_runnable(&mut self) -> bool {
        let signal = self.must_signal && self.current == Vmpl::ZERO;
        let context = self.context();
        if context.vmsa.is_none() {
            return false;
        }
        let wakes = signal || context.event.is_some() || context.offered.is_some();
        if context.is_halted && wakes {
            context.is_halted = false;
        }
        !context.is_halted
    }

    /// Gives the vCPU a VMSA, to run from it at once.
    pub fn install(&mut self, vmpl: Vmpl, vmsa: Gpa, features: u64) {
        let old = &self.contexts[vmpl.index()];
        let fresh = Context {
            vmsa: Some(vmsa),
            features,
            ghcb: old.ghcb,
            ghcb_msr: old.ghcb_msr,
            ..Context::default()
        };
        self.contexts[vmpl.index()] = fresh;
    }

    /// Takes the VMSA of a VMPL away.
    pub fn remove(&mut self, vmpl: Vmpl) {
        self.contexts[vmpl.index()].vmsa = None;
    }

    /// Turns to another VMPL. `false` when it has no VMSA, is not below the caller, or the caller is itself called.
    pub fn call(&mut self, target: Vmpl, asked: Asked) -> bool {
        let is_possible = self.caller.is_none()
            && target > self.current
            && self.contexts[target.index()].vmsa.is_some();
        if is_possible {
            self.caller = Some(Caller {
                vmpl: self.current,
                asked,
            });
            self.current = target;
        }
        is_possible
    }

    /// Turns back to the VMPL that called; the caller must still be answered.
    pub fn take_caller(&mut self) -> Option<Caller> {
        let caller = self.caller.take()?;
        self.current = caller.vmpl;
        Some(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Vmpl = Vmpl::try_new(2).unwrap();

    fn vcpu() -> Vcpu {
        let mut vcpu = Vcpu::new(0, Role::Boot, Start::X2Apic);
        vcpu.install(
            Vmpl::ZERO,
            Gpa::new(0x1000),
            SevFeatures::RESTRICTED_INJECTION.bits(),
        );
        vcpu.install(
            TWO,
            Gpa::new(0x2000),
            SevFeatures::ALTERNATE_INJECTION.bits(),
        );
        vcpu
    }

    #[test]
    fn a_signal_is_raised_once_and_only_at_vmpl0() {
        let mut vcpu = vcpu();
        vcpu.must_signal = true;
        assert!(vcpu.call(TWO, Asked::Msr));
        vcpu.raise_signal();
        assert!(vcpu.must_signal);
        vcpu.take_caller();
        vcpu.raise_signal();
        assert_eq!(vcpu.contexts[0].event.unwrap().into_bits(), 0x8000_031C);
        assert!(!vcpu.must_signal);
    }

    #[test]
    fn a_halted_context_runs_again_for_an_event_only() {
        let mut vcpu = vcpu();
        vcpu.context().is_halted = true;
        assert!(!vcpu.is_runnable());
        vcpu.must_signal = true;
        assert!(vcpu.is_runnable());
        vcpu.must_signal = false;
        assert!(vcpu.is_runnable(), "once awake it stays awake");
    }

    #[test]
    fn only_a_lower_vmpl_with_a_vmsa_can_be_called() {
        let mut vcpu = vcpu();
        assert!(!vcpu.call(Vmpl::ZERO, Asked::Msr));
        assert!(!vcpu.call(Vmpl::try_new(1).unwrap(), Asked::Msr));
        assert!(vcpu.call(TWO, Asked::Ghcb(0x5000)));
        assert!(!vcpu.call(Vmpl::try_new(3).unwrap(), Asked::Msr));
        assert_eq!(
            vcpu.take_caller(),
            Some(Caller {
                vmpl: Vmpl::ZERO,
                asked: Asked::Ghcb(0x5000)
            })
        );
        assert_eq!(vcpu.current, Vmpl::ZERO);
    }

    #[test]
    fn a_new_vmsa_starts_without_what_the_old_one_left() {
        let mut vcpu = vcpu();
        vcpu.contexts[2].is_halted = true;
        vcpu.contexts[2].ghcb_msr = 7;
        vcpu.install(TWO, Gpa::new(0x3000), 0);
        assert!(!vcpu.contexts[2].is_halted);
        assert_eq!(vcpu.contexts[2].ghcb_msr, 7);
    }
}
