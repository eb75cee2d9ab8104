//! What QEMU remembers of the code of a guest that starts over.
//!
//! TCG keeps the code it translated by physical page, and every store to a page of which it has some goes a slow way, whatever the store
//! hits: 950 ns instead of 3 where sixty pieces are left. An operating system fills a page before it uses it again, which ends that.
//! Firmware after a reset does not: where its stack comes to lie in a page that held code of the guest before, it takes minutes instead
//! of seconds ([decision 21](../../../../docs/decisions/0021-a-reset-drops-what-qemu-has-translated.md)). So all memory in use is written
//! once with what it holds, before a guest starts over.

use super::addr::{PAGE_SIZE, Phys};
use super::gpa_map::RangeKind;
use super::rmp::Vmpl;
use super::vm::Vm;
use alloc::vec::Vec;
use core::arch::asm;
use stockade_abi::vmsa::Vmsa;

/// Where a guest was entered first, and whether it is still there.
#[derive(Debug, Default)]
pub struct Restarts {
    start: Option<Start>,
    has_left: bool,
}

/// The state that tells a start from any other entry, as far as an operating system never comes back to it by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Start {
    rip: u64,
    cs_base: u64,
    cr0: u64,
    rflags: u64,
}

impl Restarts {
    /// Notes an entry; returns whether the guest starts over with it. An exit before its first instruction is no new start.
    pub fn note(&mut self, vmpl: Vmpl, vmsa: &Vmsa) -> bool {
        if vmpl == Vmpl::ZERO {
            return false;
        }
        let entry = Start {
            rip: vmsa.rip,
            cs_base: vmsa.cs.base,
            cr0: vmsa.cr0,
            rflags: vmsa.rflags,
        };
        let is_at_start = *self.start.get_or_insert(entry) == entry;
        let starts_over = is_at_start && self.has_left;
        self.has_left = !is_at_start;
        starts_over
    }
}

impl Vm {
    /// Has QEMU forget the code of the guest's memory. Others may use the memory meanwhile.
    pub fn forget_code(&self) {
        let memory = self.memory.lock();
        let ram = memory.map.ranges().iter();
        let ram = ram.filter(|range| range.kind() == RangeKind::Ram);
        let blocks: Vec<(u64, Phys)> = ram
            .flat_map(|range| range.blocks().map(|(_, len, host)| (len, host)))
            .collect();
        drop(memory);
        for (len, block) in blocks {
            for offset in (0..len).step_by(PAGE_BYTES) {
                // SAFETY: `offset` is in the block.
                rewrite(unsafe { block.add(offset) });
            }
        }
    }
}

/// The size of a page, as an index.
#[expect(clippy::cast_possible_truncation, reason = "it is 4096")]
const PAGE_BYTES: usize = PAGE_SIZE as usize;
const WORD_BYTES: u64 = 8;

/// Writes each word of a page that is not empty with what it holds. An empty page has no code, and QEMU may have no memory for it yet.
fn rewrite(page: Phys) {
    let is_empty =
        (0..PAGE_SIZE / WORD_BYTES).all(|word| page.in_page(word * WORD_BYTES).read_u64() == 0);
    if is_empty {
        return;
    }
    let end = page.as_ptr().wrapping_add(PAGE_BYTES);
    // SAFETY: the page is mapped for good; adding nothing in one step changes no byte, whoever writes at the same time. An atomic of the
    // language would do, if compilers did not make a load of it.
    unsafe {
        asm!(
            "2:",
            "lock add qword ptr [{at}], 0",
            "lock add qword ptr [{at} + 8], 0",
            "lock add qword ptr [{at} + 16], 0",
            "lock add qword ptr [{at} + 24], 0",
            "add {at}, 32",
            "cmp {at}, {end}",
            "jb 2b",
            at = inout(reg) page.as_ptr() => _,
            end = in(reg) end,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Restarts, Vmpl, Vmsa};
    use zerocopy::FromZeros;

    fn at(rip: u64) -> Vmsa {
        let mut vmsa = Vmsa::new_zeroed();
        vmsa.rip = rip;
        vmsa
    }

    fn guest() -> Vmpl {
        Vmpl::try_new(2).expect("there are four")
    }

    #[test]
    fn a_guest_that_comes_back_to_its_first_entry_starts_over() {
        let mut restarts = Restarts::default();
        assert!(!restarts.note(guest(), &at(0xFFF0)));
        assert!(!restarts.note(guest(), &at(0x1000)));
        assert!(restarts.note(guest(), &at(0xFFF0)));
        assert!(!restarts.note(guest(), &at(0x1000)));
        assert!(restarts.note(guest(), &at(0xFFF0)));
    }

    #[test]
    fn exits_before_the_first_instruction_are_no_starts() {
        let mut restarts = Restarts::default();
        for _ in 0..3 {
            assert!(!restarts.note(guest(), &at(0xFFF0)));
        }
        assert!(!restarts.note(guest(), &at(0x1000)));
        assert!(restarts.note(guest(), &at(0xFFF0)));
        assert!(!restarts.note(guest(), &at(0xFFF0)));
    }

    #[test]
    fn the_paravisor_is_no_guest() {
        let mut restarts = Restarts::default();
        for rip in [1, 2, 1, 2] {
            assert!(!restarts.note(Vmpl::ZERO, &at(rip)));
        }
    }
}
