//! The gate: into a module at CPL-3 and out of it.
//!
//! A module runs on page tables of its own, which have of the paravisor only what is needed on the way: the code between the linker's
//! `__gate_start` and `__gate_end`, descriptors, exception stacks, and the [`Gate`] of the processor, all for the supervisor alone. GS
//! names the processor's area, which has the gate at [`GATE_OFFSET`], while the paravisor runs, and nothing while a module does.
//!
//! Out leads SYSCALL, and any exception; #HV among them, which is how the host's timer ends a slice. An #HV on the way in would be
//! forgotten until the next one, so the last instructions look at the doorbell, and the #HV stub turns a return among them around (see
//! [`crate::window`]). Nothing here calls Rust before the paravisor's own tables are back.

/// Where in the processor's area the gate lies.
pub const GATE_OFFSET: usize = 16;
/// What [`Gate::vector`] says of SYSCALL: no exception's number.
pub const SYSCALL: u64 = 256;
/// The code segment of modules, with its privilege level.
pub const USER_CODE_SELECTOR: u16 = 0x33;
/// Their data segment.
pub const USER_DATA_SELECTOR: u16 = 0x2B;

/// What one processor needs to enter a module and come back. The assembly below knows the places of the fields.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct Gate {
    /// RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15 of the module.
    pub general: [u64; 14],
    /// Its RAX.
    pub rax: u64,
    /// What IRETQ takes: RIP, CS, RFLAGS, RSP, SS of the module.
    pub frame: [u64; 5],
    /// The exception that led out, or [`SYSCALL`].
    pub vector: u64,
    /// Its error code, or 0.
    pub error: u64,
    /// CR2 when the module was left.
    pub cr2: u64,
    /// CR3 of the module.
    pub module_cr3: u64,
    /// CR3 of the paravisor, while a module runs.
    pub own_cr3: u64,
    /// The stack of whoever entered the module.
    pub own_rsp: u64,
    /// The processor's doorbell page.
    pub doorbell: u64,
    /// The module's vector registers as XSAVE64 stores them, or FXSAVE64; need not be mapped while the module runs.
    pub vectors: u64,
    /// What of them XSAVE64 stores, all that XCR0 has on; nothing if it is FXSAVE64.
    pub states: u64,
}

impl Gate {
    /// Returns a gate through which nobody has gone.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            general: [0; 14],
            rax: 0,
            frame: [0; 5],
            vector: 0,
            error: 0,
            cr2: 0,
            module_cr3: 0,
            own_cr3: 0,
            own_rsp: 0,
            doorbell: 0,
            vectors: 0,
            states: 0,
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Gate, rax) == 112 && offset_of!(Gate, frame) == 120);
    assert!(offset_of!(Gate, vector) == 160 && offset_of!(Gate, cr2) == 176);
    assert!(offset_of!(Gate, module_cr3) == 184 && offset_of!(Gate, vectors) == 216);
    assert!(offset_of!(Gate, states) == 224);
};

/// Fields of the gate behind GS.
#[cfg(feature = "image")]
mod at {
    use super::GATE_OFFSET;

    pub(super) const RBX: usize = GATE_OFFSET;
    pub(super) const RAX: usize = GATE_OFFSET + 112;
    pub(super) const RIP: usize = GATE_OFFSET + 120;
    pub(super) const RFLAGS: usize = GATE_OFFSET + 136;
    pub(super) const RSP: usize = GATE_OFFSET + 144;
    pub(super) const VECTOR: usize = GATE_OFFSET + 160;
    pub(super) const ERROR: usize = GATE_OFFSET + 168;
    pub(super) const CR2: usize = GATE_OFFSET + 176;
    pub(super) const OWN_CR3: usize = GATE_OFFSET + 192;
    pub(super) const OWN_RSP: usize = GATE_OFFSET + 200;
    pub(super) const DOORBELL: usize = GATE_OFFSET + 208;
    pub(super) const VECTORS: usize = GATE_OFFSET + 216;
    pub(super) const STATES: usize = GATE_OFFSET + 224;
}

#[cfg(feature = "image")]
core::arch::global_asm!(
    ".section .text.gate, \"ax\", @progbits",
    ".balign 16",
    ".global stockade_module_enter",
    ".type stockade_module_enter, @function",
    // rdi: the gate. Comes back with the module's registers in it.
    "stockade_module_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi + 200], rsp",
    "mov rax, cr3",
    "mov [rdi + 192], rax",
    // FXRSTOR and XRSTOR leave the last x87 addresses of another alone where no exception waits: they are cleared first.
    "fninit",
    "mov rcx, [rdi + 216]",
    "mov eax, [rdi + 224]",
    "xor edx, edx",
    "test eax, eax",
    "jz 2f",
    "xrstor64 [rcx]",
    "jmp 3f",
    "2: fxrstor64 [rcx]",
    "3:",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov rax, [rdi + 184]",
    "mov cr3, rax",
    "lea rsp, [rdi + 120]",
    "mov rbx, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rsi, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov r8, [rdi + 48]",
    "mov r9, [rdi + 56]",
    "mov r10, [rdi + 64]",
    "mov r11, [rdi + 72]",
    "mov r12, [rdi + 80]",
    "mov r13, [rdi + 88]",
    "mov r14, [rdi + 96]",
    "mov r15, [rdi + 104]",
    "mov rdi, [rdi + 32]",
    "mov rax, gs:[{doorbell}]",
    "test byte ptr [rax + 1], 0x80",
    ".global stockade_module_window",
    "stockade_module_window:",
    "mov rax, gs:[{rax}]",
    "jnz stockade_module_cancel",
    "swapgs",
    ".global stockade_module_last",
    "stockade_module_last:",
    "iretq",
    // Where the #HV stub returns to instead, the second if GS has been swapped.
    ".global stockade_module_cancel_swapped",
    "stockade_module_cancel_swapped:",
    "swapgs",
    ".global stockade_module_cancel",
    "stockade_module_cancel:",
    "mov qword ptr gs:[{vector}], 28",
    "jmp stockade_module_return",
    // SYSCALL comes here with the module's stack, which is not touched.
    ".balign 16",
    ".global stockade_module_syscall",
    "stockade_module_syscall:",
    "swapgs",
    "mov gs:[{rax}], rax",
    "mov gs:[{rsp}], rsp",
    "mov gs:[{rip}], rcx",
    "mov gs:[{rflags}], r11",
    "mov qword ptr gs:[{vector}], {syscall}",
    "jmp stockade_module_save",
    // Exceptions come here with the stub's frame: vector, error code, RIP, CS, RFLAGS, RSP, SS.
    ".balign 16",
    ".global stockade_module_exception",
    "stockade_module_exception:",
    "swapgs",
    "mov gs:[{rax}], rax",
    "pop rax",
    "mov gs:[{vector}], rax",
    "pop rax",
    "mov gs:[{error}], rax",
    "pop rax",
    "mov gs:[{rip}], rax",
    "pop rax",
    "pop rax",
    "mov gs:[{rflags}], rax",
    "pop rax",
    "mov gs:[{rsp}], rax",
    // Everything but RAX and the frame is still in the registers; no stack is needed.
    ".global stockade_module_save",
    "stockade_module_save:",
    "mov gs:[{rbx}], rbx",
    "mov gs:[{rbx} + 8], rcx",
    "mov gs:[{rbx} + 16], rdx",
    "mov gs:[{rbx} + 24], rsi",
    "mov gs:[{rbx} + 32], rdi",
    "mov gs:[{rbx} + 40], rbp",
    "mov gs:[{rbx} + 48], r8",
    "mov gs:[{rbx} + 56], r9",
    "mov gs:[{rbx} + 64], r10",
    "mov gs:[{rbx} + 72], r11",
    "mov gs:[{rbx} + 80], r12",
    "mov gs:[{rbx} + 88], r13",
    "mov gs:[{rbx} + 96], r14",
    "mov gs:[{rbx} + 104], r15",
    "mov rax, cr2",
    "mov gs:[{cr2}], rax",
    "stockade_module_return:",
    "mov rax, gs:[{own_cr3}]",
    "mov cr3, rax",
    "mov rsp, gs:[{own_rsp}]",
    "cld",
    "mov rcx, gs:[{vectors}]",
    "mov eax, gs:[{states}]",
    "xor edx, edx",
    "test eax, eax",
    "jz 2f",
    "xsave64 [rcx]",
    "vzeroupper",
    "jmp 3f",
    "2: fxsave64 [rcx]",
    "3:",
    "fninit",
    "ldmxcsr [rip + stockade_module_mxcsr]",
    "mov eax, 0x10",
    "mov ss, eax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".balign 4",
    "stockade_module_mxcsr: .long 0x1f80",
    ".text",
    rbx = const at::RBX,
    rax = const at::RAX,
    rip = const at::RIP,
    rflags = const at::RFLAGS,
    rsp = const at::RSP,
    vector = const at::VECTOR,
    error = const at::ERROR,
    cr2 = const at::CR2,
    own_cr3 = const at::OWN_CR3,
    own_rsp = const at::OWN_RSP,
    doorbell = const at::DOORBELL,
    vectors = const at::VECTORS,
    states = const at::STATES,
    syscall = const SYSCALL,
);

#[cfg(feature = "image")]
unsafe extern "C" {
    fn stockade_module_enter(gate: *mut Gate);
    fn stockade_module_syscall();
}

/// Returns where SYSCALL is to lead.
#[cfg(feature = "image")]
#[must_use]
pub fn syscall_entry() -> u64 {
    stockade_module_syscall as *const () as u64
}

/// Runs a module until it leaves, by whatever way.
///
/// # Safety
/// 1. `gate` is the one behind GS on this processor, and nothing else refers to it until this returns.
/// 2. Its frame has the selectors of this module, no system flag in RFLAGS but IF, and a canonical RIP: a fault of IRETQ is the end.
/// 3. `module_cr3` names tables that have the gate's code, this gate, the descriptors, the exception stacks and the doorbell where they
///    are, for the supervisor alone, and nothing else of the paravisor.
/// 4. `states` is XCR0 and `vectors` names 832 bytes, aligned to 64, that XSAVE64 has stored; or it is 0, and they are 512 and FXSAVE64's.
/// 5. The stubs of [`crate::exception`] and [`crate::window`] are installed, each on a stack of its own by IST.
#[cfg(feature = "image")]
pub unsafe fn enter(gate: *mut Gate) {
    // SAFETY: 1.–5. are the caller's promise; the routine keeps the C ABI. What a module does with its registers is in the gate only.
    unsafe { stockade_module_enter(gate) }
}
