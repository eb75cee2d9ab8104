//! Frames for modules: taken, given back, zero whenever they are taken.

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr;

use stockade_boot::layout::PAGE_SIZE;

/// The frames nobody has.
#[derive(Debug)]
pub(super) struct Frames {
    /// Those that were never taken, which are zero.
    fresh: Range<u64>,
    /// Those that were given back, by number from `start`.
    used: Vec<u32>,
    start: u64,
}

/// A frame its holder alone uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame(u64);

impl Frames {
    /// Returns the frames of a range of whole pages.
    ///
    /// # Safety
    /// 1. The range is mapped one to one, writable, zero, and nothing else uses it, for ever.
    #[cfg(any(test, feature = "image"))]
    pub(super) unsafe fn new(range: Range<u64>) -> Self {
        let count = usize::try_from((range.end - range.start) / PAGE_SIZE).unwrap_or(0);
        Self {
            start: range.start,
            fresh: range,
            // Nothing is allocated when a frame is given back.
            used: Vec::with_capacity(count),
        }
    }

    /// Takes a frame, which is zero.
    pub(super) fn take(&mut self) -> Option<Frame> {
        if let Some(number) = self.used.pop() {
            let mut frame = Frame(self.start + u64::from(number) * PAGE_SIZE);
            frame.bytes_mut().fill(0);
            return Some(frame);
        }
        if self.fresh.is_empty() {
            return None;
        }
        let frame = Frame(self.fresh.start);
        self.fresh.start += PAGE_SIZE;
        Some(frame)
    }

    /// Returns how many bytes were taken at once at most: a fresh frame is taken only when no used one is left.
    pub(super) fn most_bytes(&self) -> u64 {
        self.fresh.start - self.start
    }

    /// Takes a frame back.
    pub(super) fn give_back(&mut self, frame: Frame) {
        let number = (frame.0 - self.start) / PAGE_SIZE;
        self.used.push(u32::try_from(number).unwrap_or(0));
    }
}

impl Frame {
    /// Returns the guest-physical address, which is also where it is mapped for the paravisor.
    pub(super) fn address(&self) -> u64 {
        self.0
    }

    /// Returns the frame at an address that [`Self::into_address`] gave away.
    ///
    /// # Safety
    /// 1. The address comes from there, and this is the only frame made of it.
    pub(super) unsafe fn from_address(address: u64) -> Self {
        Self(address)
    }

    /// Gives the frame up for its address: an entry of a page table holds it from now on.
    pub(super) fn into_address(self) -> u64 {
        self.0
    }

    /// Returns its bytes to be changed. No module runs on them meanwhile: its space is borrowed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8; 4096] {
        let address = usize::try_from(self.0).expect("addresses are 64 bits");
        let bytes: *mut [u8; 4096] = ptr::with_exposed_provenance_mut(address);
        // SAFETY: the frame is mapped one to one (`Frames::new`, 1.) and its holder alone uses it, who is borrowed.
        unsafe { &mut *bytes }
    }
}
