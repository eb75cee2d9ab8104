use super::*;
use crate::snp::addr::fake::HeapFrames;
use crate::snp::addr::{C_BIT, Gpa, Phys};
use crate::snp::cpu::linear::PageCache;
use crate::snp::gpa_map::RangeKind;
use crate::snp::memory::{Memory, PageState, Validate, Who};
use crate::snp::npt::Layout;
use crate::snp::rmp::{Owner, PageSize, Rmp, Vmpl};
use crate::snp::walk::{CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_NXE, Paging};
use zerocopy::FromZeros;

const PML4: u64 = 0x1000;
const IDT: u64 = 0x8000;
const GDT: u64 = 0x9000;
const TSS: u64 = 0xA000;
const STACK: u64 = 0xC000;
const WHO: Who = Who {
    vmpl: Vmpl::ZERO,
    layout: Layout::CBit,
    top: 0,
};
const PAGING: Paging = Paging {
    cr0: CR0_PE | CR0_PG | CR0_WP,
    cr3: PML4 | C_BIT,
    cr4: CR4_PAE,
    efer: EFER_LMA | EFER_NXE,
};

/// 2 MiB of validated RAM, mapped one to one with the C-bit by one large page; page 0x1F_F000 is not mapped.
struct Guest {
    memory: Memory,
    save: SaveArea,
}

fn guest() -> Guest {
    let mut frames = HeapFrames::new(0x100_0000);
    // SAFETY: the arena starts there.
    let rmp = Rmp::new(unsafe { Phys::new(frames.base) }, frames.size);
    let mut memory = Memory::new(rmp, Owner { asid: 1 }, 7);
    memory
        .map
        .add_blocks(Gpa::new(0), 0x20_0000, RangeKind::Ram, &mut frames)
        .unwrap();
    memory.assign_all(RangeKind::Ram);
    memory.pvalidate(Gpa::new(0), PageSize::Large, Validate::Set);
    let mut guest = Guest {
        memory,
        save: SaveArea::new_zeroed(),
    };
    guest.poke(PML4, 0x2003 | C_BIT);
    guest.poke(0x2000, 0x3003 | C_BIT);
    guest.poke(0x3000, 0x83 | C_BIT);
    guest.poke(GDT + 0x10, 0x00AF_9B00_0000_FFFF);
    guest.poke(GDT + 0x18, 0x00CF_9B00_0000_FFFF);
    guest.poke(TSS + 4, 0xE000);
    guest.poke(TSS + 0x24, 0xF008);
    guest.gate(0x10, 0x8E, 0);
    let save = &mut guest.save;
    (save.cr0, save.cr3, save.cr4, save.efer) = (PAGING.cr0, PAGING.cr3, PAGING.cr4, PAGING.efer);
    (save.idtr.base, save.idtr.limit) = (IDT, 0xFFF);
    (save.gdtr.base, save.gdtr.limit) = (GDT, 0x27);
    (save.tr.base, save.tr.limit) = (TSS, 0x67);
    (save.rip, save.rsp, save.rflags) = (0x1234, STACK + 8, 0x302);
    save.cs.selector = 0x10;
    guest
}

impl Guest {
    fn host(&self, gpa: u64) -> Phys {
        self.memory.map.translate(Gpa::new(gpa)).unwrap()
    }
    fn poke(&mut self, gpa: u64, value: u64) {
        // Unaligned fields of the TSS: write bytes.
        self.host(gpa).write_bytes(&value.to_le_bytes());
    }
    fn peek(&self, gpa: u64) -> u64 {
        self.host(gpa).read_u64()
    }
    fn gate(&mut self, selector: u64, kind: u64, ist: u64) {
        self.poke(
            IDT + 29 * 16,
            0x5678 | selector << 16 | ist << 32 | kind << 40 | 0x1_u64 << 48,
        );
        self.poke(IDT + 29 * 16 + 8, 0xFFFF_8000);
    }
    fn deliver(&mut self) -> Result<(), Nested> {
        let cache = PageCache::default();
        let linear = Linear::new(&self.memory, WHO, PAGING, &cache);
        deliver(&mut self.save, &linear, VC_VECTOR, 0x72)
    }
}

#[test]
fn the_frame_is_aligned_and_complete() {
    let mut guest = guest();
    guest.deliver().unwrap();
    assert_eq!(
        (guest.save.rip, guest.save.rsp),
        (0xFFFF_8000_0001_5678, STACK - 48)
    );
    let frame: Vec<u64> = (0..6)
        .map(|word| guest.peek(STACK - 48 + word * 8))
        .collect();
    assert_eq!(frame, [0x72, 0x1234, 0x10, 0x302, STACK + 8, 0]);
    assert_eq!(
        guest.save.rflags, 2,
        "an interrupt gate masks interrupts, any gate ends single-stepping"
    );
    assert_eq!(guest.save.cs.attributes & 0x200, 0x200, "64-bit code");
}

#[test]
fn a_trap_gate_leaves_interrupts_on() {
    let mut guest = guest();
    guest.gate(0x10, 0x8F, 0);
    guest.deliver().unwrap();
    assert_eq!(guest.save.rflags, 0x202);
}

#[test]
fn an_ist_stack_is_used_without_a_privilege_change() {
    let mut guest = guest();
    guest.gate(0x10, 0x8E, 1);
    guest.deliver().unwrap();
    assert_eq!(guest.save.rsp, 0xF000 - 48);
}

#[test]
fn user_code_changes_to_the_kernel_stack_and_a_null_stack_segment() {
    let mut guest = guest();
    guest.save.cpl = 3;
    (guest.save.cs.selector, guest.save.ss.selector) = (0x33, 0x2B);
    guest.deliver().unwrap();
    assert_eq!((guest.save.rsp, guest.save.cpl), (0xE000 - 48, 0));
    assert_eq!(guest.save.ss, Segment::default());
    assert_eq!(
        (guest.peek(0xE000 - 32), guest.peek(0xE000 - 8)),
        (0x33, 0x2B)
    );
    assert_eq!(guest.save.cs.selector, 0x10);
}

#[test]
fn faults_on_the_way_become_what_the_tables_say() {
    let mut no_gate = guest();
    no_gate.save.idtr.limit = 29 * 16;
    assert_eq!(no_gate.deliver(), Err(Nested::DoubleFault));
    let mut absent = guest();
    absent.gate(0x10, 0x0E, 0);
    assert_eq!(absent.deliver(), Err(Nested::DoubleFault));
    let mut compatibility = guest();
    compatibility.gate(0x18, 0x8E, 0);
    assert_eq!(compatibility.deliver(), Err(Nested::DoubleFault));
    let mut no_stack = guest();
    no_stack.save.rsp = 0x4000_0000;
    let fault = Nested::PageFault {
        code: 2,
        address: 0x4000_0000 - 48,
    };
    assert_eq!(no_stack.deliver(), Err(fault));
    assert_eq!(no_stack.save.rip, 0x1234, "nothing changed");
    let mut stolen = guest();
    stolen
        .memory
        .change_state(Gpa::new(STACK - 0x1000), PageSize::Small, PageState::Shared);
    assert_eq!(stolen.deliver(), Err(Nested::Shutdown));
    let mut real = guest();
    real.save.cr0 = 0;
    assert_eq!(real.deliver(), Err(Nested::Shutdown));
}

#[test]
fn thirty_two_bit_handlers_get_a_thirty_two_bit_frame() {
    let mut guest = guest();
    guest.poke(IDT + 29 * 8, 0x5678 | 0x18 << 16 | 0x8E_u64 << 40);
    let paging = Paging {
        cr0: CR0_PE,
        cr3: 0,
        cr4: 0,
        efer: 0,
    };
    let who = Who {
        layout: Layout::Flat,
        top: u64::MAX,
        ..WHO
    };
    let cache = PageCache::default();
    let linear = Linear::new(&guest.memory, who, paging, &cache);
    guest.save.efer = 0;
    deliver(&mut guest.save, &linear, VC_VECTOR, 0x72).unwrap();
    assert_eq!((guest.save.rip, guest.save.rsp), (0x5678, STACK + 8 - 16));
    assert_eq!(guest.peek(STACK - 8), 0x1234_0000_0072);
}
