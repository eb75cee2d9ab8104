//! A lower VMPL, run as a paravisor runs its guest: reflected exits, alternate injection, permissions.

use super::cpu::{self, Doorbell, Ghcb, HV_COUNT};
use super::guest::stop;
use super::report::check;
use super::{RAM_VIEW, WORK};
use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use stockade_abi::ghcb::{GhcbField, NaeExit};
use stockade_abi::vmsa::{SevFeatures, Vmsa};

const VMSA: u64 = WORK + 0x7000;
/// In guest RAM, as the lower VMPL has it.
const TABLES: u64 = 0x1000;
const IDT: u64 = 0x8000;
const GDT: u64 = 0x9000;
const STACK: u64 = 0x10_0000;
const CODE: u64 = 0x20_0000;
const RESTLESS: u64 = CODE + 0x400;
const HANDLER: u64 = CODE + 0x800;
const VECTOR: u64 = 0x41;
const BUSY: u64 = 1 << 63;
const V_IRQ: u64 = 1 << 8;
const V_GIF: u64 = 1 << 9;
/// Ticks until the lower VMPL is in the midst of it.
const SOON: u64 = 5_000_000;

// CPUID answered 1234h in EBX; OUT; STI and HLT with an interrupt pending; a read of device space; OUT; for ever.
global_asm!(
    "probe_lower:",
    "mov eax, 0x40000000",
    "cpuid",
    "cmp ebx, 0x1234",
    "jne 9f",
    "mov dx, 0x3F8",
    "mov al, 0x41",
    "out dx, al",
    "sti",
    "hlt",
    "mov edi, 0xFEC00000",
    "mov ebx, [rdi]",
    "cmp ebx, 0x77",
    "jne 9f",
    "mov al, 0x55",
    "out 0x80, al",
    "2: pause",
    "jmp 2b",
    "9: ud2",
    "probe_lower_end:",
);

// #UD again and again, RCX times, none of which leaves the processor; then nothing at all for half a second or so; then OUT.
global_asm!(
    "probe_restless:",
    "2: ud2",
    "3: dec rsi",
    "jnz 3b",
    "out 0x80, al",
    "probe_undefined:",
    "dec rcx",
    "jnz 4f",
    "lea rax, [rip + 3b]",
    "mov [rsp], rax",
    "4: iretq",
    "probe_restless_end:",
);

unsafe extern "C" {
    safe static probe_lower: u8;
    safe static probe_lower_end: u8;
    safe static probe_restless: u8;
    safe static probe_undefined: u8;
    safe static probe_restless_end: u8;
}

/// The code of the image between two of its symbols.
fn between(start: &u8, end: &u8) -> (u64, u64) {
    let place = |symbol| core::ptr::from_ref::<u8>(symbol).addr() as u64;
    (place(start), place(end))
}

macro_rules! field {
    ($name:ident) => {
        cpu::word(VMSA + offset_of!(Vmsa, $name) as u64)
    };
}

/// The parts of the VMSA the probe looks at.
struct Seen {
    code: u64,
    info1: u64,
    info2: u64,
    rip: u64,
    nrip: u64,
    vintr: u64,
}

fn seen() -> Seen {
    let read = |word: &core::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
    Seen {
        code: read(field!(guest_exit_code)),
        info1: read(field!(guest_exit_info1)),
        info2: read(field!(guest_exit_info2)),
        rip: read(field!(rip)),
        nrip: read(field!(guest_nrip)),
        vintr: read(field!(vintr_ctrl)),
    }
}

fn features() -> u64 {
    let features = SevFeatures::SNP_ACTIVE
        | SevFeatures::VTOM
        | SevFeatures::REFLECT_VC
        | SevFeatures::ALTERNATE_INJECTION
        | SevFeatures::DEBUG_SWAP;
    features.bits()
}

/// Runs the lower VMPL until the host comes back.
fn enter(ghcb: Ghcb) -> Seen {
    field!(vintr_ctrl).fetch_and(!BUSY, Ordering::SeqCst);
    ghcb.call(NaeExit::RUN_VMPL, 2, 0, &[]);
    field!(vintr_ctrl).fetch_or(BUSY, Ordering::SeqCst);
    seen()
}

/// Goes on behind the instruction, with a code nobody mistakes for a new exit.
fn skip() {
    field!(rip).store(seen().nrip, Ordering::Relaxed);
    field!(guest_exit_code).store(0x60, Ordering::Relaxed);
}

pub(super) fn run(ghcb: Ghcb, doorbell: &Doorbell) {
    accept_ram();
    write_guest();
    write_vmsa();
    let code = cpu::rmpadjust(VMSA, 0, 0x1_0002);
    check("a VMSA is made", code == 0, code);
    let answer = ghcb.call(
        NaeExit::AP_CREATION,
        1 | 2 << 16,
        cpu::gpa(VMSA),
        &[(GhcbField::RAX, features())],
    );
    check("the host takes it", answer == 0, answer);
    reflected(ghcb);
    injected(ghcb);
    interrupted(ghcb, doorbell);
    interrupted_in_faults(ghcb, doorbell);
    forbidden(ghcb);
}

fn accept_ram() {
    for page in (RAM_VIEW..RAM_VIEW + super::RAM_SIZE).step_by(0x20_0000) {
        let (code, _) = cpu::pvalidate(page, 1, 1);
        if code != 0 || cpu::rmpadjust(page, 1, 0xF02) != 0 {
            stop(4);
        }
    }
}

fn write_guest() {
    let put = |address: u64, value| cpu::word(RAM_VIEW + address).store(value, Ordering::Relaxed);
    put(TABLES, TABLES + 0x1003);
    put(TABLES + 0x1000, TABLES + 0x2003);
    // Device space, by a page of 1 GiB.
    put(TABLES + 0x1018, 0xC000_0083);
    for page in 0..32 {
        put(TABLES + 0x2000 + page * 8, page << 21 | 0x83);
    }
    put(GDT + 8, 0x00AF_9B00_0000_FFFF);
    put(GDT + 16, 0x00CF_9300_0000_FFFF);
    let gate = |handler: u64| handler & 0xFFFF | 8 << 16 | 0x8E << 40 | (handler >> 16) << 48;
    put(IDT + VECTOR * 16, gate(HANDLER));
    let (restless, undefined) = between(&probe_restless, &probe_undefined);
    put(IDT + 6 * 16, gate(RESTLESS + undefined - restless));
    // IRETQ.
    put(HANDLER, 0xCF48);
    copy(CODE, between(&probe_lower, &probe_lower_end));
    copy(RESTLESS, between(&probe_restless, &probe_restless_end));
}

/// Puts code of the image into guest RAM.
fn copy(to: u64, (start, end): (u64, u64)) {
    for offset in (0..end - start).step_by(8) {
        let mut bytes = [0; 8];
        for (byte, at) in bytes.iter_mut().zip(start + offset..) {
            // SAFETY: the code, and a few bytes of the image behind it.
            *byte = unsafe { (at as *const u8).read() };
        }
        cpu::word(RAM_VIEW + to + offset).store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }
}

fn write_vmsa() {
    let mut vmsa = super::context(CODE, SevFeatures::from_bits_retain(features()));
    vmsa.vmpl = 2;
    vmsa.cr3 = TABLES;
    vmsa.rsp = STACK;
    (vmsa.gdtr.base, vmsa.gdtr.limit) = (GDT, 0x17);
    (vmsa.idtr.base, vmsa.idtr.limit) = (IDT, 0xFFF);
    vmsa.virtual_tom = 1 << 46;
    vmsa.vintr_ctrl = stockade_abi::vmsa::VintrControl::from_bits(V_GIF | BUSY);
    let bytes: [u64; 512] = zerocopy::transmute!(vmsa);
    for (value, offset) in bytes.iter().zip((0..).step_by(8)) {
        cpu::word(VMSA + offset).store(*value, Ordering::Relaxed);
    }
}

fn reflected(ghcb: Ghcb) {
    let seen = enter(ghcb);
    check(
        "CPUID is reflected",
        seen.code == 0x72 && seen.nrip == seen.rip + 2,
        seen.code,
    );
    // The busy VMSA is not run: the host comes back with nothing new.
    field!(guest_exit_code).store(0x60, Ordering::Relaxed);
    ghcb.call(NaeExit::RUN_VMPL, 2, 0, &[]);
    check(
        "a busy VMSA does not run",
        self::seen().code == 0x60,
        self::seen().code,
    );
    field!(rbx).store(0x1234, Ordering::Relaxed);
    skip();
    let seen = enter(ghcb);
    check(
        "OUT is reflected with its port",
        seen.code == 0x7B && seen.info1 >> 16 == 0x3F8,
        seen.info1,
    );
}

fn injected(ghcb: Ghcb) {
    skip();
    let control = BUSY | V_GIF | V_IRQ | (VECTOR >> 4) << 16 | VECTOR << 32;
    field!(vintr_ctrl).store(control, Ordering::Relaxed);
    let seen = enter(ghcb);
    check(
        "HLT in the shadow of STI comes before the interrupt",
        seen.code == 0x78 && seen.vintr & V_IRQ != 0,
        seen.code,
    );
    field!(guest_exit_code).store(0x60, Ordering::Relaxed);
    let seen = enter(ghcb);
    let is_device = seen.code == 0x400 && seen.info2 == 0xFEC0_0000 && seen.info1 & 8 != 0;
    check(
        "device space is a reflected nested fault",
        is_device,
        seen.info1,
    );
    check(
        "the interrupt was taken meanwhile",
        seen.vintr & V_IRQ == 0,
        seen.vintr,
    );
    field!(rbx).store(0x77, Ordering::Relaxed);
    // The length of MOV EBX, [RDI]: nested faults tell none.
    field!(rip).store(seen.rip + 2, Ordering::Relaxed);
    let seen = enter(ghcb);
    check(
        "and the guest goes on",
        seen.code == 0x7B && seen.info1 >> 16 == 0x80,
        seen.info1,
    );
}

fn interrupted(ghcb: Ghcb, doorbell: &Doorbell) {
    skip();
    let before = HV_COUNT.load(Ordering::Relaxed);
    ghcb.write_msr(0x6E0, cpu::tsc() + 20_000_000);
    let seen = enter(ghcb);
    let rang = HV_COUNT.load(Ordering::Relaxed) == before + 1 && doorbell.take() == 0xE0;
    check(
        "a timer of VMPL0 ends the lower VMPL's turn",
        rang && seen.code == 0x60,
        seen.code,
    );
}

/// An interrupt that comes just when the processor sees to a fault by itself must end the turn, too: nothing else might.
fn interrupted_in_faults(ghcb: Ghcb, doorbell: &Doorbell) {
    const TURNS: u64 = 128;
    const FAULTS: u64 = 1 << 16;
    const NOTHING: u64 = 1 << 28;
    /// Apart by what no turn takes a multiple of.
    const STEP: u64 = 10_007;
    let place = seen().rip;
    let mut ended = 0;
    for turn in 0..TURNS {
        field!(rip).store(RESTLESS, Ordering::Relaxed);
        field!(rcx).store(FAULTS, Ordering::Relaxed);
        field!(rsi).store(NOTHING, Ordering::Relaxed);
        field!(rsp).store(STACK, Ordering::Relaxed);
        field!(guest_exit_code).store(0x60, Ordering::Relaxed);
        ghcb.write_msr(0x6E0, cpu::tsc() + SOON + turn * STEP);
        let code = enter(ghcb).code;
        ended += u64::from(doorbell.take() == 0xE0 && code == 0x60);
    }
    check("so it does whenever it comes", ended == TURNS, ended);
    field!(rip).store(place, Ordering::Relaxed);
}

fn forbidden(ghcb: Ghcb) {
    let page = RAM_VIEW + CODE;
    cpu::rmpadjust(page, 1, 0x102);
    let seen = enter(ghcb);
    let is_refused = seen.code == 0x400 && seen.info1 >> 36 & 1 == 1 && seen.info2 & !0xFFF == CODE;
    check(
        "a page without execute permission is a fault with the VMPL bit",
        is_refused,
        seen.info1,
    );
    cpu::rmpadjust(page, 1, 0xF02);
}
