//! RFLAGS and operand widths, the small change of arithmetic.

bitflags::bitflags! {
    /// RFLAGS. APM vol. 2, 3.1.6.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u64 {
        const CARRY = 1 << 0;
        const PARITY = 1 << 2;
        const ADJUST = 1 << 4;
        const ZERO = 1 << 6;
        const SIGN = 1 << 7;
        const TRAP = 1 << 8;
        const DIRECTION = 1 << 10;
        const OVERFLOW = 1 << 11;
        const RESUME = 1 << 16;
        const VIRTUAL_8086 = 1 << 17;
        const ALIGNMENT_CHECK = 1 << 18;
    }
}

impl Flags {
    /// The six flags arithmetic changes.
    pub(super) const STATUS: Self = Self::CARRY
        .union(Self::PARITY)
        .union(Self::ADJUST)
        .union(Self::ZERO)
        .union(Self::SIGN)
        .union(Self::OVERFLOW);

    /// Returns the flags if `is_set`, else none.
    pub(super) fn when(self, is_set: bool) -> Self {
        if is_set { self } else { Self::empty() }
    }

    /// Returns sign, zero and parity of a result.
    pub(super) fn of_result(value: u64, width: Width) -> Self {
        Self::SIGN.when(value & width.sign() != 0)
            | Self::ZERO.when(value & width.mask() == 0)
            | Self::PARITY.when((value & 0xFF).count_ones().is_multiple_of(2))
    }
}

/// Flags an instruction changes, and what to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlagChange {
    /// The flags changed; the others stay.
    pub(super) mask: Flags,
    /// Their new values, within the mask.
    pub(super) value: Flags,
}

impl FlagChange {
    pub(super) const NONE: Self = Self {
        mask: Flags::empty(),
        value: Flags::empty(),
    };

    pub(super) fn new(mask: Flags, value: Flags) -> Self {
        Self { mask, value }
    }

    /// Returns RFLAGS after the change.
    pub(super) fn apply(self, rflags: u64) -> u64 {
        (rflags & !self.mask.bits()) | (self.value & self.mask).bits()
    }
}

/// The width of an integer operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Byte,
    Word,
    Dword,
    Qword,
}

impl Width {
    pub(super) const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            8 => Some(Self::Qword),
            _ => None,
        }
    }

    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    pub(super) const fn bits(self) -> u32 {
        match self {
            Self::Byte => 8,
            Self::Word => 16,
            Self::Dword => 32,
            Self::Qword => 64,
        }
    }

    pub(super) const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    pub(super) const fn sign(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// Returns the value's bits of this width, sign-extended to 64.
    pub(super) const fn sign_extend(self, value: u64) -> u64 {
        let unused = 64 - self.bits();
        ((value << unused).cast_signed() >> unused).cast_unsigned()
    }
}
