//! The guest's console: COM1 on one side, the host's port on the other.
//!
//! Output is gathered in the chip and handed over a line at a time, when much has gathered, when the guest halts and when our
//! timer fires: a call to the host costs as much as dozens of characters. A break from the host is the power button.

use stockade_abi::terminate::StopReason;

use crate::host::{Host, Timekeeper};
use crate::machine::{Machine, Output};

/// Bytes handed over at once; the GHCB's own buffer is a little larger than this.
const BATCH: usize = 1024;

/// Hands output over if there is reason to, and lets waiting input follow what the guest has read.
pub(crate) fn serve<H: Host, C: Timekeeper + Clone>(
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    if machine.output() == Output::Due {
        flush(machine, host)?;
    }
    if machine.is_input_waiting() {
        receive(machine, host)?;
    }
    Ok(())
}

/// Hands over all output there is.
pub(crate) fn flush<H: Host, C: Timekeeper + Clone>(
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    if machine.output() == Output::None {
        return Ok(());
    }
    let _turn = machine.console();
    let mut batch = [0; BATCH];
    loop {
        let taken = machine.with_chips(|chips| chips.com1.take_output(&mut batch));
        if taken == 0 {
            return Ok(());
        }
        host.console_write(&batch[..taken])?;
    }
}

/// Takes input as far as the chip has room for it.
pub(crate) fn receive<H: Host, C: Timekeeper + Clone>(
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let _turn = machine.console();
    let mut batch = [0; BATCH];
    let room = machine
        .with_chips(|chips| chips.com1.input_room())
        .min(BATCH);
    let got = host.console_read(&mut batch[..room])?.min(room);
    machine.with_chips(|chips| chips.com1.push_input(&batch[..got]));
    machine.set_input_waiting(got == room);
    // A host may ask for the guest's end at any time; whether it comes is the guest's to decide.
    if host.take_button() {
        log::info!("the host presses the power button");
        machine.with_chips(|chips| chips.power.press_power_button());
    }
    Ok(())
}
