//! `virtio-features-unacked`: a device takes back that it agreed on features.

use crate::host::pci::Register;
use crate::tap::{Count, Lie, Who};

pub(in crate::hostile) struct FeaturesUnacked {
    count: Count,
}

pub(in crate::hostile) static ATTACK: FeaturesUnacked = FeaturesUnacked {
    count: Count::new(),
};

/// FEATURES_OK of the status.
const FEATURES_OK: u64 = 8;

impl Lie for FeaturesUnacked {
    fn name(&self) -> &'static str {
        "virtio-features-unacked"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn register_read(&self, who: Who, register: Register, len: usize, value: u64) -> u64 {
        let _ = (who, len);
        match register {
            Register::Common(0x14) if value & FEATURES_OK != 0 => {
                self.lied(format_args!("features are not agreed on"));
                value & !FEATURES_OK
            }
            _ => value,
        }
    }
}
