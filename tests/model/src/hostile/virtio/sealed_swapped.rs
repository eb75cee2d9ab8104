//! `virtio-sealed-swapped`: two blocks of a sealed disk have changed places.

use crate::tap::{BlockRequest, Exchange, Forgery, Lie, Rounds};

pub(in crate::hostile) static ATTACK: Forgery = Forgery::new("virtio-sealed-swapped", forge);

fn forge(lie: &Forgery, rounds: &Rounds, request: &BlockRequest, exchange: &mut Exchange<'_>) {
    if let (Some(one), Some(other)) = (rounds.get(1, 0), rounds.get(1, 1)) {
        for (place, block) in [(one, other), (other, one)] {
            if request.give(exchange.memory, place.sector, &block.content) {
                lie.lied(format_args!("{} for {}", block.sector, place.sector));
            }
        }
    }
}
