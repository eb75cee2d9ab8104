//! The APIC timer: one-shot, periodic and TSC-deadline (APM vol. 2, 16.4.1; the deadline mode as Intel's SDM, 10.5.4.1, has it).
//!
//! The timer's clock before the divider is the TSC itself.

/// Bits 18:17 of the LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

const fn mode(entry: u32) -> Mode {
    match (entry >> 17) & 3 {
        1 => Mode::Periodic,
        2 => Mode::TscDeadline,
        _ => Mode::OneShot,
    }
}

/// Timer state besides its LVT entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    divide: u32,
    initial: u32,
    deadline: Option<u64>,
}

impl Timer {
    pub(super) const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Returns whether the timer came due, and winds it up again if periodic. Missed periods count once.
    pub(super) fn expire(&mut self, entry: u32, now_tsc: u64) -> bool {
        let Some(due) = self.deadline.filter(|due| *due <= now_tsc) else {
            return false;
        };
        self.deadline = match mode(entry) {
            Mode::Periodic if self.period() > 0 => {
                let missed = (now_tsc - due) / self.period();
                missed
                    .checked_add(1)
                    .and_then(|periods| periods.checked_mul(self.period()))
                    .and_then(|ticks| due.checked_add(ticks))
            }
            _ => None,
        };
        true
    }

    /// The LVT entry changed: leaving or entering deadline mode disarms.
    pub(super) fn entry_changed(&mut self, old: u32, new: u32) {
        if (mode(old) == Mode::TscDeadline) != (mode(new) == Mode::TscDeadline) {
            self.deadline = None;
            self.initial = 0;
        }
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn set_initial(&mut self, entry: u32, count: u32, now_tsc: u64) {
        if mode(entry) == Mode::TscDeadline {
            return;
        }
        self.initial = count;
        self.deadline = (count > 0).then(|| now_tsc.saturating_add(self.period()));
    }

    pub(super) fn current(&self, entry: u32, now_tsc: u64) -> u32 {
        match self.deadline {
            Some(due) if mode(entry) != Mode::TscDeadline => {
                u32::try_from(due.saturating_sub(now_tsc) / self.divisor()).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    /// A new divider counts from the next initial count.
    pub(super) const fn set_divide(&mut self, value: u32) {
        self.divide = value & 0b1011;
    }

    /// Reads as 0 in another mode, and once fired.
    pub(super) fn tsc_deadline(&self, entry: u32) -> u64 {
        match self.deadline {
            Some(due) if mode(entry) == Mode::TscDeadline => due,
            _ => 0,
        }
    }

    /// 0 disarms; ignored in another mode.
    pub(super) fn set_tsc_deadline(&mut self, entry: u32, deadline: u64) {
        if mode(entry) == Mode::TscDeadline {
            self.deadline = (deadline != 0).then_some(deadline);
        }
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    /// Bits 3, 1, 0: 2, 4, … 128, and 1.
    const fn divisor(&self) -> u64 {
        match (self.divide >> 1) & 4 | self.divide & 3 {
            7 => 1,
            power => 2 << power,
        }
    }
}
