//! `virtio-interrupt-storm`: a device in use sends its message at every few looks of the host, whatever it has done.

use crate::tap::{Count, Lie};

pub(in crate::hostile) struct InterruptStorm {
    count: Count,
    looks: Count,
}

pub(in crate::hostile) static ATTACK: InterruptStorm = InterruptStorm {
    count: Count::new(),
    looks: Count::new(),
};

/// Looks between two messages: at every one the guest would not run at all.
const PERIOD: u64 = 8;

impl Lie for InterruptStorm {
    fn name(&self) -> &'static str {
        "virtio-interrupt-storm"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn has_extra_message(&self) -> bool {
        let is_due = self.looks.next().is_multiple_of(PERIOD);
        if is_due {
            self.lied(format_args!("a message nobody sent"));
        }
        is_due
    }
}
