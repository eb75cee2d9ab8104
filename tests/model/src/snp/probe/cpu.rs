//! What a guest's software does with SEV-SNP: the instructions, the GHCB, exceptions.

use super::{BASE, SHARED_VIEW};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use stockade_abi::ghcb::{GhcbField, NaeExit};
use stockade_abi::ghcb_msr::GHCB_MSR;

/// Selector of 64-bit code.
pub(super) const CODE: u16 = 8;
const BITMAP: u64 = 0x3F0;
const BUFFER: u64 = 0x800;

/// #VCs taken, and the error code of the last.
pub(super) static VC_COUNT: AtomicU64 = AtomicU64::new(0);
pub(super) static VC_CODE: AtomicU64 = AtomicU64::new(0);
/// #HVs taken.
pub(super) static HV_COUNT: AtomicU64 = AtomicU64::new(0);
/// How many bytes the #VC handler skips: the length of the instruction about to be tried.
pub(super) static VC_SKIP: AtomicU64 = AtomicU64::new(2);

static GDT: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static IDT: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

// The handlers know nothing of stacks but the one they are on, and touch RAX only.
global_asm!(
    "probe_vc:",
    "push rax",
    "mov rax, [rsp + 8]",
    "mov [rip + {code}], rax",
    "lock inc qword ptr [rip + {count}]",
    "mov rax, [rip + {skip}]",
    "add [rsp + 16], rax",
    "pop rax",
    "add rsp, 8",
    "iretq",
    "probe_hv:",
    "lock inc qword ptr [rip + {signals}]",
    "iretq",
    code = sym VC_CODE,
    count = sym VC_COUNT,
    skip = sym VC_SKIP,
    signals = sym HV_COUNT,
);

unsafe extern "C" {
    safe static probe_vc: u8;
    safe static probe_hv: u8;
}

/// Loads descriptor tables with handlers for #HV and #VC; every processor of the probe shares them.
pub(super) fn load_tables() {
    GDT[1].store(0x00AF_9B00_0000_FFFF, Ordering::Relaxed);
    GDT[2].store(0x00CF_9300_0000_FFFF, Ordering::Relaxed);
    for (vector, handler) in [(28, &raw const probe_hv), (29, &raw const probe_vc)] {
        let at = handler.addr() as u64;
        let low = at & 0xFFFF | u64::from(CODE) << 16 | 0x8E << 40 | (at >> 16 & 0xFFFF) << 48;
        IDT[vector * 2].store(low, Ordering::Relaxed);
        IDT[vector * 2 + 1].store(at >> 32, Ordering::Relaxed);
    }
    let pointer = |table: &[AtomicU64]| {
        let [a, b, c, d, e, f, g, h] = (table.as_ptr().addr() as u64).to_le_bytes();
        let [low, high, ..] = (table.len() * 8 - 1).to_le_bytes();
        [low, high, a, b, c, d, e, f, g, h]
    };
    let (gdt, idt) = (pointer(&GDT), pointer(&IDT));
    // SAFETY: the tables are static and hold what is needed: code at selector 8, data at 16, two gates.
    unsafe {
        asm!(
            "lgdt [{gdt}]", "lidt [{idt}]",
            "mov ds, {data:x}", "mov es, {data:x}", "mov ss, {data:x}",
            gdt = in(reg) &gdt, idt = in(reg) &idt, data = in(reg) 16_u64,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// RDMSR of an MSR a guest of SNP has for itself.
pub(super) fn read_msr(msr: u32) -> u64 {
    // SAFETY: reading changes nothing.
    unsafe { x86::msr::rdmsr(msr) }
}

/// The time stamp counter.
pub(super) fn tsc() -> u64 {
    // SAFETY: reading it changes nothing.
    unsafe { x86::time::rdtsc() }
}

fn vmgexit() {
    // SAFETY: the host changes nothing but the GHCB and its MSR.
    unsafe { asm!("rep vmmcall", options(nostack)) };
}

/// A request by the MSR protocol.
pub(super) fn msr_call(value: u64) -> u64 {
    // SAFETY: the MSR is ours.
    unsafe { x86::msr::wrmsr(GHCB_MSR, value) };
    vmgexit();
    read_msr(GHCB_MSR)
}

/// PVALIDATE: what it leaves in EAX, and the carry flag.
pub(super) fn pvalidate(address: u64, size: u64, validate: u64) -> (u64, bool) {
    let (code, carry): (u64, u8);
    // SAFETY: the probe keeps its own pages valid but where it tests what happens otherwise.
    unsafe {
        asm!(".byte 0xF2, 0x0F, 0x01, 0xFF", "setc {carry}", carry = out(reg_byte) carry,
            inout("rax") address => code, in("rcx") size, in("rdx") validate, options(nostack));
    }
    (code, carry != 0)
}

/// RMPADJUST: what it leaves in EAX.
pub(super) fn rmpadjust(address: u64, size: u64, attributes: u64) -> u64 {
    let code;
    // SAFETY: it changes permissions of lower VMPLs only.
    unsafe {
        asm!(".byte 0xF3, 0x0F, 0x01, 0xFE", inout("rax") address => code, in("rcx") size, in("rdx") attributes, options(nostack));
    }
    code
}

/// RMPQUERY: EAX, and RDX with permissions.
pub(super) fn rmpquery(address: u64, vmpl: u64) -> (u64, u64) {
    let (code, permissions);
    // SAFETY: reading changes nothing.
    unsafe {
        asm!(".byte 0xF3, 0x0F, 0x01, 0xFD", inout("rax") address => code, inout("rdx") vmpl => permissions,
            out("rcx") _, options(nostack));
    }
    (code, permissions)
}

/// CPUID, which is #VC: the handler skips it.
pub(super) fn cpuid() {
    VC_SKIP.store(2, Ordering::Relaxed);
    // SAFETY: RBX is put back.
    unsafe {
        asm!("push rbx", "cpuid", "pop rbx", inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _)
    };
}

/// Reads a byte in two bytes of code, so that a #VC handler can skip it.
pub(super) fn touch(address: u64) {
    VC_SKIP.store(2, Ordering::Relaxed);
    // SAFETY: the probe reads its own memory, or memory whose absence it tests.
    unsafe { asm!("mov al, [rdi]", in("rdi") address, out("al") _, options(nostack, readonly)) };
}

/// Stops until something comes; interrupts stay off, #HV cannot be masked.
pub(super) fn halt() {
    // SAFETY: the probe's handlers return.
    unsafe { asm!("hlt", options(nostack)) };
}

/// Waits until `done`, at most for so many ticks; says whether it was done.
pub(super) fn wait(ticks: u64, done: impl Fn() -> bool) -> bool {
    let end = tsc() + ticks;
    while !done() {
        if tsc() > end {
            return done();
        }
        core::hint::spin_loop();
    }
    true
}

/// A word of memory, as other processors change it.
pub(super) fn word(address: u64) -> &'static AtomicU64 {
    // SAFETY: the probe's memory is mapped for good and only used as atomics.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

fn byte(address: u64) -> &'static AtomicU8 {
    // SAFETY: as for a word.
    unsafe { AtomicU8::from_ptr(address as *mut u8) }
}

/// Zeros a page.
pub(super) fn zero_page(address: u64) {
    for offset in (0..0x1000).step_by(8) {
        word(address + offset).store(0, Ordering::Relaxed);
    }
}

/// Where the page at `address` is seen without the C-bit.
pub(super) const fn shared(address: u64) -> u64 {
    address + SHARED_VIEW
}

/// Where the guest-physical space has the page at `address`.
pub(super) const fn gpa(address: u64) -> u64 {
    address + BASE
}

/// Makes the page at `address` shared by the MSR protocol, and zeros it.
pub(super) fn share(address: u64) -> bool {
    let (code, _) = pvalidate(address, 0, 0);
    let answer = msr_call(gpa(address) | 2 << 52 | 0x14);
    zero_page(shared(address));
    code == 0 && answer == 0x15
}

/// A GHCB.
#[derive(Clone, Copy)]
pub(super) struct Ghcb {
    address: u64,
}

impl Ghcb {
    /// Shares and registers the page at `address`.
    pub(super) fn register(address: u64) -> Option<Self> {
        let is_shared = share(address);
        let is_registered = msr_call(gpa(address) | 0x12) == gpa(address) | 0x13;
        (is_shared && is_registered).then_some(Self { address })
    }

    /// A field.
    pub(super) fn get(self, field: GhcbField) -> u64 {
        word(shared(self.address) + field.offset() as u64).load(Ordering::Relaxed)
    }

    fn set(self, field: GhcbField, value: u64) {
        let page = shared(self.address);
        word(page + field.offset() as u64).store(value, Ordering::Relaxed);
        let bit = field.valid_bit();
        byte(page + BITMAP + bit as u64 / 8).fetch_or(1 << (bit % 8), Ordering::Relaxed);
    }

    /// Makes a request with these fields; says what SW_EXITINFO1 became.
    pub(super) fn call(
        self,
        event: NaeExit,
        info1: u64,
        info2: u64,
        fields: &[(GhcbField, u64)],
    ) -> u64 {
        let page = shared(self.address);
        word(page + BITMAP).store(0, Ordering::Relaxed);
        word(page + BITMAP + 8).store(0, Ordering::Relaxed);
        // Version 2, usage 0.
        word(page + 0xFF8).store(2 << 16, Ordering::Relaxed);
        for (field, value) in fields {
            self.set(*field, *value);
        }
        self.set(GhcbField::SW_EXIT_CODE, event.0);
        self.set(GhcbField::SW_EXIT_INFO1, info1);
        self.set(GhcbField::SW_EXIT_INFO2, info2);
        // SAFETY: the MSR is ours.
        unsafe { x86::msr::wrmsr(GHCB_MSR, gpa(self.address)) };
        vmgexit();
        self.get(GhcbField::SW_EXIT_INFO1)
    }

    /// WRMSR of the host's.
    pub(super) fn write_msr(self, msr: u64, value: u64) -> u64 {
        let fields = [
            (GhcbField::RCX, msr),
            (GhcbField::RAX, value & 0xFFFF_FFFF),
            (GhcbField::RDX, value >> 32),
        ];
        self.call(NaeExit::MSR, 1, 0, &fields)
    }

    /// RDMSR of the host's.
    pub(super) fn read_msr(self, msr: u64) -> u64 {
        self.call(NaeExit::MSR, 0, 0, &[(GhcbField::RCX, msr)]);
        self.get(GhcbField::RAX) | self.get(GhcbField::RDX) << 32
    }

    /// OUT to a port.
    pub(super) fn port_out(self, port: u64, bytes: u64, value: u64) {
        self.call(
            NaeExit::IOIO,
            port << 16 | bytes << 4,
            0,
            &[(GhcbField::RAX, value)],
        );
    }

    /// IN from a port.
    pub(super) fn port_in(self, port: u64, bytes: u64) -> u64 {
        self.call(
            NaeExit::IOIO,
            port << 16 | bytes << 4 | 1,
            0,
            &[(GhcbField::RAX, 0)],
        );
        self.get(GhcbField::RAX)
    }

    /// A write to memory space.
    pub(super) fn mmio_write(self, address: u64, bytes: u64, value: u64) {
        word(shared(self.address) + BUFFER).store(value, Ordering::Relaxed);
        let scratch = (GhcbField::SW_SCRATCH, gpa(self.address) + BUFFER);
        self.call(NaeExit::MMIO_WRITE, address, bytes, &[scratch]);
    }

    /// A read of memory space.
    pub(super) fn mmio_read(self, address: u64, bytes: u64) -> u64 {
        let buffer = word(shared(self.address) + BUFFER);
        buffer.store(0, Ordering::Relaxed);
        let scratch = (GhcbField::SW_SCRATCH, gpa(self.address) + BUFFER);
        self.call(NaeExit::MMIO_READ, address, bytes, &[scratch]);
        buffer.load(Ordering::Relaxed)
    }

    /// A page state change of one page; SW_EXITINFO2 of the answer.
    pub(super) fn change_page(self, address: u64, operation: u64, huge: u64) -> u64 {
        let page = shared(self.address);
        word(page + BUFFER).store(0, Ordering::Relaxed);
        word(page + BUFFER + 8).store(
            gpa(address) | operation << 52 | huge << 56,
            Ordering::Relaxed,
        );
        let scratch = (GhcbField::SW_SCRATCH, gpa(self.address) + BUFFER);
        self.call(NaeExit::PAGE_STATE_CHANGE, 0, 0, &[scratch]);
        self.get(GhcbField::SW_EXIT_INFO2)
    }
}

/// A doorbell page, as little as the probe needs of it.
pub(super) struct Doorbell {
    address: u64,
}

impl Doorbell {
    /// Shares and registers the page at `address`.
    pub(super) fn register(ghcb: Ghcb, address: u64) -> Option<Self> {
        let is_shared = share(address);
        let answer = ghcb.call(NaeExit::HV_DOORBELL, 1, gpa(address), &[]);
        (is_shared && answer == 0).then_some(Self { address })
    }

    /// Takes the vector that waits.
    pub(super) fn take(&self) -> u8 {
        byte(shared(self.address) + 1).store(0, Ordering::SeqCst);
        byte(shared(self.address)).swap(0, Ordering::SeqCst)
    }
}
