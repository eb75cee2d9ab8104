//! VMRUN and all that must be swapped around it.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::vmcb::Vmcb;
use super::{Event, ExtendedState, extended};
use crate::machine::memory::{HostPa, PageBox};
use crate::machine::processor;

/// The general registers VMRUN does not load; RAX and RSP are in the VMCB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct GuestRegisters {
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    /// The time-stamp counter [`INSTRUCTIONS_AROUND`] instructions apart, but for what the guest executed between.
    pub begun: u64,
    pub ended: u64,
}

/// Instructions of the model itself between the two readings of the time-stamp counter around a guest, which are in
/// [`GuestRegisters`]: the swap of its registers.
pub const INSTRUCTIONS_AROUND: u64 = 38;

/// Why the guest stopped, as the VMCB says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, APM vol. 2, appendix C; [`Exit::INVALID`] is widened to 64 bits.
    pub code: u64,
    /// EXITINFO1.
    pub info1: u64,
    /// EXITINFO2; for port accesses the next RIP. TCG tells no other.
    pub info2: u64,
    /// The event whose delivery was interrupted, if there was one.
    pub interrupted: Option<Event>,
}

impl Exit {
    /// The state could not be run.
    pub const INVALID: u64 = u64::MAX;
    /// A physical interrupt; it has been taken by the machine's handlers when [`run`] returns.
    pub const INTERRUPT: u64 = 0x60;

    fn of(vmcb: &Vmcb) -> Self {
        let control = &vmcb.control;
        // QEMU stores -1 as 32 bits.
        let code = if control.exit_code == u64::from(u32::MAX) {
            Self::INVALID
        } else {
            control.exit_code
        };
        let interrupted = Some(control.exit_int_info).filter(Event::valid);
        Self {
            code,
            info1: control.exit_info1,
            info2: control.exit_info2,
            interrupted,
        }
    }
}

/// VM_HSAVE_PA. APM vol. 2, 15.30.4.
const VM_HSAVE_PA: u32 = 0xC001_0117;

/// Makes SVM usable on this processor, whose block and segments are loaded; EFER.SVME was set at its entry.
pub(crate) fn enable() {
    extended::enable();
    let cpu = processor::current();
    // SAFETY: the page is this processor's own, for VMRUN to keep the host's state in.
    unsafe { x86::msr::wrmsr(VM_HSAVE_PA, cpu.host_save().as_u64()) };
    // SAFETY: SVM is enabled and the page is this processor's own.
    unsafe {
        core::arch::asm!("vmsave rax", in("rax") cpu.host_segments().as_u64(), options(nostack, preserves_flags))
    };
}

/// Runs the guest until its next exit. Physical interrupts that ended it, or came at its end, have been recorded on return.
///
/// Everything is swapped: general registers, what VMLOAD and VMSAVE move, x87, SSE, AVX, PKRU, XCR0, DR0-3, TSC_AUX. An XCR0 no processor
/// would accept gives [`Exit::INVALID`], as does a VMCB VMRUN refuses; of MXCSR and the XSAVE header only valid bits are loaded.
///
/// # Safety
///
/// 1. The nested page tables map nothing but memory given to the guest, and nested paging is on.
/// 2. INTR, NMI and VMRUN are intercepted, interrupts are masked virtually (`interrupt_control.masking`).
/// 3. The permission maps named in the VMCB are [`IoPermissionMap`](super::IoPermissionMap) and
///    [`MsrPermissionMap`](super::MsrPermissionMap), live, and pass nothing that is the host's own.
/// 4. Interrupts are off, the processor is [`enable`]d, and no other processor runs this VMCB.
pub unsafe fn run(
    vmcb: &mut PageBox<Vmcb>,
    registers: &mut GuestRegisters,
    extended: &mut ExtendedState,
) -> Exit {
    if !extended.make_loadable() {
        return Exit {
            code: Exit::INVALID,
            info1: 0,
            info2: 0,
            interrupted: None,
        };
    }
    extended.load_registers();
    let cpu = processor::current();
    // SAFETY: (1) to (4); the extended state was just checked.
    unsafe {
        swap_and_run(
            vmcb.address(),
            registers,
            cpu.host_segments(),
            extended,
            extended::supported(),
        )
    };
    extended.store_registers();
    Exit::of(vmcb)
}

/// The part that may not be interrupted: GIF is clear from before the first guest register is loaded until all are stored.
///
/// Host IF is set across VMRUN so that physical interrupts end the guest whatever its own IF; they are taken at STGI. VMRUN itself keeps
/// RAX and RSP of the host, nothing else of the general registers.
///
/// # Safety
///
/// 1. As [`run`]; the guest's XCR0 and XSAVE header are valid.
#[unsafe(naked)]
unsafe extern "C" fn swap_and_run(
    vmcb: HostPa,
    registers: *mut GuestRegisters,
    host_segments: HostPa,
    extended: *mut ExtendedState,
    xcr0: u64,
) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdx", // [rsp+24]: host segments
        "push rcx", // [rsp+16]: extended state
        "push r8",  // [rsp+8]: all components
        "push rsi", // [rsp]: registers
        "clgi",
        "sti",
        // The guest's extended state, then its XCR0.
        "mov r9, rcx",
        "mov eax, r8d",
        "mov rdx, r8",
        "shr rdx, 32",
        "xrstor64 [r9]",
        "mov rax, [r9 + {xcr0}]",
        "cmp rax, r8",
        "je 2f",
        "mov rdx, rax",
        "shr rdx, 32",
        "xor ecx, ecx",
        "xsetbv",
        "2:",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rsi + {begun}], rax",
        "mov rax, rdi",
        "vmload rax",
        "mov rbx, [rsi + {rbx}]",
        "mov rcx, [rsi + {rcx}]",
        "mov rdx, [rsi + {rdx}]",
        "mov rdi, [rsi + {rdi}]",
        "mov rbp, [rsi + {rbp}]",
        "mov r8, [rsi + {r8}]",
        "mov r9, [rsi + {r9}]",
        "mov r10, [rsi + {r10}]",
        "mov r11, [rsi + {r11}]",
        "mov r12, [rsi + {r12}]",
        "mov r13, [rsi + {r13}]",
        "mov r14, [rsi + {r14}]",
        "mov r15, [rsi + {r15}]",
        "mov rsi, [rsi + {rsi}]",
        "vmrun rax",
        "vmsave rax",
        "push rsi",
        "mov rsi, [rsp + 8]",
        "mov [rsi + {rbx}], rbx",
        "mov [rsi + {rcx}], rcx",
        "mov [rsi + {rdx}], rdx",
        "mov [rsi + {rdi}], rdi",
        "mov [rsi + {rbp}], rbp",
        "mov [rsi + {r8}], r8",
        "mov [rsi + {r9}], r9",
        "mov [rsi + {r10}], r10",
        "mov [rsi + {r11}], r11",
        "mov [rsi + {r12}], r12",
        "mov [rsi + {r13}], r13",
        "mov [rsi + {r14}], r14",
        "mov [rsi + {r15}], r15",
        "pop qword ptr [rsi + {rsi}]",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rsi + {ended}], rax",
        // XCR0 back to all components, then store every one.
        "mov r8, [rsp + 8]",
        "mov r9, [rsp + 16]",
        "xor ecx, ecx",
        "xgetbv",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [r9 + {xcr0}], rax",
        "cmp rax, r8",
        "mov eax, r8d",
        "mov rdx, r8",
        "je 3f",
        "shr rdx, 32",
        "xsetbv",
        "jmp 4f",
        "3:",
        "shr rdx, 32",
        "4:",
        "xsave64 [r9]",
        "fninit",
        "mov dword ptr [rsp - 8], 0x1F80",
        "ldmxcsr [rsp - 8]",
        "mov rax, [rsp + 24]",
        "vmload rax",
        "stgi",
        "nop",
        "cli",
        "cld",
        "add rsp, 32",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        xcr0 = const offset_of!(ExtendedState, xcr0),
        rbx = const offset_of!(GuestRegisters, rbx),
        rcx = const offset_of!(GuestRegisters, rcx),
        rdx = const offset_of!(GuestRegisters, rdx),
        rsi = const offset_of!(GuestRegisters, rsi),
        rdi = const offset_of!(GuestRegisters, rdi),
        rbp = const offset_of!(GuestRegisters, rbp),
        r8 = const offset_of!(GuestRegisters, r8),
        r9 = const offset_of!(GuestRegisters, r9),
        r10 = const offset_of!(GuestRegisters, r10),
        r11 = const offset_of!(GuestRegisters, r11),
        r12 = const offset_of!(GuestRegisters, r12),
        r13 = const offset_of!(GuestRegisters, r13),
        r14 = const offset_of!(GuestRegisters, r14),
        r15 = const offset_of!(GuestRegisters, r15),
        begun = const offset_of!(GuestRegisters, begun),
        ended = const offset_of!(GuestRegisters, ended),
    )
}
