//! The guest's console: COM1 on one side, the host's port on the other.
//!
//! Output is gathered in the chip and handed over a line at a time, when much has gathered, when the guest halts and when our
//! timer fires: a call to the host costs as much as dozens of characters.

use stockade_abi::terminate::StopReason;

use crate::host::{Host, Timekeeper};
use crate::machine::Machine;
use crate::vcpu::Vcpu;

/// Output that is handed over even without the end of a line.
const MUCH: usize = 512;
/// Bytes handed over at once; the GHCB's own buffer is a little larger than this.
const BATCH: usize = 1024;

/// Hands output over if there is reason to, and lets waiting input follow what the guest has read.
pub(crate) fn serve<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let is_due =
        machine.with_chips(|chips| chips.com1.output_len() >= MUCH || chips.com1.has_line());
    if is_due {
        flush(machine, host)?;
    }
    if vcpu.is_input_waiting {
        receive(vcpu, machine, host)?;
    }
    Ok(())
}

/// Hands over all output there is.
pub(crate) fn flush<H: Host, C: Timekeeper + Clone>(
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
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
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<(), StopReason> {
    let mut batch = [0; BATCH];
    let room = machine
        .with_chips(|chips| chips.com1.input_room())
        .min(BATCH);
    let got = host.console_read(&mut batch[..room])?.min(room);
    machine.with_chips(|chips| chips.com1.push_input(&batch[..got]));
    vcpu.is_input_waiting = got == room;
    Ok(())
}
