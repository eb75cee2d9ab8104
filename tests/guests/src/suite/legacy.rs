//! Real mode, protected mode of 16 and 32 bits, compatibility mode.

use super::{Context, Outcome, equal, tests};
use crate::machine::legacy::{Mode, run};

unsafe extern "C" {
    static real_where: u8;
}

tests! {
    real_mode_is_reached_and_left, "The way from long mode to real mode and back works: CR0.PE is clear, CS is 0.";
}

fn real_mode_is_reached_and_left(_: &mut Context) -> Outcome {
    let [cr0, cs, ..] = run(Mode::Real, &raw const real_where, &[]);
    equal("CR0.PE", cr0 & 1, 0_u32)?;
    equal("CS", cs, 0_u32)
}
