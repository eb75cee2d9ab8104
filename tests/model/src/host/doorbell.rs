//! Events for a guest under restricted injection: written into its #HV doorbell page, then told by #HV (GHCB 5).
//!
//! The protocol as this host plays it. The guest owns the page as much as we do, so each byte is changed by one atomic
//! operation, in this order: the event (vector by compare-and-swap from a lower or no vector, NMI or machine check by a
//! flag), then "no further signal". Only who finds that flag clear raises #HV; a guest clears it before it looks for events,
//! so an event posted after its look finds the flag clear and raises #HV again. A vector that finds a higher one waiting
//! stays in the caller's local APIC and is posted when the guest has taken that one.

use core::mem::offset_of;
use stockade_abi::doorbell::{Doorbell, DoorbellFlags, VmplInterrupts, VmplStatus};

/// Atomic access to a page shared with the guest. Offsets are below 4096 and aligned to the access.
pub trait SharedPage {
    /// Loads a byte.
    fn load_u8(&self, offset: usize) -> u8;
    /// Stores `new` if the byte is `current`; returns what the byte was.
    fn compare_exchange_u8(&self, offset: usize, current: u8, new: u8) -> u8;
    /// Sets bits of a byte; returns what the byte was.
    fn fetch_or_u8(&self, offset: usize, bits: u8) -> u8;
    /// Loads a double word.
    fn load_u32(&self, offset: usize) -> u32;
    /// Stores `new` if the double word is `current`; returns what it was.
    fn compare_exchange_u32(&self, offset: usize, current: u32, new: u32) -> u32;
    /// Sets bits of a double word; returns what it was.
    fn fetch_or_u32(&self, offset: usize, bits: u32) -> u32;
}

const VECTOR: usize = offset_of!(Doorbell, vector);
const FLAGS: usize = offset_of!(Doorbell, flags);
const NO_EOI: usize = offset_of!(Doorbell, no_eoi_required);
const VMPL_EVENTS: usize = offset_of!(Doorbell, vmpl_events);
const VMPL_BLOCKS: usize = offset_of!(Doorbell, vmpl);

/// Tries against a guest that keeps changing a word before the host gives up until next time.
const ATTEMPTS: usize = 64;

/// Whether the guest must be told by #HV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a guest that is not told does not look"]
pub enum Signal {
    /// Raise #HV at the next entry.
    Raise,
    /// The guest was told and has not looked yet.
    Pending,
}

/// What became of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is on the page: take it out of the APIC's IRR. `displaced` is a lower vector it took the place of, which goes
    /// back into the IRR.
    Yes {
        /// Whether to raise #HV.
        signal: Signal,
        /// What was there.
        displaced: Option<u8>,
    },
    /// A higher or equal vector waits there; keep it in the IRR.
    Busy,
}

/// Who must say EOI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eoi {
    /// The guest need not: the host counts the vector as done once it is taken.
    NotRequired,
    /// The guest must, through the x2APIC's MSR.
    Required,
}

/// Posts a vector (31 to 255; lower ones are refused as busy).
pub fn post_vector(page: &impl SharedPage, vector: u8, eoi: Eoi) -> Posted {
    if vector < 31 {
        return Posted::Busy;
    }
    for _ in 0..ATTEMPTS {
        let waiting = page.load_u8(VECTOR);
        if waiting >= vector {
            return Posted::Busy;
        }
        // The EOI byte goes first: once the vector is visible the guest may read both.
        write_byte(page, NO_EOI, u8::from(eoi == Eoi::NotRequired));
        if page.compare_exchange_u8(VECTOR, waiting, vector) == waiting {
            return Posted::Yes {
                signal: signal(page),
                displaced: (waiting != 0).then_some(waiting),
            };
        }
    }
    Posted::Busy
}

/// Returns the vector that is on the page and not yet taken.
pub fn waiting_vector(page: &impl SharedPage) -> Option<u8> {
    Some(page.load_u8(VECTOR)).filter(|vector| *vector != 0)
}

/// Posts an NMI.
pub fn post_nmi(page: &impl SharedPage) -> Signal {
    page.fetch_or_u8(FLAGS, DoorbellFlags::new().with_nmi(true).into_bits());
    signal(page)
}

/// Posts a machine check.
pub fn post_machine_check(page: &impl SharedPage) -> Signal {
    page.fetch_or_u8(
        FLAGS,
        DoorbellFlags::new().with_machine_check(true).into_bits(),
    );
    signal(page)
}

/// How an interrupt for a lower VMPL is triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Edge.
    Edge,
    /// Level.
    Level,
}

/// Posts a vector (31 to 255) for VMPL 1 to 3 into its block and sets its bit among the per-VMPL events, as drafted: a
/// lone vector stands in the status word; a second one sets "multiple vectors" and both go into the IRR. Returns `None` for
/// another VMPL or vector.
pub fn post_vmpl_vector(
    page: &impl SharedPage,
    vmpl: u8,
    vector: u8,
    trigger: Trigger,
) -> Option<Signal> {
    let block = vmpl_block(vmpl)?;
    if vector < 31 {
        return None;
    }
    post_in_block(page, block, vector, trigger);
    Some(tell_vmpl(page, vmpl))
}

/// Posts an NMI for VMPL 1 to 3.
pub fn post_vmpl_nmi(page: &impl SharedPage, vmpl: u8) -> Option<Signal> {
    let block = vmpl_block(vmpl)?;
    page.fetch_or_u32(block, VmplStatus::new().with_nmi(true).into_bits());
    Some(tell_vmpl(page, vmpl))
}

/// Asks VMPL 1 to 3 for an IPI to itself (the "IPI requested" bit).
pub fn request_vmpl_ipi(page: &impl SharedPage, vmpl: u8) -> Option<Signal> {
    let block = vmpl_block(vmpl)?;
    page.fetch_or_u32(
        block,
        VmplStatus::new().with_ipi_requested(true).into_bits(),
    );
    Some(tell_vmpl(page, vmpl))
}

fn vmpl_block(vmpl: u8) -> Option<usize> {
    let index = usize::from(vmpl.checked_sub(1)?);
    (index < 3).then_some(VMPL_BLOCKS + index * size_of::<VmplInterrupts>())
}

/// The lone-vector form needs an empty status and an edge-triggered vector above 31 or a level one; anything else spills
/// into the IRR. After the guest has cleared the status meanwhile, the IRR with "multiple" set is still complete.
fn post_in_block(page: &impl SharedPage, block: usize, vector: u8, trigger: Trigger) {
    let status = VmplStatus::from_bits(page.load_u32(block));
    let lone = VmplStatus::new()
        .with_vector(vector)
        .with_level_sensitive(trigger == Trigger::Level);
    let is_empty = status.vector() == 0 && !status.multiple_vectors() && !status.vector_31();
    if is_empty && vector > 31 {
        let new = status.into_bits() | lone.into_bits();
        if page.compare_exchange_u32(block, status.into_bits(), new) == status.into_bits() {
            return;
        }
    }
    if vector == 31 {
        let bits = VmplStatus::new()
            .with_vector_31(true)
            .with_multiple_vectors(true);
        page.fetch_or_u32(block, bits.into_bits());
        return;
    }
    let (word, bit) = (usize::from(vector / 32), vector % 32);
    let irr = block + offset_of!(VmplInterrupts, irr) + 4 * (word - 1);
    page.fetch_or_u32(irr, 1 << bit);
    page.fetch_or_u32(
        block,
        VmplStatus::new().with_multiple_vectors(true).into_bits(),
    );
}

fn tell_vmpl(page: &impl SharedPage, vmpl: u8) -> Signal {
    page.fetch_or_u8(VMPL_EVENTS, 1 << (vmpl - 1));
    signal(page)
}

/// Sets "no further signal"; who finds it clear raises #HV.
fn signal(page: &impl SharedPage) -> Signal {
    let flag = DoorbellFlags::new()
        .with_no_further_signal(true)
        .into_bits();
    if page.fetch_or_u8(FLAGS, flag) & flag == 0 {
        Signal::Raise
    } else {
        Signal::Pending
    }
}

fn write_byte(page: &impl SharedPage, offset: usize, new: u8) {
    for _ in 0..ATTEMPTS {
        let old = page.load_u8(offset);
        if old == new || page.compare_exchange_u8(offset, old, new) == old {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering::SeqCst;

    impl SharedPage for Doorbell {
        fn load_u8(&self, offset: usize) -> u8 {
            byte(self, offset).load(SeqCst)
        }
        fn compare_exchange_u8(&self, offset: usize, current: u8, new: u8) -> u8 {
            match byte(self, offset).compare_exchange(current, new, SeqCst, SeqCst) {
                Ok(old) | Err(old) => old,
            }
        }
        fn fetch_or_u8(&self, offset: usize, bits: u8) -> u8 {
            byte(self, offset).fetch_or(bits, SeqCst)
        }
        fn load_u32(&self, offset: usize) -> u32 {
            word(self, offset).load(SeqCst)
        }
        fn compare_exchange_u32(&self, offset: usize, current: u32, new: u32) -> u32 {
            match word(self, offset).compare_exchange(current, new, SeqCst, SeqCst) {
                Ok(old) | Err(old) => old,
            }
        }
        fn fetch_or_u32(&self, offset: usize, bits: u32) -> u32 {
            word(self, offset).fetch_or(bits, SeqCst)
        }
    }

    fn byte(page: &Doorbell, offset: usize) -> &core::sync::atomic::AtomicU8 {
        [
            &page.vector,
            &page.flags,
            &page.no_eoi_required,
            &page.vmpl_events,
        ][offset]
    }

    fn word(page: &Doorbell, offset: usize) -> &core::sync::atomic::AtomicU32 {
        let block = &page.vmpl[(offset - 0x40) / 0x40];
        match offset % 0x40 / 4 {
            0 => &block.status,
            irr @ 1..=7 => &block.irr[irr - 1],
            isr => &block.isr[isr - 8],
        }
    }

    #[test]
    fn first_event_raises_and_the_next_waits_for_the_guest_to_look() {
        let page = Doorbell::zeroed();
        let first = post_vector(&page, 0xE0, Eoi::Required);
        assert_eq!(
            first,
            Posted::Yes {
                signal: Signal::Raise,
                displaced: None
            }
        );
        assert_eq!(post_nmi(&page), Signal::Pending);
        assert_eq!(page.load_u8(FLAGS), 0x81);
        page.flags.store(0, SeqCst);
        assert_eq!(post_machine_check(&page), Signal::Raise);
        assert_eq!(page.load_u8(FLAGS), 0x82);
    }

    #[test]
    fn higher_vector_takes_the_place_of_a_lower_one() {
        let page = Doorbell::zeroed();
        let _ = post_vector(&page, 0x40, Eoi::Required);
        assert_eq!(post_vector(&page, 0x40, Eoi::Required), Posted::Busy);
        assert_eq!(post_vector(&page, 0x30, Eoi::Required), Posted::Busy);
        let higher = post_vector(&page, 0x50, Eoi::Required);
        assert_eq!(
            higher,
            Posted::Yes {
                signal: Signal::Pending,
                displaced: Some(0x40)
            }
        );
        assert_eq!(waiting_vector(&page), Some(0x50));
        page.vector.store(0, SeqCst);
        assert_eq!(waiting_vector(&page), None);
    }

    #[test]
    fn exception_vectors_are_never_posted() {
        let page = Doorbell::zeroed();
        for vector in 0..31 {
            assert_eq!(post_vector(&page, vector, Eoi::Required), Posted::Busy);
            assert_eq!(post_vmpl_vector(&page, 2, vector, Trigger::Edge), None);
        }
        assert_eq!(page.load_u8(FLAGS), 0);
    }

    #[test]
    fn eoi_byte_tells_whether_an_eoi_is_due() {
        let page = Doorbell::zeroed();
        let _ = post_vector(&page, 0x40, Eoi::NotRequired);
        assert_eq!(page.load_u8(NO_EOI), 1);
        page.vector.store(0, SeqCst);
        let _ = post_vector(&page, 0x40, Eoi::Required);
        assert_eq!(page.load_u8(NO_EOI), 0);
    }

    #[test]
    fn lone_vector_for_a_lower_vmpl_stands_in_its_status() {
        let page = Doorbell::zeroed();
        assert_eq!(
            post_vmpl_vector(&page, 2, 0xE1, Trigger::Level),
            Some(Signal::Raise)
        );
        assert_eq!(page.load_u8(VMPL_EVENTS), 0b010);
        assert_eq!(page.load_u32(0x80), 0xE1 | 1 << 10);
    }

    #[test]
    fn second_vector_goes_into_the_irr_of_the_block() {
        let page = Doorbell::zeroed();
        let _ = post_vmpl_vector(&page, 3, 0x20, Trigger::Edge);
        assert_eq!(
            post_vmpl_vector(&page, 3, 0xFF, Trigger::Edge),
            Some(Signal::Pending)
        );
        assert_eq!(page.load_u32(0xC0), 0x20 | 1 << 14);
        assert_eq!(page.load_u32(0xC0 + 4 * 7), 1 << 31);
        assert_eq!(
            post_vmpl_vector(&page, 3, 31, Trigger::Edge),
            Some(Signal::Pending)
        );
        assert_eq!(page.load_u32(0xC0), 0x20 | 1 << 14 | 1 << 31);
    }

    #[test]
    fn only_vmpl_1_to_3_have_blocks() {
        let page = Doorbell::zeroed();
        for vmpl in [0, 4, 255] {
            assert_eq!(post_vmpl_vector(&page, vmpl, 0x40, Trigger::Edge), None);
            assert_eq!(post_vmpl_nmi(&page, vmpl), None);
            assert_eq!(request_vmpl_ipi(&page, vmpl), None);
        }
        assert_eq!(post_vmpl_nmi(&page, 1), Some(Signal::Raise));
        assert_eq!(request_vmpl_ipi(&page, 1), Some(Signal::Pending));
        assert_eq!(page.load_u32(0x40), 1 << 8 | 1 << 27);
    }
}
