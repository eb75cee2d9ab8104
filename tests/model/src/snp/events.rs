//! What happens outside the guest, on its way in: physical interrupts, timers, interrupts between vCPUs.
//!
//! Everything goes through the vCPU's local APIC; from there to the doorbell page under restricted injection, else into
//! the virtual interrupt of the VMCB.

use super::addr::Phys;
use super::rmp::Vmpl;
use super::vcpu::{Offer, OfferedBy, Vcpu};
use super::vm::Vm;
use crate::host::doorbell::{self, Eoi, Posted, SharedPage, Signal};
use crate::host::ioapic::Delivery;
use crate::host::lapic::{Accepted, Effect, Ipi};
use crate::hostile::Attack;
use crate::machine::{clock, ioapic, lapic, processor};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

impl Vm {
    /// Looks at everything that happened since this processor last looked, and sets its timer for what comes next.
    pub fn attend(&self, index: u32) {
        let cpu = processor::current();
        cpu.kicked.store(false, Ordering::Relaxed);
        cpu.timer_fired.store(false, Ordering::Relaxed);
        if cpu.console_interrupt.swap(false, Ordering::AcqRel) {
            self.pulse(usize::from(ioapic::COM1_PIN));
        }
        self.look_at_devices();
        let Some(mut vcpu) = self.vcpu(index) else {
            return;
        };
        self.take_messages(&mut vcpu);
        let late = self.attack.map_or(0, Attack::timer_lateness_us);
        let late = clock::ns_to_ticks(late * 1000);
        vcpu.lapic.poll(clock::tsc().saturating_sub(late));
        match vcpu.lapic.next_deadline_tsc() {
            Some(deadline) => lapic::arm_timer(deadline.saturating_add(late)),
            None => lapic::disarm_timer(),
        }
        if self.tap.is_some() {
            look_again_soon(&vcpu);
        }
        self.offer(&mut vcpu);
        if let Some(attack) = self.attack {
            attack.on_events(self, &mut vcpu);
        }
    }

    /// Brings messages of devices to the vCPU whose processor they reached.
    fn take_messages(&self, vcpu: &mut Vcpu) {
        let cpu = processor::current();
        let tap = self.tap.as_ref().map(|tap| tap.lock());
        while let Some(vector) = cpu.take_message() {
            if tap.as_ref().is_none_or(|tap| tap.passes(vector)) {
                vcpu.lapic.accept(&Ipi::message(vector));
            }
        }
        for vector in tap.iter().flat_map(|tap| tap.extra_messages()) {
            vcpu.lapic.accept(&Ipi::message(*vector));
        }
    }

    /// Brings what the local APIC has to the guest's door.
    fn offer(&self, vcpu: &mut Vcpu) {
        if vcpu.is_restricted(Vmpl::ZERO) {
            if let Some(page) = vcpu.doorbell.and_then(|gpa| self.shared_page(gpa)) {
                post_pending(vcpu, page);
            }
            return;
        }
        let cpu = processor::current();
        let context = &mut vcpu.contexts[0];
        if context.vmsa.is_none() || context.offered.is_some() {
            return;
        }
        // The PIC was acknowledged when its interrupt arrived: it goes first.
        if let Some(vector) = cpu.take_external() {
            context.offered = Some(Offer {
                vector,
                from: OfferedBy::Pic,
            });
        } else if let Some(vector) = vcpu.lapic.pending() {
            context.offered = Some(Offer {
                vector,
                from: OfferedBy::LocalApic,
            });
        }
    }

    /// An edge on a pin of the host's IOAPIC.
    fn pulse(&self, pin: usize) {
        let delivery = {
            let mut host = self.host.lock();
            let delivery = host.ioapic.set_irq(pin, true);
            host.ioapic.set_irq(pin, false);
            delivery
        };
        self.deliver(delivery);
    }

    /// Takes a message of the IOAPIC to whom it is for.
    pub fn deliver(&self, delivery: Option<Delivery>) {
        if let Some(delivery) = delivery {
            self.send(&Ipi::from(delivery), u32::MAX);
        }
    }

    /// What a write to a local APIC does elsewhere. No vCPU's lock is held.
    pub fn apply(&self, effect: Effect, sender: u32) {
        match effect {
            Effect::None => {}
            Effect::Ipi(ipi) => self.send(&ipi, sender),
            Effect::EndOfInterrupt { vector } => {
                let again = self.host.lock().ioapic.eoi(vector);
                self.deliver(again);
            }
        }
    }

    /// Takes an interrupt message to every vCPU it addresses. No vCPU's lock is held.
    pub fn send(&self, ipi: &Ipi, sender: u32) {
        for index in 0..self.vcpu_count() {
            let Some(mut vcpu) = self.vcpu(index) else {
                continue;
            };
            if !vcpu.lapic.is_addressed_by(ipi, sender) {
                continue;
            }
            let accepted = vcpu.lapic.accept(ipi);
            self.take_in(&mut vcpu, accepted);
            drop(vcpu);
            if accepted != Accepted::Ignored && index != processor::current().index {
                self.kick(index);
            }
        }
    }

    fn take_in(&self, vcpu: &mut Vcpu, accepted: Accepted) {
        match accepted {
            Accepted::Ignored | Accepted::Queued => {}
            Accepted::Nmi => {
                if let Some(page) = vcpu.doorbell.and_then(|gpa| self.shared_page(gpa))
                    && doorbell::post_nmi(&page) == Signal::Raise
                {
                    vcpu.must_signal = true;
                }
            }
            Accepted::Init => {
                for context in &mut vcpu.contexts {
                    if let Some(vmsa) = context.vmsa_on_init.take() {
                        context.vmsa = Some(vmsa);
                        context.is_halted = true;
                    }
                }
                vcpu.lapic.init();
            }
            // A VMSA says itself where it starts; the vector means nothing to it.
            Accepted::Startup(_) => vcpu.contexts[0].is_halted = false,
        }
    }
}

/// A host that stands between devices and drivers looks often, for it is its hand that moves what they have done.
fn look_again_soon(vcpu: &Vcpu) {
    const OFTEN_NS: u64 = 1_000_000;
    let soon = clock::tsc() + clock::ns_to_ticks(OFTEN_NS);
    let deadline = vcpu.lapic.next_deadline_tsc();
    if deadline.is_none_or(|deadline| deadline > soon) {
        lapic::arm_timer(soon);
    }
}

/// Posts pending vectors on the doorbell page, highest first, until one must wait.
fn post_pending(vcpu: &mut Vcpu, page: Phys) {
    while let Some(vector) = vcpu.lapic.pending() {
        let eoi = if vcpu.lapic.is_level_triggered(vector) {
            Eoi::Required
        } else {
            Eoi::NotRequired
        };
        match doorbell::post_vector(&page, vector, eoi) {
            Posted::Yes { signal, displaced } => {
                if eoi == Eoi::Required {
                    vcpu.lapic.begin(vector);
                } else {
                    vcpu.lapic.begin_without_eoi(vector);
                }
                if let Some(displaced) = displaced {
                    vcpu.lapic.retract(displaced);
                }
                if signal == Signal::Raise {
                    vcpu.must_signal = true;
                }
            }
            Posted::Busy => return,
        }
    }
}

/// A page both sides write.
impl SharedPage for Phys {
    fn load_u8(&self, offset: usize) -> u8 {
        byte(*self, offset).load(Ordering::SeqCst)
    }
    fn compare_exchange_u8(&self, offset: usize, current: u8, new: u8) -> u8 {
        match byte(*self, offset).compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
        {
            Ok(old) | Err(old) => old,
        }
    }
    fn fetch_or_u8(&self, offset: usize, bits: u8) -> u8 {
        byte(*self, offset).fetch_or(bits, Ordering::SeqCst)
    }
    fn load_u32(&self, offset: usize) -> u32 {
        double(*self, offset).load(Ordering::SeqCst)
    }
    fn compare_exchange_u32(&self, offset: usize, current: u32, new: u32) -> u32 {
        match double(*self, offset).compare_exchange(
            current,
            new,
            Ordering::SeqCst,
            Ordering::SeqCst,
        ) {
            Ok(old) | Err(old) => old,
        }
    }
    fn fetch_or_u32(&self, offset: usize, bits: u32) -> u32 {
        double(*self, offset).fetch_or(bits, Ordering::SeqCst)
    }
}

fn byte(page: Phys, offset: usize) -> &'static AtomicU8 {
    let pointer = page.in_page(offset as u64).as_ptr();
    // SAFETY: within the page, which stays mapped for good and is referred to by atomics only (`Phys::new`).
    unsafe { AtomicU8::from_ptr(pointer) }
}

fn double(page: Phys, offset: usize) -> &'static AtomicU32 {
    let pointer = page.in_page(offset as u64 & !3).as_ptr().cast::<u32>();
    // SAFETY: as for a byte; masking aligns.
    unsafe { AtomicU32::from_ptr(pointer) }
}
