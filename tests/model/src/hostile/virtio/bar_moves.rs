//! `virtio-bar-moves`: a device's windows are elsewhere than configuration space says, and elsewhere again at the next reading.

use crate::tap::{Count, Lie, Who};

pub(in crate::hostile) struct BarMoves {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: BarMoves = BarMoves {
    count: Count::new(),
    seen: Count::new(),
};

impl Lie for BarMoves {
    fn name(&self) -> &'static str {
        "virtio-bar-moves"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn config_read(&self, who: Who, register: u8, bytes: usize, value: u32) -> u32 {
        let _ = (who, bytes);
        // Base address registers that hold an address, not the type of one or the answer to a size.
        if !(0x10..0x28).contains(&register) || value & 0xFFF0_0000 == 0 || value == u32::MAX {
            return value;
        }
        let moved = value.wrapping_add(0x0010_0000 << (self.seen.next() % 4));
        self.lied(format_args!(
            "register {register:#x} says {moved:#x} for {value:#x}"
        ));
        moved
    }
}
