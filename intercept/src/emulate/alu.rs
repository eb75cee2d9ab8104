//! Integer arithmetic with exact flags: pure functions of operands and flags.
//!
//! APM vol. 3, general-purpose instructions. Flags the manual leaves undefined are set as AMD processors do where that is known
//! (AF is cleared by logic and shifts) and left alone elsewhere.

use super::flags::{FlagChange, Flags, Width};

/// A two-operand operation that leaves all six status flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Adc,
    Sub,
    Sbb,
    And,
    Or,
    Xor,
}

/// A result and what it does to the flags.
pub(super) type Answer = (u64, FlagChange);

/// Computes `left op right`; `flags` are those before the instruction.
pub(super) fn binary(op: Binary, left: u64, right: u64, flags: Flags, width: Width) -> Answer {
    let carry = u64::from(flags.contains(Flags::CARRY));
    match op {
        Binary::Add => add(left, right, 0, width),
        Binary::Adc => add(left, right, carry, width),
        Binary::Sub => subtract(left, right, 0, width),
        Binary::Sbb => subtract(left, right, carry, width),
        Binary::And => logic(left & right, width),
        Binary::Or => logic(left | right, width),
        Binary::Xor => logic(left ^ right, width),
    }
}

fn add(left: u64, right: u64, carry: u64, width: Width) -> Answer {
    let (left, right) = (left & width.mask(), right & width.mask());
    let sum = left.wrapping_add(right).wrapping_add(carry) & width.mask();
    // The carry out of each bit, from the inputs and the sum.
    let carries = (left & right) | ((left | right) & !sum);
    let overflow = (left ^ sum) & (right ^ sum);
    (sum, arithmetic(sum, carries, overflow, width))
}

fn subtract(left: u64, right: u64, borrow: u64, width: Width) -> Answer {
    let (left, right) = (left & width.mask(), right & width.mask());
    let difference = left.wrapping_sub(right).wrapping_sub(borrow) & width.mask();
    let borrows = (!left & right) | ((!left | right) & difference);
    let overflow = (left ^ right) & (left ^ difference);
    (difference, arithmetic(difference, borrows, overflow, width))
}

fn arithmetic(result: u64, carries: u64, overflow: u64, width: Width) -> FlagChange {
    let value = Flags::of_result(result, width)
        | Flags::CARRY.when(carries & width.sign() != 0)
        | Flags::ADJUST.when(carries & 8 != 0)
        | Flags::OVERFLOW.when(overflow & width.sign() != 0);
    FlagChange::new(Flags::STATUS, value)
}

fn logic(result: u64, width: Width) -> Answer {
    let result = result & width.mask();
    let change = FlagChange::new(Flags::STATUS, Flags::of_result(result, width));
    (result, change)
}

/// Computes `value + 1`; CF stays.
pub(super) fn increment(value: u64, width: Width) -> Answer {
    keep_carry(add(value, 1, 0, width))
}

/// Computes `value - 1`; CF stays.
pub(super) fn decrement(value: u64, width: Width) -> Answer {
    keep_carry(subtract(value, 1, 0, width))
}

fn keep_carry((value, change): Answer) -> Answer {
    let mask = change.mask - Flags::CARRY;
    (value, FlagChange::new(mask, change.value & mask))
}

/// Computes `0 - value`.
pub(super) fn negate(value: u64, width: Width) -> Answer {
    subtract(0, value, 0, width)
}

/// Multiplies two signed numbers and keeps the low half; CF and OF say that something was lost.
pub(super) fn multiply_signed(left: u64, right: u64, width: Width) -> Answer {
    let (low, high) = wide_signed(left, right, width);
    let is_lost = high != sign_fill(low, width);
    (low, multiply_flags(is_lost))
}

/// Multiplies two signed numbers: low half, high half, flags.
pub(super) fn multiply_signed_wide(left: u64, right: u64, width: Width) -> (u64, u64, FlagChange) {
    let (low, high) = wide_signed(left, right, width);
    (low, high, multiply_flags(high != sign_fill(low, width)))
}

/// Multiplies two unsigned numbers: low half, high half, flags.
pub(super) fn multiply_wide(left: u64, right: u64, width: Width) -> (u64, u64, FlagChange) {
    let product = u128::from(left & width.mask()) * u128::from(right & width.mask());
    let (low, high) = halves(product, width);
    (low, high, multiply_flags(high != 0))
}

fn wide_signed(left: u64, right: u64, width: Width) -> (u64, u64) {
    let signed = |value| i128::from(width.sign_extend(value).cast_signed());
    halves((signed(left) * signed(right)).cast_unsigned(), width)
}

fn sign_fill(low: u64, width: Width) -> u64 {
    if low & width.sign() != 0 {
        width.mask()
    } else {
        0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to the operand's width"
)]
fn halves(value: u128, width: Width) -> (u64, u64) {
    (
        value as u64 & width.mask(),
        (value >> width.bits()) as u64 & width.mask(),
    )
}

fn multiply_flags(is_lost: bool) -> FlagChange {
    let mask = Flags::CARRY | Flags::OVERFLOW;
    FlagChange::new(mask, mask.when(is_lost))
}

/// Divides `high:low` by `divisor`: quotient and remainder, or `None` for a divide error.
pub(super) fn divide(high: u64, low: u64, divisor: u64, width: Width) -> Option<(u64, u64)> {
    let dividend = join(high, low, width);
    let divisor = u128::from(divisor & width.mask());
    let quotient = dividend.checked_div(divisor)?;
    let remainder = dividend.checked_rem(divisor)?;
    let quotient = u64::try_from(quotient).ok()?;
    let remainder = u64::try_from(remainder).ok()?;
    (quotient <= width.mask()).then_some((quotient, remainder))
}

/// Divides the signed `high:low` by `divisor`: quotient and remainder, or `None` for a divide error.
pub(super) fn divide_signed(high: u64, low: u64, divisor: u64, width: Width) -> Option<(u64, u64)> {
    let unused = 128 - 2 * width.bits();
    let dividend = (join(high, low, width) << unused).cast_signed() >> unused;
    let divisor = i128::from(width.sign_extend(divisor).cast_signed());
    let quotient = i64::try_from(dividend.checked_div(divisor)?).ok()?;
    let remainder = i64::try_from(dividend.checked_rem(divisor)?).ok()?;
    let quotient = quotient.cast_unsigned();
    let fits = width.sign_extend(quotient) == quotient;
    fits.then_some((
        quotient & width.mask(),
        remainder.cast_unsigned() & width.mask(),
    ))
}

fn join(high: u64, low: u64, width: Width) -> u128 {
    u128::from(high & width.mask()) << width.bits() | u128::from(low & width.mask())
}
