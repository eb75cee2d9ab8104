//! `virtio-sealed-older`: one block of a sealed disk is what it was before it was written again.

use crate::tap::{BlockRequest, Exchange, Forgery, Lie, Rounds};

pub(in crate::hostile) static ATTACK: Forgery = Forgery::new("virtio-sealed-older", forge);

fn forge(lie: &Forgery, rounds: &Rounds, request: &BlockRequest, exchange: &mut Exchange<'_>) {
    if let (Some(older), Some(newer)) = (rounds.get(0, 0), rounds.get(1, 0))
        && request.give(exchange.memory, newer.sector, &older.content)
    {
        lie.lied(format_args!("{} for {}", older.sector, newer.sector));
    }
}
