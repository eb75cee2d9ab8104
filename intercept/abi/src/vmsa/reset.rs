//! The state of a processor after RESET or INIT, where it is not zero (APM vol. 2, 14.1.3, tables 14-1 and 14-2).

use super::{Segment, SegmentAttributes};

/// Code segment: the top 64 KiB below 4 GiB.
pub const CS: Segment = segment(0xF000, 0x9B, 0xFFFF_0000);
/// DS, ES, FS, GS and SS.
pub const DATA: Segment = segment(0, 0x93, 0);
/// LDTR.
pub const LDTR: Segment = segment(0, 0x82, 0);
/// TR: a busy task state segment, or VMRUN refuses the state.
pub const TR: Segment = segment(0, 0x8B, 0);
/// GDTR and IDTR.
pub const TABLE: Segment = segment(0, 0, 0);
/// Instruction pointer.
pub const RIP: u64 = 0xFFF0;
/// RFLAGS: bit 1 reads as one.
pub const RFLAGS: u64 = 2;
/// CR0: caches off, ET.
pub const CR0: u64 = 0x6000_0010;
/// DR6.
pub const DR6: u64 = 0xFFFF_0FF0;
/// DR7.
pub const DR7: u64 = 0x400;
/// Page attribute table.
pub const PAT: u64 = 0x0007_0406_0007_0406;
/// XCR0: x87 only.
pub const XCR0: u64 = 1;
/// SSE control and status.
pub const MXCSR: u32 = 0x1F80;
/// x87 control word after RESET (FNINIT makes 37Fh of it).
pub const FCW: u16 = 0x40;
/// x87 tag word after RESET.
pub const FTW: u16 = 0x5555;
/// EFER.SVME: a VMSA without it cannot be run (APM vol. 2, 15.5.1); hidden from the guest.
pub const EFER_SVME: u64 = 1 << 12;

const fn segment(selector: u16, attributes: u16, base: u64) -> Segment {
    Segment {
        selector,
        attributes: SegmentAttributes::from_bits(attributes),
        limit: 0xFFFF,
        base,
    }
}

/// Returns the code segment after a start-up IPI with `vector` (APM vol. 2, 16.5): RIP is 0 there.
#[must_use]
pub const fn startup_cs(vector: u8) -> Segment {
    segment((vector as u16) << 8, 0x9B, (vector as u64) << 12)
}
