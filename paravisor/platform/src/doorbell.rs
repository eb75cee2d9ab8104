//! The #HV doorbell: what the host may tell us unasked (GHCB specification, section 5.1; APM vol. 2, 15.36.16).
//!
//! The page is shared; each word is swapped out once and believed nowhere else. The #HV exception itself carries nothing, so
//! the run loop drains the page: before each entry, after each exit, and around a wait.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use stockade_abi::doorbell::{self as abi, DoorbellFlags};

use crate::error::HostError;
use crate::ghcb::{DEVICE_VECTOR, Gate, Ghcb, LAST_DEVICE_VECTOR, TIMER_VECTOR};
use crate::shared::SharedPage;

/// The vectors we have given out: all others are never the host's to raise.
const FIRST_VECTOR: u8 = TIMER_VECTOR;
const LAST_VECTOR: u8 = LAST_DEVICE_VECTOR;
const _: () = assert!(LAST_VECTOR - FIRST_VECTOR == 15, "a bit each in a word");

/// How many vectors one look takes at most: a host cannot hold us here.
const MAX_VECTORS: usize = 32;

/// The doorbell page of one processor.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    page: SharedPage,
}

/// What a drained doorbell held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The vectors from [`FIRST_VECTOR`] on, a bit each.
    vectors: u16,
    /// The host raised an NMI: not a thing it has a reason for.
    pub nmi: bool,
    /// The host reported a machine check.
    pub machine_check: bool,
    /// How many signals were dropped: vectors nobody was given, interrupts for lower VMPLs.
    pub denied: u32,
}

impl Pending {
    /// Returns whether the host signalled `vector`.
    #[must_use]
    pub fn contains(&self, vector: u8) -> bool {
        (FIRST_VECTOR..=LAST_VECTOR).contains(&vector)
            && self.vectors >> (vector - FIRST_VECTOR) & 1 != 0
    }

    /// Returns which of the vectors of the host's devices it signalled, a bit each from [`DEVICE_VECTOR`] on.
    #[must_use]
    pub fn devices(&self) -> u16 {
        self.vectors >> (DEVICE_VECTOR - FIRST_VECTOR)
    }

    /// Returns whether nothing at all was signalled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Doorbell {
    /// Returns the doorbell in `page`, which the caller registers with the host.
    #[must_use]
    pub fn new(page: SharedPage) -> Self {
        Self { page }
    }

    /// Returns the first byte of the page.
    #[must_use]
    pub fn start(&self) -> *const u8 {
        self.page.field(0)
    }

    /// Returns whether the host says that there is something to drain.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        let flags = self.byte(offset_of!(abi::Doorbell, flags));
        let vector = self.byte(offset_of!(abi::Doorbell, vector));
        DoorbellFlags::from_bits(flags.load(Ordering::Acquire)).no_further_signal()
            || vector.load(Ordering::Relaxed) != 0
    }

    /// Takes everything the host has signalled, ending each interrupt at once where the host wants to be told.
    ///
    /// Interrupts are edges to us: the timer and the console look at their own state.
    pub fn drain<G: Gate>(&self, ghcb: &Ghcb<G>) -> Result<Pending, HostError> {
        let mut pending = Pending::default();
        // Flags first: what comes after is signalled anew and found by the next look.
        let flags = self.byte(offset_of!(abi::Doorbell, flags));
        let flags = DoorbellFlags::from_bits(flags.swap(0, Ordering::AcqRel));
        pending.nmi = flags.nmi();
        pending.machine_check = flags.machine_check();
        for _ in 0..MAX_VECTORS {
            let vector = self.byte(offset_of!(abi::Doorbell, vector));
            match vector.swap(0, Ordering::AcqRel) {
                0 => break,
                vector @ FIRST_VECTOR..=LAST_VECTOR => {
                    pending.vectors |= 1 << (vector - FIRST_VECTOR);
                }
                _ => pending.denied += 1,
            }
            let no_eoi_required = self.byte(offset_of!(abi::Doorbell, no_eoi_required));
            if no_eoi_required.swap(0, Ordering::AcqRel) == 0 {
                ghcb.end_of_interrupt()?;
            }
        }
        pending.denied += self.discard_lower_vmpls();
        Ok(pending)
    }

    /// Drops what the host wants lower VMPLs to be interrupted by: their interrupts are ours to raise.
    fn discard_lower_vmpls(&self) -> u32 {
        let events = self.byte(offset_of!(abi::Doorbell, vmpl_events));
        let events = events.swap(0, Ordering::AcqRel);
        if events == 0 {
            return 0;
        }
        // First the status with its "multiple" bit, then each word: an interrupt that comes meanwhile is signalled anew.
        for vmpl in 0..3 {
            let block = offset_of!(abi::Doorbell, vmpl) + vmpl * size_of::<abi::VmplInterrupts>();
            self.word(block).swap(0, Ordering::AcqRel);
            for index in 0..7 {
                let irr = offset_of!(abi::VmplInterrupts, irr) + index * size_of::<u32>();
                self.word(block + irr).swap(0, Ordering::AcqRel);
            }
        }
        events.count_ones()
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: `field` checks bounds and alignment; the page stays mapped, and is only reached by atomic operations. The
        // adversary writes it at any time, which atomics allow for.
        unsafe { AtomicU8::from_ptr(self.page.field(offset)) }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for bytes.
        unsafe { AtomicU32::from_ptr(self.page.field(offset)) }
    }
}

#[cfg(feature = "image")]
impl Doorbell {
    /// Gives the processor to the host until it signals; returns at once if it has.
    pub fn wait(&self) {
        if self.is_signalled() {
            return;
        }
        // SAFETY: 1. the page stays mapped. 2. The stub is installed before any doorbell is registered.
        unsafe { stockade_entry::window::halt_unless_signalled(self.start()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ghcb::tests::FakeHost;
    use crate::shared::tests::page;

    fn write(doorbell: &Doorbell, offset: usize, value: u8) {
        doorbell.byte(offset).store(value, Ordering::Relaxed);
    }

    #[test]
    fn a_vector_is_taken_once_and_ended() {
        let (doorbell, host) = (Doorbell::new(page()), FakeHost::new());
        write(&doorbell, 0, 0xE0);
        write(&doorbell, 1, 0x80);
        assert!(doorbell.is_signalled());
        let pending = doorbell.drain(&host.ghcb()).unwrap();
        assert!(pending.contains(0xE0));
        assert_eq!((pending.devices(), pending.denied), (0, 0));
        assert_eq!(host.events(), [0x7C]);
        assert!(!doorbell.is_signalled());
        assert!(doorbell.drain(&host.ghcb()).unwrap().is_empty());
    }

    #[test]
    fn no_end_of_interrupt_where_the_host_wants_none() {
        let (doorbell, host) = (Doorbell::new(page()), FakeHost::new());
        write(&doorbell, 0, 0xE1);
        write(&doorbell, 2, 1);
        assert!(doorbell.drain(&host.ghcb()).unwrap().contains(0xE1));
        assert!(host.events().is_empty());
    }

    #[test]
    fn devices_are_told_apart() {
        let (doorbell, host) = (Doorbell::new(page()), FakeHost::new());
        for (vector, devices) in (0xE3..=0xEF).zip((0..13).map(|bit| 1 << bit)) {
            write(&doorbell, 0, vector);
            let pending = doorbell.drain(&host.ghcb()).unwrap();
            assert_eq!((pending.devices(), pending.denied), (devices, 0));
        }
    }

    /// Each of the 240 others would be an interrupt nobody has asked for.
    #[test]
    fn vectors_nobody_was_given_are_denied() {
        let (doorbell, host) = (Doorbell::new(page()), FakeHost::new());
        for vector in (1..=u8::MAX).filter(|vector| !(0xE0..=0xEF).contains(vector)) {
            write(&doorbell, 0, vector);
            let pending = doorbell.drain(&host.ghcb()).unwrap();
            let nothing = (0..=u8::MAX).all(|vector| !pending.contains(vector));
            assert!(nothing && pending.denied == 1, "{vector:#x}");
        }
    }

    /// A host that could raise exceptions would steer a guest's handlers.
    #[test]
    fn vectors_below_32_and_lower_vmpls_are_denied() {
        let (doorbell, host) = (Doorbell::new(page()), FakeHost::new());
        write(&doorbell, 0, 13);
        write(&doorbell, 3, 0b10);
        write(&doorbell, 0x80, 0x41);
        write(&doorbell, 0x84, 0xFF);
        let pending = doorbell.drain(&host.ghcb()).unwrap();
        assert_eq!(pending.denied, 2);
        assert_eq!(pending.vectors, 0);
        assert_eq!(doorbell.word(0x80).load(Ordering::Relaxed), 0);
        assert_eq!(doorbell.word(0x84).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn nmi_and_machine_check_are_reported() {
        let (doorbell, host) = (Doorbell::new(page()), FakeHost::new());
        write(&doorbell, 1, 0b11);
        let pending = doorbell.drain(&host.ghcb()).unwrap();
        assert!(pending.nmi && pending.machine_check);
    }

    #[test]
    fn a_host_that_signals_for_ever_does_not_hold_us() {
        let doorbell = Doorbell::new(page());
        let host = FakeHost::with(move |_| {
            doorbell.byte(0).store(0xE0, Ordering::Relaxed);
        });
        write(&doorbell, 0, 0xE0);
        assert!(doorbell.drain(&host.ghcb()).unwrap().contains(0xE0));
        assert_eq!(host.events().len(), MAX_VECTORS);
    }
}
