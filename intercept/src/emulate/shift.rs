//! Shifts and rotates with exact flags: pure functions.
//!
//! APM vol. 3: SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD. A count of zero (after masking) changes nothing, flags included.
//! What the manual leaves undefined is as AMD processors were seen to do it: OF is that of the last one-bit step, and shifts set AF.
//! Only 16-bit double shifts by more than 16, whose very result is undefined, are not.

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
    let turned = turned_pair(value, fill, count, width);
    let is_carry = turned & 1 != 0;
    let result = narrow(turned >> width.bits(), width);
    let is_overflow = (result & width.sign() != 0) != is_carry;
    (result, shifted(result, is_carry, is_overflow, width))
}

/// Shifts `value` right and fills from the bottom of `fill`.
pub(super) fn double_right(value: u64, fill: u64, count: u64, width: Width) -> Answer {
    let count = masked(count, width);
    if count == 0 {
        return (value & width.mask(), FlagChange::NONE);
    }
    let turned = turned_pair(fill, value, 2 * width.bits() - count, width);
    let is_carry = (turned >> width.bits()) & u128::from(width.sign()) != 0;
    let result = narrow(turned, width);
    let is_overflow = top_bits_differ(result, width);
    (result, shifted(result, is_carry, is_overflow, width))
}

/// Rotates two operands to the left as one ring.
fn turned_pair(high: u64, low: u64, places: u32, width: Width) -> u128 {
    let length = 2 * width.bits();
    let pair = u128::from(high & width.mask()) << width.bits() | u128::from(low & width.mask());
    ((pair << places) | (pair >> (length - places))) & (u128::MAX >> (128 - length))
}

fn top_bits_differ(value: u64, width: Width) -> bool {
    (value ^ (value << 1)) & width.sign() != 0
}

fn shifted(result: u64, is_carry: bool, is_overflow: bool, width: Width) -> FlagChange {
    let value = Flags::of_result(result, width)
        | Flags::ADJUST
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHIFTS: [Shift; 7] = [
        Shift::Left,
        Shift::Right,
        Shift::ArithmeticRight,
        Shift::RotateLeft,
        Shift::RotateRight,
        Shift::RotateCarryLeft,
        Shift::RotateCarryRight,
    ];

    /// One bit at a time, as the manual explains it: value, carry, overflow.
    fn one_step(op: Shift, value: u64, carry: bool, width: Width) -> (u64, bool, bool) {
        let top = value & width.sign() != 0;
        let bottom = value & 1 != 0;
        let left = (value << 1) & width.mask();
        let right = value >> 1;
        let at_top = |is_set: bool| if is_set { width.sign() } else { 0 };
        let (result, carry) = match op {
            Shift::Left => (left, top),
            Shift::Right => (right, bottom),
            Shift::ArithmeticRight => (right | at_top(top), bottom),
            Shift::RotateLeft => (left | u64::from(top), top),
            Shift::RotateRight => (right | at_top(bottom), bottom),
            Shift::RotateCarryLeft => (left | u64::from(carry), top),
            Shift::RotateCarryRight => (right | at_top(carry), bottom),
        };
        let is_overflow = (result & width.sign() != 0) != top;
        (result, carry, is_overflow)
    }

    fn check(op: Shift, value: u64, count: u64, flags: Flags, width: Width) {
        let mask = if width == Width::Qword { 63 } else { 31 };
        let mut state = (value, flags.contains(Flags::CARRY), false);
        for _ in 0..count & mask {
            state = one_step(op, state.0, state.1, width);
        }
        let (result, is_carry, is_overflow) = state;
        let mut expected = Flags::CARRY.when(is_carry) | Flags::OVERFLOW.when(is_overflow);
        let mut changed = Flags::CARRY | Flags::OVERFLOW;
        if matches!(op, Shift::Left | Shift::Right | Shift::ArithmeticRight) {
            changed = Flags::STATUS;
            expected |= Flags::of_result(result, width) | Flags::ADJUST;
        }
        let (got, change) = shift(op, value, count, flags, width);
        assert_eq!(got, result, "{op:?} {value:#x} {count} {flags:?} {width:?}");
        if count & mask == 0 {
            assert_eq!(change, FlagChange::NONE);
        } else {
            let expected = FlagChange::new(changed, expected);
            assert_eq!(change, expected, "{op:?} {value:#x} {count} {width:?}");
        }
    }

    #[test]
    fn every_byte_by_every_count_is_so_many_single_steps() {
        for op in SHIFTS {
            for value in 0..=255 {
                for count in 0..=255 {
                    check(op, value, count, Flags::empty(), Width::Byte);
                    check(op, value, count, Flags::STATUS, Width::Byte);
                }
            }
        }
    }

    #[test]
    fn wider_values_by_every_count_are_so_many_single_steps() {
        let values = [
            0,
            1,
            2,
            0x5555_5555_5555_5555,
            0x8000_8000_8000_8000,
            !0,
            !1,
        ];
        for width in [Width::Word, Width::Dword, Width::Qword] {
            for op in SHIFTS {
                for value in values {
                    for count in 0..=255 {
                        check(op, value & width.mask(), count, Flags::empty(), width);
                        check(op, value & width.mask(), count, Flags::CARRY, width);
                    }
                }
            }
        }
    }

    #[test]
    fn double_shifts_move_single_bits_from_one_operand_to_the_other() {
        for width in [Width::Word, Width::Dword, Width::Qword] {
            let value = 0x8421_C639_0F5A_1E87 & width.mask();
            let fill = 0xF012_3456_789A_BCDE & width.mask();
            for count in 0..u64::from(width.bits()) {
                let (mut left, mut right) = ((value, fill), (value, fill));
                let (mut out_left, mut out_right) = (false, false);
                for _ in 0..count {
                    out_left = left.0 & width.sign() != 0;
                    let carried = u64::from(left.1 & width.sign() != 0);
                    left = (
                        ((left.0 << 1) | carried) & width.mask(),
                        (left.1 << 1) & width.mask(),
                    );
                    out_right = right.0 & 1 != 0;
                    let carried = if right.1 & 1 != 0 { width.sign() } else { 0 };
                    right = ((right.0 >> 1) | carried, right.1 >> 1);
                }
                let (got, change) = double_left(value, fill, count, width);
                assert_eq!(got, left.0);
                assert_eq!(change.value.contains(Flags::CARRY), out_left);
                let (got, change) = double_right(value, fill, count, width);
                assert_eq!(got, right.0);
                assert_eq!(change.value.contains(Flags::CARRY), out_right);
            }
        }
    }

    #[test]
    fn double_shift_by_one_overflows_when_the_sign_changes() {
        let (_, same) = double_left(0x4000_0000, 0, 2, Width::Qword);
        assert!(!same.value.contains(Flags::OVERFLOW));
        let (_, left) = double_left(0x4000, 0, 1, Width::Word);
        assert!(left.value.contains(Flags::OVERFLOW));
        let (_, right) = double_right(0x4000, 1, 1, Width::Word);
        assert!(right.value.contains(Flags::OVERFLOW));
    }
}
