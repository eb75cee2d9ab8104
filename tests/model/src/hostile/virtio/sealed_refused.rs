//! `virtio-sealed-refused`: one block of a sealed disk cannot be read, as if the file ended before it.

use crate::tap::{BlockRequest, Exchange, Forgery, Lie, Rounds};

pub(in crate::hostile) static ATTACK: Forgery = Forgery::new("virtio-sealed-refused", forge);

fn forge(lie: &Forgery, rounds: &Rounds, request: &BlockRequest, exchange: &mut Exchange<'_>) {
    if let Some(block) = rounds.get(1, 0)
        && request.give(exchange.memory, block.sector, &[0; 4096])
    {
        const IO_ERROR: u8 = 1;
        exchange.memory.write(request.status, &[IO_ERROR]);
        lie.lied(format_args!("sector {} is not there", block.sector));
    }
}
