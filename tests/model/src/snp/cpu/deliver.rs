//! Delivery of #VC by software: QEMU can inject vector 29, but without its error code.
//!
//! What hardware does with an exception in protected mode (APM vol. 2, 8.7 and 8.9): gate, new code segment, stack by
//! privilege or IST, the frame. Real mode has no #VC handler worth the name: there it is a shutdown.

use super::linear::{Linear, LinearFault};
use crate::snp::walk::{CR0_PE, Privilege, Use};
use crate::svm::{SaveArea, Segment};

/// The #VC vector.
pub const VC_VECTOR: u8 = 29;

/// What becomes of a delivery that met a fault (APM vol. 2, table 8-3: #VC is contributory).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nested {
    /// #PF is delivered instead; the address for CR2.
    PageFault {
        /// Error code.
        code: u32,
        /// Linear address.
        address: u64,
    },
    /// #DF.
    DoubleFault,
    /// Nothing can be delivered.
    Shutdown,
}

const FLAG_TF: u64 = 1 << 8;
const FLAG_IF: u64 = 1 << 9;
const FLAG_NT: u64 = 1 << 14;
const FLAG_RF: u64 = 1 << 16;
const FLAG_VM: u64 = 1 << 17;

/// Type field of an interrupt gate; a trap gate is this plus 1.
const INTERRUPT_GATE: u64 = 0xE;

struct Gate {
    selector: u16,
    offset: u64,
    ist: u8,
    masks_interrupts: bool,
}

/// Where the handler runs.
struct Target {
    code: Segment,
    cpl: u8,
}

/// Delivers the exception `vector` with `error_code` to the guest whose state is `save`, which then is at the
/// handler's first instruction. On a fault `save` is as before.
pub fn deliver(
    save: &mut SaveArea,
    linear: &Linear<'_>,
    vector: u8,
    error_code: u32,
) -> Result<(), Nested> {
    if save.cr0 & CR0_PE == 0 || save.rflags & FLAG_VM != 0 {
        return Err(Nested::Shutdown);
    }
    let long = linear.is_long();
    let gate = read_gate(save, linear, vector, long)?;
    let target = read_target(save, linear, &gate, long)?;
    let (stack_segment, stack) = choose_stack(save, linear, &gate, &target, long)?;
    let top = if long {
        let frame = [
            u64::from(error_code),
            save.rip,
            u64::from(save.cs.selector),
            save.rflags,
            save.rsp,
            u64::from(save.ss.selector),
        ];
        push(linear, stack, &frame)?
    } else {
        let mut frame = [
            error_code,
            low(save.rip),
            u32::from(save.cs.selector),
            low(save.rflags),
            0,
            0,
        ];
        (frame[4], frame[5]) = (low(save.rsp), u32::from(save.ss.selector));
        let words = if stack_segment.is_some() { 6 } else { 4 };
        push_legacy(linear, save, stack, stack_segment.as_ref(), &frame[..words])?
    };
    save.rsp = top;
    save.rip = gate.offset;
    save.cs = target.code;
    if let Some(segment) = stack_segment {
        save.ss = segment;
    }
    save.cpl = target.cpl;
    let cleared =
        FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | if gate.masks_interrupts { FLAG_IF } else { 0 };
    save.rflags &= !cleared;
    Ok(())
}

fn read_gate(save: &SaveArea, linear: &Linear<'_>, vector: u8, long: bool) -> Result<Gate, Nested> {
    let size = if long { 16 } else { 8 };
    let at = u64::from(vector) * size;
    if at + size - 1 > u64::from(save.idtr.limit) {
        return Err(Nested::DoubleFault);
    }
    let word = linear
        .read_u64(save.idtr.base.wrapping_add(at))
        .map_err(nested)?;
    let kind = word >> 40 & 0x1F;
    if kind & !1 != INTERRUPT_GATE || word >> 47 & 1 == 0 {
        return Err(Nested::DoubleFault);
    }
    let high = if long {
        linear
            .read_u64(save.idtr.base.wrapping_add(at + 8))
            .map_err(nested)?
    } else {
        0
    };
    Ok(Gate {
        selector: selector(word >> 16),
        offset: word & 0xFFFF | word >> 32 & 0xFFFF_0000 | high << 32,
        ist: if long { byte(word >> 32) & 7 } else { 0 },
        masks_interrupts: kind == INTERRUPT_GATE,
    })
}

fn read_target(
    save: &SaveArea,
    linear: &Linear<'_>,
    gate: &Gate,
    long: bool,
) -> Result<Target, Nested> {
    let descriptor = read_descriptor(save, linear, gate.selector)?;
    let dpl = byte(descriptor >> 45) & 3;
    let is_code = descriptor >> 43 & 3 == 3;
    let is_present = descriptor >> 47 & 1 == 1;
    let is_long = descriptor >> 53 & 1 == 1;
    if !is_code || !is_present || is_long != long || dpl > save.cpl {
        return Err(Nested::DoubleFault);
    }
    let conforming = descriptor >> 42 & 1 == 1;
    let cpl = if conforming { save.cpl } else { dpl };
    Ok(Target {
        code: segment(gate.selector & !3 | u16::from(cpl), descriptor),
        cpl,
    })
}

/// The new stack segment, where it changes, and the stack pointer before the pushes.
fn choose_stack(
    save: &SaveArea,
    linear: &Linear<'_>,
    gate: &Gate,
    target: &Target,
    long: bool,
) -> Result<(Option<Segment>, u64), Nested> {
    let changes = target.cpl != save.cpl;
    if long {
        let stack = match (gate.ist, changes) {
            (0, false) => save.rsp,
            (0, true) => tss_word(save, linear, 4 + 8 * u64::from(target.cpl), 8)?,
            (ist, _) => tss_word(save, linear, 0x24 + 8 * (u64::from(ist) - 1), 8)?,
        };
        let null = Segment {
            selector: u16::from(target.cpl),
            attributes: u16::from(target.cpl) << 5,
            ..Segment::default()
        };
        return Ok((changes.then_some(null), stack & !0xF));
    }
    if !changes {
        return Ok((None, save.rsp));
    }
    let stack = tss_word(save, linear, 4 + 8 * u64::from(target.cpl), 4)?;
    let stack_selector = selector(tss_word(save, linear, 8 + 8 * u64::from(target.cpl), 4)?);
    let descriptor = read_descriptor(save, linear, stack_selector)?;
    Ok((Some(segment(stack_selector, descriptor)), stack))
}

fn tss_word(save: &SaveArea, linear: &Linear<'_>, offset: u64, size: u64) -> Result<u64, Nested> {
    if offset + size - 1 > u64::from(save.tr.limit) {
        return Err(Nested::DoubleFault);
    }
    let mut bytes = [0; 8];
    let len = if size == 8 { 8 } else { 4 };
    linear
        .read(
            save.tr.base.wrapping_add(offset),
            &mut bytes[..len],
            Use::Read,
            Privilege::Supervisor,
        )
        .map_err(nested)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_descriptor(save: &SaveArea, linear: &Linear<'_>, selector: u16) -> Result<u64, Nested> {
    let table = if selector & 4 == 0 {
        &save.gdtr
    } else {
        &save.ldtr
    };
    let offset = u64::from(selector & !7);
    if selector & !3 == 0 || offset + 7 > u64::from(table.limit) {
        return Err(Nested::DoubleFault);
    }
    linear
        .read_u64(table.base.wrapping_add(offset))
        .map_err(nested)
}

fn push(linear: &Linear<'_>, stack: u64, frame: &[u64; 6]) -> Result<u64, Nested> {
    let mut bytes = [0; 48];
    for (to, word) in bytes.chunks_exact_mut(8).zip(frame) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let top = stack.wrapping_sub(48);
    linear
        .write(top, &bytes, Privilege::Supervisor)
        .map_err(nested)?;
    Ok(top)
}

fn push_legacy(
    linear: &Linear<'_>,
    save: &SaveArea,
    stack: u64,
    segment: Option<&Segment>,
    frame: &[u32],
) -> Result<u64, Nested> {
    let mut bytes = [0; 24];
    for (to, word) in bytes.chunks_exact_mut(4).zip(frame) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let len = frame.len() * 4;
    let top = stack.wrapping_sub(len as u64) & 0xFFFF_FFFF;
    let base = segment.unwrap_or(&save.ss).base;
    linear
        .write(
            base.wrapping_add(top) & 0xFFFF_FFFF,
            &bytes[..len],
            Privilege::Supervisor,
        )
        .map_err(nested)?;
    Ok(top)
}

/// A segment register from a descriptor.
fn segment(selector: u16, descriptor: u64) -> Segment {
    let attributes = (descriptor >> 40 & 0xFF) | (descriptor >> 44 & 0xF00);
    let limit = low(descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000);
    let granular = descriptor >> 55 & 1 == 1;
    Segment {
        selector,
        attributes: u16::try_from(attributes).unwrap_or(0),
        limit: if granular { limit << 12 | 0xFFF } else { limit },
        base: descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000,
    }
}

fn nested(fault: LinearFault) -> Nested {
    match fault {
        LinearFault::Page { fault, address } => Nested::PageFault {
            code: fault.code,
            address,
        },
        LinearFault::Nested(_) => Nested::Shutdown,
    }
}

fn selector(word: u64) -> u16 {
    let [low, high, ..] = word.to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn byte(word: u64) -> u8 {
    word.to_le_bytes()[0]
}

fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
