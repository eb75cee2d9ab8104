//! Integer arithmetic with exact flags: pure functions of operands and flags.
//!
//! APM vol. 3, general-purpose instructions. Flags the manual leaves undefined are set as AMD processors do where that is known
//! (logic clears AF) and left alone elsewhere.

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

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests")]
mod tests {
    use super::*;

    const OPERATIONS: [Binary; 7] = [
        Binary::Add,
        Binary::Adc,
        Binary::Sub,
        Binary::Sbb,
        Binary::And,
        Binary::Or,
        Binary::Xor,
    ];

    /// The definition in the manual's words: sums in wider integers, signed and unsigned.
    fn reference(op: Binary, left: u8, right: u8, carry: bool) -> (u8, Flags) {
        let (l, r) = (i32::from(left), i32::from(right));
        let (sl, sr) = (
            i32::from(left.cast_signed()),
            i32::from(right.cast_signed()),
        );
        let c = i32::from(carry && matches!(op, Binary::Adc | Binary::Sbb));
        let (unsigned, signed, nibble) = match op {
            Binary::Add | Binary::Adc => (l + r + c, sl + sr + c, (l & 15) + (r & 15) + c),
            Binary::Sub | Binary::Sbb => (l - r - c, sl - sr - c, (l & 15) - (r & 15) - c),
            Binary::And => (l & r, sl & sr, 0),
            Binary::Or => (l | r, sl | sr, 0),
            Binary::Xor => (l ^ r, sl ^ sr, 0),
        };
        let result = unsigned.rem_euclid(256) as u8;
        let mut flags = Flags::empty();
        flags.set(Flags::CARRY, !(0..256).contains(&unsigned));
        flags.set(Flags::OVERFLOW, !(-128..128).contains(&signed));
        flags.set(Flags::ADJUST, !(0..16).contains(&nibble));
        flags.set(Flags::ZERO, result == 0);
        flags.set(Flags::SIGN, result >= 128);
        let mut ones = 0;
        for bit in 0..8 {
            ones += (result >> bit) & 1;
        }
        flags.set(Flags::PARITY, ones % 2 == 0);
        (result, flags)
    }

    #[test]
    fn every_pair_of_bytes_has_the_result_and_flags_of_the_definition() {
        for op in OPERATIONS {
            for left in 0..=255 {
                for right in 0..=255 {
                    for carry in [false, true] {
                        let flags = Flags::CARRY.when(carry);
                        let got = binary(op, left.into(), right.into(), flags, Width::Byte);
                        let (value, expected) = reference(op, left, right, carry);
                        let change = FlagChange::new(Flags::STATUS, expected);
                        assert_eq!(got, (value.into(), change), "{op:?} {left} {right} {carry}");
                    }
                }
            }
        }
    }

    /// A byte operation moved up to the top of a wider one has the same sign, carry and overflow.
    #[test]
    fn wider_operations_agree_with_bytes_at_their_top() {
        let seen = Flags::CARRY | Flags::SIGN | Flags::OVERFLOW | Flags::ZERO;
        for width in [Width::Word, Width::Dword, Width::Qword] {
            let up = width.bits() - 8;
            for op in [
                Binary::Add,
                Binary::Sub,
                Binary::And,
                Binary::Or,
                Binary::Xor,
            ] {
                for left in 0..=255_u64 {
                    for right in 0..=255_u64 {
                        let none = Flags::empty();
                        let (value, change) = binary(op, left << up, right << up, none, width);
                        let (byte, expected) = binary(op, left, right, none, Width::Byte);
                        assert_eq!(value, byte << up);
                        assert_eq!(change.value & seen, expected.value & seen);
                    }
                }
            }
        }
    }

    #[test]
    fn bits_above_the_width_do_not_count() {
        let high = 0xABCD_0000_0000_0000;
        for op in OPERATIONS {
            let clean = binary(op, 0x7F, 0x81, Flags::CARRY, Width::Byte);
            let dirty = binary(op, 0x7F | high, 0x81 | !0xFF, Flags::CARRY, Width::Byte);
            assert_eq!(clean, dirty);
        }
    }

    #[test]
    fn increment_and_decrement_leave_the_carry() {
        for value in 0..=255_u64 {
            let (up, change) = increment(value, Width::Byte);
            let (sum, added) = binary(Binary::Add, value, 1, Flags::empty(), Width::Byte);
            assert_eq!(up, sum);
            assert_eq!(change.mask, Flags::STATUS - Flags::CARRY);
            assert_eq!(change.value, added.value - Flags::CARRY);
            let (down, change) = decrement(value, Width::Byte);
            let (difference, taken) = binary(Binary::Sub, value, 1, Flags::empty(), Width::Byte);
            assert_eq!(down, difference);
            assert_eq!(change.value, taken.value - Flags::CARRY);
        }
    }

    #[test]
    fn every_pair_of_bytes_multiplies() {
        let lost = Flags::CARRY | Flags::OVERFLOW;
        for left in 0..=255_u8 {
            for right in 0..=255_u8 {
                let product = u16::from(left) * u16::from(right);
                let (low, high, change) = multiply_wide(left.into(), right.into(), Width::Byte);
                assert_eq!(low | high << 8, product.into());
                assert_eq!(change.value, lost.when(product > 255));

                let (sl, sr) = (left.cast_signed(), right.cast_signed());
                let product = i16::from(sl) * i16::from(sr);
                let (low, high, change) =
                    multiply_signed_wide(left.into(), right.into(), Width::Byte);
                assert_eq!(low | high << 8, product.cast_unsigned().into());
                let expected = lost.when(sl.checked_mul(sr).is_none());
                assert_eq!(change.value, expected);
                let short = multiply_signed(left.into(), right.into(), Width::Byte);
                assert_eq!((short.0, short.1.value), (low, expected));
            }
        }
    }

    #[test]
    fn every_small_dividend_divides_as_integers_do() {
        for dividend in (0..=0xFFFF_u16).step_by(7) {
            for divisor in 0..=255_u8 {
                let (high, low) = (u64::from(dividend >> 8), u64::from(dividend & 0xFF));
                let wide = u16::from(divisor);
                let expected = dividend
                    .checked_div(wide)
                    .filter(|quotient| *quotient < 256)
                    .map(|quotient| (quotient.into(), (dividend % wide).into()));
                assert_eq!(divide(high, low, divisor.into(), Width::Byte), expected);

                let (top, bottom) = (dividend.cast_signed(), i16::from(divisor.cast_signed()));
                let expected = top
                    .checked_div(bottom)
                    .and_then(|quotient| i8::try_from(quotient).ok())
                    .map(|quotient| {
                        let remainder = (top % bottom) as u8;
                        (quotient.cast_unsigned().into(), remainder.into())
                    });
                let got = divide_signed(high, low, divisor.into(), Width::Byte);
                assert_eq!(got, expected, "{top} / {bottom}");
            }
        }
    }

    #[test]
    fn the_worst_divisions_are_refused() {
        assert_eq!(divide(1, 0, 1, Width::Qword), None);
        assert_eq!(divide(0, 5, 0, Width::Qword), None);
        let top = 1 << 63;
        assert_eq!(divide_signed(top, 0, u64::MAX, Width::Qword), None);
        assert_eq!(divide_signed(u64::MAX, top, u64::MAX, Width::Qword), None);
        let negative = divide_signed(u64::MAX, top, 1, Width::Qword);
        assert_eq!(negative, Some((top, 0)));
    }
}
