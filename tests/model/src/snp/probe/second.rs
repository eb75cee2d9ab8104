//! The second vCPU: started, interrupted, surprised by a page that goes, stopped.

use super::cpu::{self, Doorbell, Ghcb, VC_CODE, VC_COUNT};
use super::guest::PATIENCE;
use super::report::{check, figure};
use super::{WORK, features};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use stockade_abi::ghcb::{GhcbField, NaeExit};

const VMSA: u64 = WORK + 0x2_1000;
const GHCB_PAGE: u64 = WORK + 0x2_3000;
const DOORBELL_PAGE: u64 = WORK + 0x2_4000;
/// The page that goes.
const VICTIM: u64 = WORK + 0x2_5000;
const VECTOR: u64 = 0xE7;

static STACK: super::Stack = super::Stack::new();
/// How far the second vCPU is.
static STAGE: AtomicU64 = AtomicU64::new(0);
/// What it counts: reads of the victim, later vectors taken.
static COUNT: AtomicU64 = AtomicU64::new(0);

const READING: u64 = 1;
const SURPRISED: u64 = 2;
const WAITING: u64 = 3;
const FAILED: u64 = 4;

global_asm!(
    "probe_second:",
    "lea rsp, [rip + {stack} + {size}]",
    "xor ebp, ebp",
    "call {main}",
    "ud2",
    stack = sym STACK,
    size = const super::STACK_SIZE,
    main = sym main,
);

unsafe extern "C" {
    safe static probe_second: u8;
}

extern "C" fn main() -> ! {
    cpu::load_tables();
    let before = VC_COUNT.load(Ordering::Relaxed);
    STAGE.store(READING, Ordering::SeqCst);
    while VC_COUNT.load(Ordering::Relaxed) == before {
        cpu::touch(VICTIM);
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    STAGE.store(SURPRISED, Ordering::SeqCst);
    let door = Ghcb::register(GHCB_PAGE).and_then(|ghcb| {
        ghcb.write_msr(0x80F, 0x1FF);
        Doorbell::register(ghcb, DOORBELL_PAGE)
    });
    let Some(door) = door else {
        STAGE.store(FAILED, Ordering::SeqCst);
        loop {
            cpu::halt();
        }
    };
    COUNT.store(0, Ordering::SeqCst);
    STAGE.store(WAITING, Ordering::SeqCst);
    loop {
        if u64::from(door.take()) == VECTOR {
            COUNT.fetch_add(1, Ordering::SeqCst);
        }
        cpu::halt();
    }
}

fn stage_is(stage: u64) -> bool {
    cpu::wait(PATIENCE, || STAGE.load(Ordering::SeqCst) == stage)
}

pub(super) fn run(ghcb: Ghcb) {
    ghcb.call(
        NaeExit::APIC_ID_LIST,
        cpu::gpa(GHCB_PAGE),
        0,
        &[(GhcbField::RAX, 0)],
    );
    let vmsa = super::context((&raw const probe_second).addr() as u64, features());
    let words: [u64; 512] = zerocopy::transmute!(vmsa);
    for (value, offset) in words.iter().zip((0..).step_by(8)) {
        cpu::word(VMSA + offset).store(*value, Ordering::Relaxed);
    }
    cpu::rmpadjust(VMSA, 0, 0x1_0001);
    let create = |operation: u64, ghcb: Ghcb| {
        let fields = [(GhcbField::RAX, features().bits())];
        ghcb.call(
            NaeExit::AP_CREATION,
            operation | 1 << 32,
            cpu::gpa(VMSA),
            &fields,
        )
    };
    let answer = create(1, ghcb);
    if answer != 0 {
        // One processor only.
        return figure("no second vCPU: answer", answer);
    }
    check(
        "a second vCPU starts",
        stage_is(READING),
        STAGE.load(Ordering::SeqCst),
    );
    let reads = cpu::wait(PATIENCE, || COUNT.load(Ordering::Relaxed) > 100);
    cpu::pvalidate(VICTIM, 0, 0);
    let surprised = stage_is(SURPRISED) || stage_is(WAITING);
    let code = VC_CODE.load(Ordering::Relaxed);
    check(
        "a page rescinded here is gone there",
        reads && surprised && code == 0x404,
        code,
    );
    check(
        "it waits for events",
        stage_is(WAITING),
        STAGE.load(Ordering::SeqCst),
    );
    let rounds = 50;
    let start = cpu::tsc();
    let woken = (1..=rounds).all(|round| {
        ghcb.call(NaeExit::HV_IPI, 1 << 32 | 0x4000 | VECTOR, 0, &[]);
        cpu::wait(PATIENCE, || COUNT.load(Ordering::SeqCst) == round)
    });
    check(
        "each interrupt wakes it from HLT",
        woken,
        COUNT.load(Ordering::SeqCst),
    );
    figure(
        "ticks of an interrupt across",
        (cpu::tsc() - start) / rounds,
    );
    let answer = create(2, ghcb);
    ghcb.call(NaeExit::HV_IPI, 1 << 32 | 0x4000 | VECTOR, 0, &[]);
    let moved = cpu::wait(1 << 25, || COUNT.load(Ordering::SeqCst) != rounds);
    check(
        "destroyed, it stands still",
        answer == 0 && !moved,
        COUNT.load(Ordering::SeqCst),
    );
}
