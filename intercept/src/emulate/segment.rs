//! From segment and offset to a linear address, with the checks of each mode.
//!
//! APM vol. 2, 4.5 to 4.12 (segmentation), 5.3.1 (canonical addresses).

use iced_x86::Register;
use stockade_abi::vmsa::Segment;

use super::registers::{CodeMode, Cpu};
use super::{Exception, Stop};
use crate::walk::Access;

const KIND_CODE: u8 = 1 << 3;
const KIND_EXPAND_DOWN: u8 = 1 << 2;
const KIND_READ_OR_WRITE: u8 = 1 << 1;

impl Cpu<'_> {
    /// Returns the linear address of `len` bytes at `offset` of a segment, or the exception the access deserves.
    pub(super) fn linear(
        &self,
        name: Register,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<u64, Stop> {
        let segment = self.segment(name)?;
        let last = (len as u64).saturating_sub(1);
        if self.mode == CodeMode::Bits64 {
            return self.linear_long(name, segment, offset, last);
        }
        let is_allowed = self.allows(name, segment, access) && fits(segment, offset, last);
        if !is_allowed {
            return Err(Stop::Exception(segment_exception(name)));
        }
        Ok(segment.base.wrapping_add(offset) & 0xFFFF_FFFF)
    }

    fn linear_long(
        &self,
        name: Register,
        segment: Segment,
        offset: u64,
        last: u64,
    ) -> Result<u64, Stop> {
        let base = match name {
            Register::FS | Register::GS => segment.base,
            _ => 0,
        };
        let linear = base.wrapping_add(offset);
        if self.walk.is_canonical(linear) && self.walk.is_canonical(linear.wrapping_add(last)) {
            Ok(linear)
        } else {
            Err(Stop::Exception(segment_exception(name)))
        }
    }

    /// Checks presence and type; in real and virtual 8086 mode there are none.
    fn allows(&self, name: Register, segment: Segment, access: Access) -> bool {
        if !self.is_protected() {
            return true;
        }
        let attributes = segment.attributes;
        let is_code = attributes.kind() & KIND_CODE != 0;
        let has_right = attributes.kind() & KIND_READ_OR_WRITE != 0;
        let is_allowed = match access {
            Access::Read => !is_code || has_right,
            Access::Write => !is_code && has_right,
            Access::Fetch => name == Register::CS,
        };
        attributes.present() && is_allowed
    }

    /// Returns the stack pointer's mask: SS.B decides outside 64-bit mode.
    pub(super) fn stack_mask(&self) -> u64 {
        if self.mode == CodeMode::Bits64 {
            u64::MAX
        } else if self.vmsa.ss.attributes.default_big() {
            0xFFFF_FFFF
        } else {
            0xFFFF
        }
    }
}

/// Checks the limit: data segments that expand down have their valid offsets above it.
fn fits(segment: Segment, offset: u64, last: u64) -> bool {
    let limit = u64::from(segment.limit);
    let Some(end) = offset.checked_add(last) else {
        return false;
    };
    let kind = segment.attributes.kind();
    if kind & (KIND_CODE | KIND_EXPAND_DOWN) != KIND_EXPAND_DOWN {
        return end <= limit;
    }
    let top = if segment.attributes.default_big() {
        0xFFFF_FFFF
    } else {
        0xFFFF
    };
    offset > limit && end <= top
}

fn segment_exception(name: Register) -> Exception {
    if name == Register::SS {
        Exception::STACK
    } else {
        Exception::GENERAL_PROTECTION
    }
}
