//! `virtio-features-appear`: a device offers features nobody has defined, and others on the next reading.

use crate::host::pci::Register;
use crate::tap::{Count, Lie, Who};

pub(in crate::hostile) struct FeaturesAppear {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: FeaturesAppear = FeaturesAppear {
    count: Count::new(),
    seen: Count::new(),
};

impl Lie for FeaturesAppear {
    fn name(&self) -> &'static str {
        "virtio-features-appear"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn register_read(&self, who: Who, register: Register, len: usize, value: u64) -> u64 {
        let _ = (who, len);
        match register {
            Register::Common(0x04) => {
                let more = if self.seen.next().is_multiple_of(2) {
                    0x0F00_0000
                } else {
                    0xFFFF_FE00
                };
                self.lied(format_args!("features {more:#x} appear"));
                value | more
            }
            _ => value,
        }
    }
}
