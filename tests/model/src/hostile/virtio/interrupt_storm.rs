//! `virtio-interrupt-storm`: a device in use sends its message at every look of the host.

use crate::tap::{Count, Lie};

pub(in crate::hostile) struct InterruptStorm {
    count: Count,
}

pub(in crate::hostile) static ATTACK: InterruptStorm = InterruptStorm {
    count: Count::new(),
};

impl Lie for InterruptStorm {
    fn name(&self) -> &'static str {
        "virtio-interrupt-storm"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn has_extra_message(&self) -> bool {
        self.lied(format_args!("a message nobody sent"));
        true
    }
}
