//! Shifts and rotates with exact flags: pure functions.
//!
//! APM vol. 3: SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD. A count of zero (after masking) changes nothing, flags included.
//! OF is defined for counts of one only; for others it is that of the last one-bit step. AF, undefined, is cleared by shifts.

use super::alu::Answer;
use super::flags::{FlagChange, Flags, Width};

/// A shift or rotate by a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    Left,
    Right,
    ArithmeticRight,
    RotateLeft,
    RotateRight,
    RotateCarryLeft,
    RotateCarryRight,
}

/// Shifts `value`; `flags` are those before the instruction.
pub(super) fn shift(op: Shift, value: u64, count: u64, flags: Flags, width: Width) -> Answer {
    let value = value & width.mask();
    let count = masked(count, width);
    if count == 0 {
        return (value, FlagChange::NONE);
    }
    match op {
        Shift::Left => left(value, count, width),
        Shift::Right => right(value, count, width),
        Shift::ArithmeticRight => arithmetic_right(value, count, width),
        Shift::RotateLeft => rotate_left(value, count, width),
        Shift::RotateRight => rotate_right(value, count, width),
        Shift::RotateCarryLeft => through_carry_left(value, count, flags, width),
        Shift::RotateCarryRight => through_carry_right(value, count, flags, width),
    }
}

/// Returns the count the processor uses: five bits, six for 64-bit operands.
#[expect(clippy::cast_possible_truncation, reason = "masked to six bits")]
fn masked(count: u64, width: Width) -> u32 {
    let mask = if width == Width::Qword { 63 } else { 31 };
    (count & mask) as u32
}

fn left(value: u64, count: u32, width: Width) -> Answer {
    let wide = u128::from(value) << count;
    let result = narrow(wide, width);
    let is_carry = wide & (1 << width.bits()) != 0;
    let is_overflow = (result & width.sign() != 0) != is_carry;
    (result, shifted(result, is_carry, is_overflow, width))
}

fn right(value: u64, count: u32, width: Width) -> Answer {
    let before_last = value >> (count - 1);
    let result = before_last >> 1;
    let is_overflow = before_last & width.sign() != 0;
    let change = shifted(result, before_last & 1 != 0, is_overflow, width);
    (result, change)
}

fn arithmetic_right(value: u64, count: u32, width: Width) -> Answer {
    let before_last = width.sign_extend(value).cast_signed() >> (count - 1);
    let result = (before_last >> 1).cast_unsigned() & width.mask();
    (result, shifted(result, before_last & 1 != 0, false, width))
}

fn rotate_left(value: u64, count: u32, width: Width) -> Answer {
    let result = turned_left(value, count % width.bits(), width);
    let is_carry = result & 1 != 0;
    let is_overflow = (result & width.sign() != 0) != is_carry;
    (result, rotated(is_carry, is_overflow))
}

fn rotate_right(value: u64, count: u32, width: Width) -> Answer {
    let places = (width.bits() - count % width.bits()) % width.bits();
    let result = turned_left(value, places, width);
    (
        result,
        rotated(result & width.sign() != 0, top_bits_differ(result, width)),
    )
}

fn turned_left(value: u64, places: u32, width: Width) -> u64 {
    let wide = u128::from(value) << places;
    narrow(wide | (wide >> width.bits()), width)
}

fn through_carry_left(value: u64, count: u32, flags: Flags, width: Width) -> Answer {
    let places = width.bits() + 1;
    let (result, is_carry) = ring(value, count % places, flags, width);
    let is_overflow = (result & width.sign() != 0) != is_carry;
    (result, rotated(is_carry, is_overflow))
}

fn through_carry_right(value: u64, count: u32, flags: Flags, width: Width) -> Answer {
    let places = width.bits() + 1;
    let (result, is_carry) = ring(value, places - count % places, flags, width);
    (result, rotated(is_carry, top_bits_differ(result, width)))
}

/// Rotates the carry flag and the value, as one ring, to the left.
fn ring(value: u64, places: u32, flags: Flags, width: Width) -> (u64, bool) {
    let carry = u128::from(flags.contains(Flags::CARRY));
    let length = width.bits() + 1;
    let ring = (carry << width.bits()) | u128::from(value);
    let turned = (ring << places) | (ring >> (length - places));
    (narrow(turned, width), turned & (1 << width.bits()) != 0)
}

/// Shifts `value` left and fills from the top of `fill`.
pub(super) fn double_left(value: u64, fill: u64, count: u64, width: Width) -> Answer {
    let count = masked(count, width);
    if count == 0 {
        return (value & width.mask(), FlagChange::NONE);
    }
    let pair = pair(value, fill, width);
    let wide = pair << (count - 1);
    let is_carry = wide & (1 << (2 * width.bits() - 1)) != 0;
    let result = narrow((wide << 1) >> width.bits(), width);
    let is_overflow = (result & width.sign() != 0) != is_carry;
    (result, shifted(result, is_carry, is_overflow, width))
}

/// Shifts `value` right and fills from the bottom of `fill`.
pub(super) fn double_right(value: u64, fill: u64, count: u64, width: Width) -> Answer {
    let count = masked(count, width);
    if count == 0 {
        return (value & width.mask(), FlagChange::NONE);
    }
    let before_last = pair(fill, value, width) >> (count - 1);
    let result = narrow(before_last >> 1, width);
    let is_overflow = top_bits_differ(result, width);
    let change = shifted(result, before_last & 1 != 0, is_overflow, width);
    (result, change)
}

fn pair(high: u64, low: u64, width: Width) -> u128 {
    u128::from(high & width.mask()) << width.bits() | u128::from(low & width.mask())
}

fn top_bits_differ(value: u64, width: Width) -> bool {
    (value ^ (value << 1)) & width.sign() != 0
}

fn shifted(result: u64, is_carry: bool, is_overflow: bool, width: Width) -> FlagChange {
    let value = Flags::of_result(result, width)
        | Flags::CARRY.when(is_carry)
        | Flags::OVERFLOW.when(is_overflow);
    FlagChange::new(Flags::STATUS, value)
}

fn rotated(is_carry: bool, is_overflow: bool) -> FlagChange {
    let value = Flags::CARRY.when(is_carry) | Flags::OVERFLOW.when(is_overflow);
    FlagChange::new(Flags::CARRY | Flags::OVERFLOW, value)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to the operand's width"
)]
fn narrow(value: u128, width: Width) -> u64 {
    value as u64 & width.mask()
}
