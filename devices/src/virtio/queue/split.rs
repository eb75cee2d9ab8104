//! Split rings (Virtio 1.2, 2.7).

use core::sync::atomic::{Ordering, fence};

use stockade_bus::{Gpa, GuestMemory};

use super::access::{read_u16, write_u16};
use super::chain::{Chain, Head};
use super::descriptor::{self, DESCRIPTOR_BYTES, Table};
use super::ring_queue::{Used, is_passed};
use super::{QueueConfig, Violation};
use crate::virtio::Features;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`, the flags of the available ring.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`, the flags of the used ring.
const NO_NOTIFY: u16 = 1;
/// Flags and index, before the entries of either ring.
const RING_HEADER: u64 = 4;
const AVAILABLE_ENTRY: u64 = 2;
const USED_ENTRY: u64 = 8;

/// The device's side of a split ring.
#[derive(Clone, Debug)]
pub(super) struct SplitRing {
    config: QueueConfig,
    features: Features,

    pub(super) state: SplitState,
}

/// Where the device is in a split ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitState {
    /// The next available entry to be popped.
    pub popped: u16,
    /// The available index as last read.
    pub available: u16,
    /// The used index as last written.
    pub used: u16,
    /// The used index the driver was last told of, or need not be.
    pub signalled: u16,
}

impl SplitRing {
    pub(super) fn try_new<M: GuestMemory + ?Sized>(
        config: QueueConfig,
        features: Features,
        memory: &M,
    ) -> Result<Self, Violation> {
        if !config.size.is_power_of_two() {
            return Err(Violation::QueueSize(config.size));
        }
        let size = u64::from(config.size);
        // The event index is behind the entries, and has its place when it is not used.
        let parts = [
            (config.descriptors, DESCRIPTOR_BYTES * size, 16),
            (config.driver, RING_HEADER + AVAILABLE_ENTRY * size + 2, 2),
            (config.device, RING_HEADER + USED_ENTRY * size + 2, 4),
        ];
        for (gpa, len, alignment) in parts {
            descriptor::check_part(memory, gpa, len, alignment)?;
        }
        Ok(Self {
            config,
            features,
            state: SplitState::default(),
        })
    }

    /// Returns whether a buffer is available. Looks at guest memory only when those known of are popped.
    fn has_available<M: GuestMemory + ?Sized>(&mut self, memory: &M) -> Result<bool, Violation> {
        if self.state.available == self.state.popped {
            let available = read_u16(memory, self.available_index())?;
            if available.wrapping_sub(self.state.popped) > self.config.size {
                return Err(Violation::IndexJump(available));
            }
            self.state.available = available;
            // The entries are read after the index that covers them.
            fence(Ordering::Acquire);
        }
        Ok(self.state.available != self.state.popped)
    }

    /// Pops the next chain, if there is one.
    pub(super) fn pop<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &mut Chain,
    ) -> Result<bool, Violation> {
        if !self.has_available(memory)? {
            return Ok(false);
        }
        if self.state.popped.wrapping_sub(self.state.used) >= self.config.size {
            return Err(Violation::TooManyInFlight);
        }
        let slot = u64::from(self.state.popped % self.config.size);
        let head = read_u16(memory, entry(self.config.driver, slot, AVAILABLE_ENTRY)?)?;
        let table = Table::of_ring(self.config.descriptors, self.config.size);
        descriptor::walk_split(memory, table, head, self.features, chain)?;
        chain.set_head(Head {
            id: head,
            descriptors: 1,
        });
        self.state.popped = self.state.popped.wrapping_add(1);
        Ok(true)
    }

    /// Takes the last pop back.
    pub(super) fn undo_pop(&mut self) {
        self.state.popped = self.state.popped.wrapping_sub(1);
    }

    /// Gives chains back, all at once.
    pub(super) fn push<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        used: &[Used],
    ) -> Result<(), Violation> {
        for Used { head, written } in used {
            let slot = u64::from(self.state.used % self.config.size);
            let [a, b, c, d] = u32::from(head.id).to_le_bytes();
            let [e, f, g, h] = written.to_le_bytes();
            let gpa = entry(self.config.device, slot, USED_ENTRY)?;
            memory.write(gpa, &[a, b, c, d, e, f, g, h])?;
            self.state.used = self.state.used.wrapping_add(1);
        }
        fence(Ordering::Release);
        Ok(write_u16(
            memory,
            Gpa(self.config.device.0 + 2),
            self.state.used,
        )?)
    }

    /// Asks the driver to notify, or says that it need not.
    pub(super) fn set_listening<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        is_listening: bool,
    ) -> Result<(), Violation> {
        if !self.features.contains(Features::EVENT_IDX) {
            let flags = if is_listening { 0 } else { NO_NOTIFY };
            write_u16(memory, self.config.device, flags)?;
        } else if is_listening {
            let size = u64::from(self.config.size);
            let event = entry(self.config.device, size, USED_ENTRY)?;
            write_u16(memory, event, self.state.popped)?;
        }
        Ok(())
    }

    /// Returns whether the driver wants to hear of what was given back since the last call (Virtio 1.2, 2.7.7).
    pub(super) fn take_signal<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
    ) -> Result<bool, Violation> {
        let before = core::mem::replace(&mut self.state.signalled, self.state.used);
        if before == self.state.used {
            return Ok(false);
        }
        // The driver sees the used index before its wish is read.
        fence(Ordering::SeqCst);
        if !self.features.contains(Features::EVENT_IDX) {
            return Ok(read_u16(memory, self.config.driver)? & NO_INTERRUPT == 0);
        }
        let size = u64::from(self.config.size);
        let event = read_u16(memory, entry(self.config.driver, size, AVAILABLE_ENTRY)?)?;
        let behind = self.state.used.wrapping_sub(event);
        let since = self.state.used.wrapping_sub(before);
        Ok(is_passed(behind.into(), since.into()))
    }

    fn available_index(&self) -> Gpa {
        // Both rings were checked not to wrap.
        Gpa(self.config.driver.0.wrapping_add(2))
    }

    /// Checks a saved state: indexes are any numbers, but not any distance apart.
    pub(super) fn is_possible(&self, state: &SplitState) -> bool {
        state.available.wrapping_sub(state.popped) <= self.config.size
            && state.popped.wrapping_sub(state.used) <= self.config.size
    }
}

/// Returns where entry `index` of a ring is; the rings were checked to lie in guest RAM as a whole.
fn entry(ring: Gpa, index: u64, bytes: u64) -> Result<Gpa, Violation> {
    ring.checked_add(RING_HEADER + index * bytes)
        .ok_or(Violation::NotMemory(ring))
}
