//! Port accesses (APM vol. 2, 15.10.2).

use stockade_abi::exit::IoioInfo;

use super::{Direction, direction};

/// A port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// First port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// In or out.
    pub direction: Direction,
    /// For INS and OUTS, where the memory side is.
    pub string: Option<StringIo>,
}

/// The memory side of INS and OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// REP prefix: RCX counts.
    pub rep: bool,
    /// Width of the address register, 2, 4 or 8 bytes.
    pub address_size: u8,
    /// Segment: ES, CS, SS, DS, FS, GS from 0.
    pub segment: u8,
}

impl IoAccess {
    /// Decodes EXITINFO1; `None` unless exactly one operand size, and for strings one address size, is named.
    #[must_use]
    pub fn from_info(info: IoioInfo) -> Option<Self> {
        let width = one_of(info.size8(), info.size16(), info.size32(), [1, 2, 4])?;
        let string = if info.string() {
            Some(StringIo {
                rep: info.rep(),
                address_size: one_of(
                    info.address16(),
                    info.address32(),
                    info.address64(),
                    [2, 4, 8],
                )?,
                segment: info.segment(),
            })
        } else {
            None
        };
        Some(Self {
            port: info.port(),
            width,
            direction: direction(u64::from(!info.is_in())),
            string,
        })
    }
}

const fn one_of(first: bool, second: bool, third: bool, values: [u8; 3]) -> Option<u8> {
    match (first, second, third) {
        (true, false, false) => Some(values[0]),
        (false, true, false) => Some(values[1]),
        (false, false, true) => Some(values[2]),
        _ => None,
    }
}
