//! `doorbell-storm`: the host writes vectors into the doorbell page that no interrupt has (0 to 31) or nobody registered,
//! with flags and per-VMPL events of its own making. #HV itself it raises by the protocol; [`hv_flood`](super::hv_flood)
//! does not.

use super::Attack;
use crate::host::doorbell::SharedPage;
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering};

/// The guest knows and need not be told again.
const NO_FURTHER_SIGNAL: u8 = 0x80;
/// Looks of the host between two storms.
const PERIOD: u64 = 7;

pub(super) struct DoorbellStorm {
    looks: AtomicU64,
    attempts: AtomicU64,
}

pub(super) static ATTACK: DoorbellStorm = DoorbellStorm {
    looks: AtomicU64::new(0),
    attempts: AtomicU64::new(0),
};

impl Attack for DoorbellStorm {
    fn name(&self) -> &'static str {
        "doorbell-storm"
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn on_events(&self, vm: &Vm, vcpu: &mut Vcpu) {
        let Some(page) = vcpu.doorbell.and_then(|gpa| vm.shared_page(gpa)) else {
            return;
        };
        if !self
            .looks
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(PERIOD)
        {
            return;
        }
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        let [vector, flags, events, ..] = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        // Exceptions first, then everything but what the paravisor registers (E0 and E1).
        let vector = if number < 32 {
            number.to_le_bytes()[0]
        } else {
            vector
        };
        let vector = if matches!(vector, 0xE0 | 0xE1) {
            0xE2
        } else {
            vector
        };
        let old = page.load_u8(0);
        if old == 0 {
            page.compare_exchange_u8(0, 0, vector);
        }
        page.fetch_or_u8(3, events);
        page.fetch_or_u32(0x80, number.count_ones() << 14 | u32::from(vector));
        if page.fetch_or_u8(1, NO_FURTHER_SIGNAL | flags & 3) & NO_FURTHER_SIGNAL == 0 {
            vcpu.must_signal = true;
        }
    }
}
