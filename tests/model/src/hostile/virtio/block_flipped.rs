//! `virtio-block-flipped`: the host changes a bit of what is read.

use crate::tap::{BlockKind, Count, Element, Exchange, Lie};
use alloc::vec::Vec;

pub(in crate::hostile) struct BlockFlipped {
    count: Count,
    seen: Count,
}

pub(in crate::hostile) static ATTACK: BlockFlipped = BlockFlipped {
    count: Count::new(),
    seen: Count::new(),
};

/// One read in so many.
const PERIOD: u64 = 4;

impl Lie for BlockFlipped {
    fn name(&self) -> &'static str {
        "virtio-block-flipped"
    }

    fn count(&self) -> &Count {
        &self.count
    }

    fn completed(&self, exchange: &mut Exchange<'_>, element: Element, told: &mut Vec<Element>) {
        let request = exchange.request(element.id);
        if let Some(request) = request.filter(|request| request.kind == BlockKind::Read) {
            let number = self.seen.next();
            let mut content = request.content(exchange.memory);
            let bits = content.len() as u64 * 8;
            if number % PERIOD == PERIOD - 1 && bits != 0 {
                let bit = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % bits;
                let byte = usize::try_from(bit / 8).unwrap_or(0);
                content[byte] ^= 1 << (bit % 8);
                request.replace(exchange.memory, &content);
                self.lied(format_args!("bit {bit} from sector {} on", request.sector));
            }
        }
        told.push(element);
    }
}
