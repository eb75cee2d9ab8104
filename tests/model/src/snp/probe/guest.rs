//! The probe's first processor: from the first instruction to power-off.

use super::cpu::{self, Doorbell, Ghcb, HV_COUNT, VC_CODE, VC_COUNT};
use super::report::{check, done, figure};
use super::{SIZE, WORK, device, lower, second};
use core::arch::global_asm;
use core::sync::atomic::Ordering;
use stockade_abi::ghcb::{GhcbField, NaeExit};
use stockade_abi::vmsa::SEV_STATUS_MSR;

const GHCB_PAGE: u64 = WORK + 0x3000;
const DOORBELL_PAGE: u64 = WORK + 0x4000;
/// A page to try things on.
const SCRAP: u64 = WORK + 0x9000;
/// Half a second or so.
pub(super) const PATIENCE: u64 = 1 << 31;
/// Ticks to a timer's end.
const SOON: u64 = 20_000_000;

static STACK: super::Stack = super::Stack::new();

global_asm!(
    "probe_entry:",
    "lea rsp, [rip + {stack} + {size}]",
    "xor ebp, ebp",
    "call {main}",
    "ud2",
    stack = sym STACK,
    size = const super::STACK_SIZE,
    main = sym main,
);

unsafe extern "C" {
    safe static probe_entry: u8;
}

/// Where the launch VMSA begins.
pub(super) fn entry() -> u64 {
    (&raw const probe_entry).addr() as u64
}

extern "C" fn main() -> ! {
    cpu::load_tables();
    accept();
    let Some(ghcb) = Ghcb::register(GHCB_PAGE) else {
        stop(1);
    };
    protocol(ghcb);
    exceptions();
    ownership(ghcb);
    let Some(doorbell) = Doorbell::register(ghcb, DOORBELL_PAGE) else {
        stop(2);
    };
    events(ghcb, &doorbell);
    device::run(ghcb, &doorbell);
    lower::run(ghcb, &doorbell);
    second::run(ghcb);
    costs(ghcb);
    done();
    // ACPI S5 by the port Q35 has it at.
    ghcb.call(
        NaeExit::IOIO,
        0x604 << 16 | 1 << 5,
        0,
        &[(GhcbField::RAX, 0x2000)],
    );
    stop(3)
}

/// Gives up, by the MSR protocol.
pub(super) fn stop(code: u64) -> ! {
    loop {
        cpu::msr_call(code << 16 | 0x100);
    }
}

fn accept() {
    // What lies in the same 2 MiB as launched pages goes by small pages: guard pages within the image, and what follows it.
    for page in (0x10_0000..0x40_0000).step_by(0x1000) {
        cpu::pvalidate(page, 0, 1);
    }
    let (code, carry) = cpu::pvalidate(0x40_0000, 1, 1);
    check("2 MiB are accepted at once", code == 0 && !carry, code);
    let (code, _) = cpu::pvalidate(SIZE - 0x20_0000, 1, 1);
    check("and the next", code == 0, code);
}

fn protocol(ghcb: Ghcb) {
    let info = cpu::msr_call(0x002);
    check(
        "SEV information tells the C-bit",
        info >> 24 & 0xFF == 51,
        info,
    );
    let status = cpu::read_msr(SEV_STATUS_MSR);
    check("SEV_STATUS tells the features", status == 0xA7, status);
    let features = cpu::msr_call(0x080) >> 12;
    check(
        "the host has AP creation, #HV and VMPLs",
        features & 0x27 == 0x27,
        features,
    );
    let answer = ghcb.call(NaeExit(0x7777), 0, 0, &[]);
    check("an unknown event is malformed", answer == 2, answer);
    let answer = ghcb.call(NaeExit::MSR, 0, 0, &[]);
    check(
        "a missing field is malformed",
        answer == 2,
        ghcb.get(GhcbField::SW_EXIT_INFO2),
    );
}

fn exceptions() {
    let before = VC_COUNT.load(Ordering::Relaxed);
    cpu::cpuid();
    let code = VC_CODE.load(Ordering::Relaxed);
    check(
        "CPUID is #VC with its exit code",
        VC_COUNT.load(Ordering::Relaxed) == before + 1 && code == 0x72,
        code,
    );
    cpu::pvalidate(SCRAP, 0, 0);
    cpu::touch(SCRAP);
    let code = VC_CODE.load(Ordering::Relaxed);
    check(
        "a read of an unvalidated page is #VC 404",
        VC_COUNT.load(Ordering::Relaxed) == before + 2 && code == 0x404,
        code,
    );
}

fn ownership(ghcb: Ghcb) {
    let (code, carry) = cpu::pvalidate(SCRAP, 0, 1);
    check(
        "PVALIDATE tells a change by no carry",
        code == 0 && !carry,
        code,
    );
    let (code, carry) = cpu::pvalidate(SCRAP, 0, 1);
    check("and none by carry", code == 0 && carry, code);
    let (code, _) = cpu::pvalidate(WORK, 1, 1);
    check(
        "a large PVALIDATE of small pages fails by its size",
        code == 6,
        code,
    );
    let code = cpu::rmpadjust(SCRAP, 0, 0x302);
    let (query, permissions) = cpu::rmpquery(SCRAP, 2);
    check(
        "RMPQUERY tells what RMPADJUST did",
        code == 0 && query == 0 && permissions == 0x302,
        permissions,
    );
    let code = cpu::rmpadjust(SCRAP, 0, 0xF00);
    check("VMPL0 cannot adjust itself", code == 2, code);
    cpu::word(SCRAP).store(42, Ordering::Relaxed);
    cpu::pvalidate(SCRAP, 0, 0);
    let answer = ghcb.change_page(SCRAP, 2, 0);
    let seen = cpu::word(cpu::shared(SCRAP)).load(Ordering::Relaxed);
    check(
        "the host does not see what was private",
        answer == 0 && seen != 42,
        seen,
    );
    cpu::word(cpu::shared(SCRAP)).store(77, Ordering::Relaxed);
    let answer = ghcb.change_page(SCRAP, 1, 0);
    cpu::pvalidate(SCRAP, 0, 1);
    let seen = cpu::word(SCRAP).load(Ordering::Relaxed);
    check(
        "nor the guest what the host wrote",
        answer == 0 && seen != 77,
        seen,
    );
    let answer = ghcb.change_page(0x100_0000_0000, 1, 0);
    check(
        "a page that is not there cannot change hands",
        answer != 0,
        answer,
    );
}

fn events(ghcb: Ghcb, doorbell: &Doorbell) {
    let signals = || HV_COUNT.load(Ordering::Relaxed);
    ghcb.write_msr(0x80F, 0x1FF);
    ghcb.write_msr(0x832, 0x4_00E0);
    check(
        "the local APIC keeps its timer's entry",
        ghcb.read_msr(0x832) == 0x4_00E0,
        ghcb.read_msr(0x832),
    );
    ghcb.write_msr(0x6E0, cpu::tsc() + SOON);
    let rang = cpu::wait(PATIENCE, || signals() == 1);
    let vector = doorbell.take();
    check(
        "a timer raises #HV with interrupts off",
        rang && vector == 0xE0,
        u64::from(vector),
    );
    ghcb.write_msr(0x6E0, cpu::tsc() + SOON);
    cpu::halt();
    let vector = doorbell.take();
    check(
        "a timer ends HLT",
        signals() == 2 && vector == 0xE0,
        u64::from(vector),
    );
    ghcb.call(NaeExit::HV_IPI, 0x40E5, 0, &[]);
    let vector = doorbell.take();
    check(
        "an interrupt to itself comes at once",
        signals() == 3 && vector == 0xE5,
        u64::from(vector),
    );
    ghcb.call(NaeExit::HV_IPI, 0x40E5, 0, &[]);
    ghcb.call(NaeExit::HV_IPI, 0x40E6, 0, &[]);
    check(
        "a guest that has not looked is not signalled again",
        signals() == 4,
        signals(),
    );
    let vector = doorbell.take();
    ghcb.read_msr(0x802);
    let next = doorbell.take();
    check(
        "the higher vector comes first, the other after it",
        vector == 0xE6 && next == 0xE5,
        u64::from(vector),
    );
}

fn costs(ghcb: Ghcb) {
    let time = |name, mut action: &mut dyn FnMut()| {
        let rounds = 500;
        let start = cpu::tsc();
        for _ in 0..rounds {
            action();
        }
        let _ = &mut action;
        figure(name, (cpu::tsc() - start) / rounds);
    };
    time("ticks of a #VC", &mut cpu::cpuid);
    time("ticks of a PVALIDATE", &mut || {
        cpu::pvalidate(SCRAP, 0, 1);
    });
    time("ticks of an MSR call", &mut || {
        cpu::msr_call(0x002);
    });
    let fields = [(GhcbField::RAX, 0), (GhcbField::RCX, 0)];
    time("ticks of a GHCB call", &mut || {
        ghcb.call(NaeExit::CPUID, 0, 0, &fields);
    });
}
