//! `virtio-device-id-changes`: a device is a disk, then a network card, then a disk again.

use crate::tap::{Count, Lie, Who};

pub(in crate::hostile) struct DeviceIdChanges {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: DeviceIdChanges = DeviceIdChanges {
    count: Count::new(),
    seen: Count::new(),
};

impl Lie for DeviceIdChanges {
    fn name(&self) -> &'static str {
        "virtio-device-id-changes"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn config_read(&self, who: Who, register: u8, bytes: usize, value: u32) -> u32 {
        let _ = (who, bytes);
        if register > 3 || !self.seen.next().is_multiple_of(2) {
            return value;
        }
        let other = if register == 0 {
            value ^ 0x0003_0000
        } else {
            value ^ 3
        };
        self.lied(format_args!("device {other:#x} for {value:#x}"));
        other
    }
}
