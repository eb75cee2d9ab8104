//! `virtio-sealed-flipped`: one block of a sealed disk has another bit whenever it is read.

use crate::tap::{BlockRequest, Exchange, Forgery, Lie, Rounds};

pub(in crate::hostile) static ATTACK: Forgery = Forgery::new("virtio-sealed-flipped", forge);

fn forge(lie: &Forgery, rounds: &Rounds, request: &BlockRequest, exchange: &mut Exchange<'_>) {
    if let Some(block) = rounds.get(1, 0) {
        let mut changed = block.content.clone();
        changed[1000] ^= 4;
        if request.give(exchange.memory, block.sector, &changed) {
            lie.lied(format_args!("a bit of sector {}", block.sector));
        }
    }
}
