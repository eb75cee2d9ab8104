//! What a guest that knows Hyper-V's interface finds beyond CPUID: who it says it is, the hypercall page, the reference clock.
//!
//! References are to Microsoft's Hypervisor Top-Level Functional Specification ("TLFS"). The interrupt controller and the timers are
//! `stockade_apic::synthetic`. Nobody is behind hypercalls: each is answered with "no such call".

use core::sync::atomic::{AtomicU64, Ordering};

use stockade_bus::{Gpa, GuestMemory, MemoryError};

/// First and last MSR of the interface. TLFS, appendix on synthetic MSRs.
pub const FIRST_MSR: u32 = 0x4000_0000;
/// The last one that is here.
pub const LAST_MSR: u32 = 0x4000_00B7;
/// Who the guest says it is.
pub const GUEST_OS_ID: u32 = 0x4000_0000;
/// Where the guest wants its hypercall page.
pub const HYPERCALL: u32 = 0x4000_0001;
/// The number of the asking vCPU.
pub const VP_INDEX: u32 = 0x4000_0002;
/// The reference clock.
pub const TIME_REF_COUNT: u32 = 0x4000_0020;
/// Where the guest wants the page that turns its TSC into the reference clock.
pub const REFERENCE_TSC: u32 = 0x4000_0021;
/// Hertz of the TSC.
pub const TSC_FREQUENCY: u32 = 0x4000_0022;
/// Hertz of the local APIC's timer.
pub const APIC_FREQUENCY: u32 = 0x4000_0023;
/// End of interrupt.
pub const END_OF_INTERRUPT: u32 = 0x4000_0070;
/// Interrupt command, all 64 bits.
pub const INTERRUPT_COMMAND: u32 = 0x4000_0071;
/// Task priority.
pub const TASK_PRIORITY: u32 = 0x4000_0072;
/// Where the guest wants the page it shares with the hypervisor about a vCPU.
pub const ASSIST_PAGE: u32 = 0x4000_0073;

/// The reference clock counts in 100 ns.
const UNITS_A_SECOND: u64 = 10_000_000;
/// In an MSR with a page's address: the page is there.
const ENABLE: u64 = 1;
/// In HYPERCALL: nothing of it changes until the next reset.
const LOCKED: u64 = 1 << 1;
/// VMMCALL, RET.
const HYPERCALL_CODE: [u8; 4] = [0x0F, 0x01, 0xD9, 0xC3];
/// `HV_STATUS_INVALID_HYPERCALL_CODE`.
pub(crate) const INVALID_CALL: u64 = 2;
const PAGE_BYTES: u64 = 0x1000;

/// Returns the page an MSR's value names, if it is enabled.
const fn page(value: u64) -> Option<Gpa> {
    if value & ENABLE == 0 {
        return None;
    }
    Some(Gpa(value & !0xFFF))
}

/// Empties the page that an MSR with its address enables. TLFS: overlay pages begin as zero.
pub fn clear_page(value: u64, memory: &dyn GuestMemory) -> Result<(), MemoryError> {
    let Some(Gpa(start)) = page(value) else {
        return Ok(());
    };
    // By the line: a page of zeros would be one more to measure.
    let mut lines = (0..PAGE_BYTES).step_by(64);
    lines.try_for_each(|offset| memory.write(Gpa(start | offset), &[0; 64]))
}

/// The reference clock, which counts in 100 ns what the TSC counts in cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferenceClock {
    tsc_hz: u64,
    /// Units a cycle, with 64 bits behind the point.
    scale: u64,
}

impl ReferenceClock {
    /// Returns the clock for a TSC, which has to be faster than it.
    #[must_use]
    pub fn try_new(tsc_hz: u64) -> Option<Self> {
        let scale = (u128::from(UNITS_A_SECOND) << 64).checked_div(u128::from(tsc_hz))?;
        let scale = u64::try_from(scale).ok()?;
        Some(Self { tsc_hz, scale })
    }

    /// Returns hertz of the TSC.
    #[must_use]
    pub const fn tsc_hz(self) -> u64 {
        self.tsc_hz
    }

    /// Returns what the clock shows when the TSC shows `tsc`.
    #[must_use]
    pub const fn at(self, tsc: u64) -> u64 {
        ((tsc as u128 * self.scale as u128) >> 64) as u64
    }

    /// Returns the first value of the TSC at which the clock shows `units` or more.
    #[must_use]
    pub fn tsc_at(self, units: u64) -> u64 {
        let tsc = (u128::from(units) << 64).div_ceil(u128::from(self.scale));
        u64::try_from(tsc).unwrap_or(u64::MAX)
    }

    /// Returns the beginning of the page that tells the guest. TLFS, "Reference TSC page": sequence, reserved, scale, offset.
    #[must_use]
    pub fn page(self) -> [u8; 24] {
        let mut page = [0; 24];
        page[0] = 1;
        page[8..16].copy_from_slice(&self.scale.to_le_bytes());
        page
    }
}

/// Why an access faults: #GP(0) for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the register refuses the access")]
pub struct Refused;

impl From<MemoryError> for Refused {
    /// A page that is not memory.
    fn from(_: MemoryError) -> Self {
        Self
    }
}

/// What all vCPUs share.
#[derive(Debug, Default)]
pub struct Partition {
    guest_os_id: AtomicU64,
    hypercall: AtomicU64,
    reference_tsc: AtomicU64,
}

impl Partition {
    /// Returns the registers as after power-on.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            guest_os_id: AtomicU64::new(0),
            hypercall: AtomicU64::new(0),
            reference_tsc: AtomicU64::new(0),
        }
    }

    /// Puts the registers back to power-on.
    pub fn reset(&self) {
        let Self {
            guest_os_id,
            hypercall,
            reference_tsc,
        } = self;
        for register in [guest_os_id, hypercall, reference_tsc] {
            register.store(0, Ordering::SeqCst);
        }
    }

    /// Reads one of the registers; `None` if it is not one of them.
    #[must_use]
    pub fn read(&self, msr: u32) -> Option<u64> {
        let register = match msr {
            GUEST_OS_ID => &self.guest_os_id,
            HYPERCALL => &self.hypercall,
            REFERENCE_TSC => &self.reference_tsc,
            _ => return None,
        };
        Some(register.load(Ordering::SeqCst))
    }

    /// Writes one of the registers, and the page that comes with it; `None` if it is not one of them.
    pub fn write(
        &self,
        msr: u32,
        value: u64,
        clock: ReferenceClock,
        memory: &dyn GuestMemory,
    ) -> Option<Result<(), Refused>> {
        match msr {
            GUEST_OS_ID => {
                self.guest_os_id.store(value, Ordering::SeqCst);
                // Without a name there are no hypercalls.
                if value == 0 {
                    self.hypercall.fetch_and(!ENABLE, Ordering::SeqCst);
                }
                Some(Ok(()))
            }
            HYPERCALL => Some(self.write_hypercall(value, memory)),
            REFERENCE_TSC => Some(self.write_reference_tsc(value, clock, memory)),
            _ => None,
        }
    }

    fn write_hypercall(&self, value: u64, memory: &dyn GuestMemory) -> Result<(), Refused> {
        if self.hypercall.load(Ordering::SeqCst) & LOCKED != 0 {
            return Err(Refused);
        }
        let is_known = self.guest_os_id.load(Ordering::SeqCst) != 0;
        let value = if is_known { value } else { value & !ENABLE };
        if let Some(gpa) = page(value) {
            memory.write(gpa, &HYPERCALL_CODE)?;
        }
        self.hypercall.store(value, Ordering::SeqCst);
        Ok(())
    }

    fn write_reference_tsc(
        &self,
        value: u64,
        clock: ReferenceClock,
        memory: &dyn GuestMemory,
    ) -> Result<(), Refused> {
        if let Some(gpa) = page(value) {
            memory.write(gpa, &clock.page())?;
        }
        self.reference_tsc.store(value, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use stockade_bus::fake::FakeMemory;

    use super::*;

    fn clock() -> ReferenceClock {
        ReferenceClock::try_new(2_500_000_000).unwrap()
    }

    #[test]
    fn a_second_is_ten_million_units() {
        // The scale is rounded down: a unit is missing at whole seconds.
        assert_eq!(clock().at(2_500_000_000), 9_999_999);
        assert_eq!(clock().at(2_500_000_001), 10_000_000);
    }

    /// With a TSC as slow as the clock the scale would need 65 bits.
    #[test]
    fn the_tsc_must_be_faster_than_the_clock() {
        assert_eq!(ReferenceClock::try_new(10_000_000), None);
        assert_eq!(ReferenceClock::try_new(0), None);
        assert!(ReferenceClock::try_new(10_000_001).is_some());
    }

    /// What the guest computes from the page is what we compute: (TSC × scale) >> 64 + offset.
    #[test]
    fn the_page_gives_the_guest_the_same_clock() {
        let page = clock().page();
        let scale = u64::from_le_bytes(page[8..16].try_into().unwrap());
        let tsc = 0x0123_4567_89AB_CDEF_u64;
        let theirs = (u128::from(tsc) * u128::from(scale)) >> 64;
        assert_eq!(theirs, u128::from(clock().at(tsc)));
        assert_eq!(page[0], 1, "0 would mean: do not use it");
        assert_eq!(page[16..], [0; 8]);
    }

    #[test]
    fn the_hypercall_page_needs_a_name_and_memory() {
        let (partition, memory) = (Partition::new(), FakeMemory::new(0x4000));
        let write = |msr, value| partition.write(msr, value, clock(), &memory);
        assert_eq!(write(HYPERCALL, 0x1001), Some(Ok(())));
        assert_eq!(partition.read(HYPERCALL), Some(0x1000));
        assert_eq!(write(GUEST_OS_ID, 0x8100_0000_0000_0000), Some(Ok(())));
        assert_eq!(write(HYPERCALL, 0x1_0000_1001), Some(Err(Refused)));
        assert_eq!(write(HYPERCALL, 0x1001), Some(Ok(())));
        let mut code = [0; 4];
        memory.read(Gpa(0x1000), &mut code).unwrap();
        assert_eq!(code, [0x0F, 0x01, 0xD9, 0xC3]);
        assert_eq!(write(GUEST_OS_ID, 0), Some(Ok(())));
        assert_eq!(partition.read(HYPERCALL), Some(0x1000));
    }

    #[test]
    fn a_locked_hypercall_page_stays_until_the_reset() {
        let (partition, memory) = (Partition::new(), FakeMemory::new(0x4000));
        let write = |msr, value| partition.write(msr, value, clock(), &memory);
        assert_eq!(write(GUEST_OS_ID, 1), Some(Ok(())));
        assert_eq!(write(HYPERCALL, 0x1003), Some(Ok(())));
        assert_eq!(write(HYPERCALL, 0x2001), Some(Err(Refused)));
        partition.reset();
        assert_eq!(partition.read(HYPERCALL), Some(0));
        assert_eq!(partition.read(GUEST_OS_ID), Some(0));
    }

    #[test]
    fn the_reference_page_is_written_where_it_is_wanted() {
        let (partition, memory) = (Partition::new(), FakeMemory::new(0x4000));
        let write = |value| partition.write(REFERENCE_TSC, value, clock(), &memory);
        assert_eq!(write(0x2000), Some(Ok(())));
        let mut page = [0xFF; 24];
        memory.read(Gpa(0x2000), &mut page).unwrap();
        assert_eq!(page, [0; 24], "it is not enabled");
        assert_eq!(write(0x2001), Some(Ok(())));
        memory.read(Gpa(0x2000), &mut page).unwrap();
        assert_eq!(page, clock().page());
        assert_eq!(write(0xFFFF_F001), Some(Err(Refused)));
        assert_eq!(partition.read(REFERENCE_TSC), Some(0x2001));
    }

    proptest! {
        /// A timer set for the TSC value of a moment never fires before the clock shows that moment, nor a cycle late.
        #[test]
        fn the_tsc_of_a_moment_is_the_first_that_shows_it(
            hz in 10_000_001_u64..6_000_000_000,
            units in 1_u64..1 << 50,
        ) {
            let clock = ReferenceClock::try_new(hz).unwrap();
            let tsc = clock.tsc_at(units);
            prop_assert!(clock.at(tsc) >= units);
            prop_assert!(clock.at(tsc - 1) < units);
        }
    }
}
