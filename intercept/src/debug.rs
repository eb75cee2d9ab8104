//! Debug registers as they bear on an instruction that is carried out here: breakpoints on what it accesses, and the trap behind it
//! (APM vol. 2, 13.1; SDM volume 3, 18.2).
//!
//! Under DebugSwap all of them are in the save area (APM vol. 2, 15.36.1, appendix B). Instruction breakpoints are the processor's,
//! which looks for them before it leaves the guest.

use stockade_abi::vmsa::Vmsa;

const RFLAGS_TF: u64 = 1 << 8;
const CR4_DE: u64 = 1 << 3;
/// Which breakpoints were met.
const DR6_MET: u64 = 0xF;
const DR6_BS: u64 = 1 << 14;
/// Any of the four is enabled, by its local or its global bit.
const DR7_ENABLED: u64 = 0xFF;
const DR7_GD: u64 = 1 << 13;
const DEBUG_CTL_LBR: u64 = 1 << 0;
const DEBUG_CTL_BTF: u64 = 1 << 1;

/// What an instruction did besides going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Execution goes on behind it.
    None,
    /// It branched.
    Branch,
}

/// What a breakpoint waits for, as its R/W field in DR7 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Memory is read.
    Read,
    /// Memory is written, perhaps after a read.
    Write,
    /// A port is accessed.
    Port,
}

/// Returns whether an instruction may end in a trap: it is stepped over, or a breakpoint is enabled.
#[must_use]
pub const fn is_watched(vmsa: &Vmsa) -> bool {
    vmsa.dr7 & DR7_ENABLED != 0 || vmsa.rflags & RFLAGS_TF != 0
}

/// Returns the breakpoints that an access to `addresses` meets, as bits of DR6.
#[inline]
pub(crate) fn met(vmsa: &Vmsa, touch: Touch, addresses: impl Iterator<Item = u64> + Clone) -> u64 {
    if vmsa.dr7 & DR7_ENABLED == 0 {
        return 0;
    }
    compare(vmsa, touch, addresses)
}

#[cold]
fn compare(vmsa: &Vmsa, touch: Touch, addresses: impl Iterator<Item = u64> + Clone) -> u64 {
    let addressed = [
        (vmsa.dr0, vmsa.dr0_addr_mask),
        (vmsa.dr1, vmsa.dr1_addr_mask),
        (vmsa.dr2, vmsa.dr2_addr_mask),
        (vmsa.dr3, vmsa.dr3_addr_mask),
    ];
    let mut met = 0;
    for (number, (address, mask)) in (0_u32..).zip(addressed) {
        let is_enabled = vmsa.dr7 >> (2 * number) & 0b11 != 0;
        let control = vmsa.dr7 >> (16 + 4 * number);
        // Only memory has masks (MSRs C001_1027 and C001_1019 to 101B).
        let mask = if touch == Touch::Port { 0 } else { mask };
        let ignored = mask | bytes_ignored(control >> 2);
        let is_there = |at: u64| (at ^ address) & !ignored == 0;
        if is_enabled && waits_for(control, touch, vmsa.cr4) && addresses.clone().any(is_there) {
            met |= 1 << number;
        }
    }
    met
}

/// R/W: 0 execution, 1 writes, 2 ports if CR4.DE is set, 3 reads and writes.
const fn waits_for(control: u64, touch: Touch, cr4: u64) -> bool {
    match (control & 0b11, touch) {
        (0b01 | 0b11, Touch::Write) | (0b11, Touch::Read) => true,
        (0b10, Touch::Port) => cr4 & CR4_DE != 0,
        _ => false,
    }
}

/// LEN: 1, 2, 8 or 4 bytes from an address that is a multiple of it.
const fn bytes_ignored(length: u64) -> u64 {
    match length & 0b11 {
        0b00 => 0,
        0b01 => 1,
        0b10 => 7,
        _ => 3,
    }
}

/// Ends an instruction that met these breakpoints and began with these flags. Returns whether #DB is due; DR6 then says why.
#[must_use]
pub(crate) fn end(vmsa: &mut Vmsa, met: u64, flags_before: u64, transfer: Transfer) -> bool {
    if met != 0 {
        vmsa.dr6 = vmsa.dr6 & !DR6_MET | met;
    }
    let steps_branches = vmsa.dbgctl & DEBUG_CTL_BTF != 0;
    let is_step =
        flags_before & RFLAGS_TF != 0 && (!steps_branches || transfer == Transfer::Branch);
    if is_step {
        vmsa.dr6 |= DR6_BS;
    }
    is_step || met != 0
}

/// Ends an instruction that accesses nothing a breakpoint could be on, branches nowhere and leaves TF alone. Returns whether #DB is due.
#[must_use]
pub fn step(vmsa: &mut Vmsa) -> bool {
    end(vmsa, 0, vmsa.rflags, Transfer::None)
}

/// Sets what the processor sets when it delivers #DB: access to the debug registers is open, branches are neither stepped nor recorded.
pub(crate) const fn deliver(vmsa: &mut Vmsa) {
    vmsa.dr7 &= !DR7_GD;
    vmsa.dbgctl &= !(DEBUG_CTL_BTF | DEBUG_CTL_LBR);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::boxed::Box;

    const WRITE: u64 = 0b01;
    const PORT: u64 = 0b10;
    const ACCESS: u64 = 0b11;

    /// A guest with its breakpoint 2 at `address`, of the LEN and R/W fields given.
    fn guest(address: u64, length: u64, kind: u64) -> Box<Vmsa> {
        let mut vmsa = Box::new(Vmsa::zeroed());
        vmsa.dr2 = address;
        vmsa.dr7 = 0x400 | 1 << 4 | (length << 2 | kind) << 24;
        vmsa.cr4 = CR4_DE;
        vmsa
    }

    fn is_met(vmsa: &Vmsa, touch: Touch, address: u64, len: u64) -> bool {
        let met = met(vmsa, touch, (0..len).map(|at| address.wrapping_add(at)));
        assert!(met == 0 || met == 1 << 2, "{met:#x}");
        met != 0
    }

    #[test]
    fn kind_decides_what_is_waited_for() {
        for (kind, expected) in [
            (0b00, [false; 3]),
            (WRITE, [false, true, false]),
            (PORT, [false, false, true]),
            (ACCESS, [true, true, false]),
        ] {
            let vmsa = guest(0x60, 0, kind);
            let met =
                [Touch::Read, Touch::Write, Touch::Port].map(|touch| is_met(&vmsa, touch, 0x60, 1));
            assert_eq!(met, expected, "R/W {kind:#b}");
        }
    }

    /// The first address and the last that an access of four bytes may have, for an address in the middle of the range.
    #[test]
    fn any_byte_in_the_aligned_range_is_enough() {
        for (length, first, last) in [
            (0b00, 0x1003, 0x1006),
            (0b01, 0x1003, 0x1007),
            (0b11, 0x1001, 0x1007),
            (0b10, 0xFFD, 0x1007),
        ] {
            let vmsa = guest(0x1006, length, WRITE);
            let met = (0xFF0..0x1010).filter(|at| is_met(&vmsa, Touch::Write, *at, 4));
            let expected = first..=last;
            assert!(met.eq(expected), "LEN {length:#b}");
        }
    }

    #[test]
    fn local_and_global_bit_each_enable() {
        for (bits, expected) in [(0, false), (1 << 4, true), (1 << 5, true), (0xCF, false)] {
            let mut vmsa = guest(0x60, 0, WRITE);
            vmsa.dr7 = vmsa.dr7 & !0xFF | bits;
            assert_eq!(met(&vmsa, Touch::Write, 0x60..0x61) >> 2 & 1 != 0, expected);
        }
    }

    #[test]
    fn ports_need_debugging_extensions_and_have_no_mask() {
        let mut vmsa = guest(0x60, 0b01, PORT);
        vmsa.dr2_addr_mask = 0xFF;
        assert!(is_met(&vmsa, Touch::Port, 0x5F, 2) && !is_met(&vmsa, Touch::Port, 0x62, 1));
        vmsa.cr4 = 0;
        assert!(!is_met(&vmsa, Touch::Port, 0x60, 1));
    }

    #[test]
    fn masked_address_bits_do_not_count() {
        let mut vmsa = guest(0x1000, 0, ACCESS);
        vmsa.dr2_addr_mask = 0xF00;
        assert!(is_met(&vmsa, Touch::Read, 0x1700, 1) && !is_met(&vmsa, Touch::Read, 0x1701, 1));
    }

    /// All that were met count, and what an earlier trap left does not.
    #[test]
    fn met_breakpoints_replace_those_in_the_status() {
        let mut vmsa = guest(0x1000, 0, WRITE);
        vmsa.dr0 = 0x1000;
        vmsa.dr7 |= 1 << 1 | ACCESS << 16;
        vmsa.dr6 = 0xFFFF_0FF8;
        let met = met(&vmsa, Touch::Write, 0x1000..0x1001);
        assert_eq!(met, 0b101);
        assert!(end(&mut vmsa, met, 0, Transfer::None));
        assert_eq!(vmsa.dr6, 0xFFFF_0FF5);
    }

    #[test]
    fn a_step_over_branches_skips_all_else() {
        let mut vmsa = guest(0, 0, 0);
        vmsa.dbgctl = DEBUG_CTL_BTF;
        vmsa.rflags = RFLAGS_TF;
        assert!(is_watched(&vmsa) && !step(&mut vmsa));
        assert_eq!(vmsa.dr6, 0);
        assert!(end(&mut vmsa, 0, RFLAGS_TF, Transfer::Branch));
        assert_eq!(vmsa.dr6, DR6_BS);
        deliver(&mut vmsa);
        assert!(step(&mut vmsa), "its delivery ends that");
    }

    #[test]
    fn delivery_opens_the_debug_registers() {
        let mut vmsa = guest(0, 0, 0);
        vmsa.dr7 |= DR7_GD;
        let before = vmsa.dr7;
        deliver(&mut vmsa);
        assert_eq!(vmsa.dr7, before & !DR7_GD);
    }
}
