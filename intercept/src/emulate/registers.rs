//! The guest's registers, where they live: in its save area.
//!
//! [`Cpu`] names them as iced does and keeps the rules of partial writes: 32-bit writes clear the upper half, shorter ones keep it.

use iced_x86::Register;
use stockade_abi::vmsa::{Segment, Vmsa};

use super::flags::{FlagChange, Flags, Width};
use super::{Done, Exception, Stop};
use crate::debug::{self, Touch, Transfer};
use crate::walk::{WalkContext, control};

/// How code is decoded and addresses are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodeMode {
    /// 16-bit code: real mode, virtual 8086 mode or a 16-bit segment.
    Bits16,
    /// 32-bit code, in long mode or not.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl CodeMode {
    pub(super) const fn bitness(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }

    /// Returns an instruction pointer with the bits this mode does not have cut off.
    pub(super) const fn wrap(self, rip: u64) -> u64 {
        match self {
            Self::Bits16 => rip & 0xFFFF,
            Self::Bits32 => rip & 0xFFFF_FFFF,
            Self::Bits64 => rip,
        }
    }
}

/// A view of one vCPU's registers.
pub(super) struct Cpu<'a> {
    pub(super) vmsa: &'a mut Vmsa,
    pub(super) mode: CodeMode,
    pub(super) walk: WalkContext,
    /// The breakpoints met so far, as bits of DR6.
    met: u64,
}

impl<'a> Cpu<'a> {
    pub(super) fn new(vmsa: &'a mut Vmsa, phys_bits: u8) -> Self {
        let walk = WalkContext::new(vmsa, phys_bits);
        let attributes = vmsa.cs.attributes;
        let mode = if walk.is_long() && attributes.long() {
            CodeMode::Bits64
        } else if attributes.default_big() {
            CodeMode::Bits32
        } else {
            CodeMode::Bits16
        };
        Self {
            vmsa,
            mode,
            walk,
            met: 0,
        }
    }

    pub(super) fn flags(&self) -> Flags {
        Flags::from_bits_truncate(self.vmsa.rflags)
    }

    pub(super) fn change_flags(&mut self, change: FlagChange) {
        self.vmsa.rflags = change.apply(self.vmsa.rflags);
    }

    /// Returns whether segment types are checked: not in real mode nor virtual 8086 mode.
    pub(super) fn is_protected(&self) -> bool {
        self.vmsa.cr0 & control::CR0_PE != 0 && !self.flags().contains(Flags::VIRTUAL_8086)
    }

    /// Returns the segment register of that name.
    pub(super) fn segment(&self, name: Register) -> Result<Segment, Stop> {
        Ok(match name {
            Register::ES => self.vmsa.es,
            Register::CS => self.vmsa.cs,
            Register::SS => self.vmsa.ss,
            Register::DS => self.vmsa.ds,
            Register::FS => self.vmsa.fs,
            Register::GS => self.vmsa.gs,
            _ => return Err(Stop::Exception(Exception::INVALID_OPCODE)),
        })
    }

    /// Returns a general-purpose register's value, zero-extended.
    pub(super) fn read(&mut self, register: Register) -> u64 {
        let full = *self.slot(register);
        match width_of(register) {
            Width::Byte if is_high_byte(register) => (full >> 8) & 0xFF,
            width => full & width.mask(),
        }
    }

    /// Sets a general-purpose register.
    pub(super) fn write(&mut self, register: Register, value: u64) {
        let slot = self.slot(register);
        *slot = match width_of(register) {
            Width::Byte if is_high_byte(register) => (*slot & !0xFF00) | ((value & 0xFF) << 8),
            Width::Dword => value & 0xFFFF_FFFF,
            width => (*slot & !width.mask()) | (value & width.mask()),
        };
    }

    fn slot(&mut self, register: Register) -> &mut u64 {
        let vmsa = &mut *self.vmsa;
        match register.full_register() {
            Register::RCX => &mut vmsa.rcx,
            Register::RDX => &mut vmsa.rdx,
            Register::RBX => &mut vmsa.rbx,
            Register::RSP => &mut vmsa.rsp,
            Register::RBP => &mut vmsa.rbp,
            Register::RSI => &mut vmsa.rsi,
            Register::RDI => &mut vmsa.rdi,
            Register::R8 => &mut vmsa.r8,
            Register::R9 => &mut vmsa.r9,
            Register::R10 => &mut vmsa.r10,
            Register::R11 => &mut vmsa.r11,
            Register::R12 => &mut vmsa.r12,
            Register::R13 => &mut vmsa.r13,
            Register::R14 => &mut vmsa.r14,
            Register::R15 => &mut vmsa.r15,
            // Callers ask for general-purpose registers only; RAX is the one left.
            _ => &mut vmsa.rax,
        }
    }

    /// Returns one of the sixteen XMM registers, or `None` for another register.
    pub(super) fn xmm(&mut self, register: Register) -> Option<&mut [u8; 16]> {
        if !register.is_xmm() {
            return None;
        }
        self.vmsa.xmm.get_mut(register.number())
    }

    /// Compares an access with the guest's breakpoints.
    pub(super) fn watch(&mut self, touch: Touch, addresses: impl Iterator<Item = u64> + Clone) {
        self.met |= debug::met(self.vmsa, touch, addresses);
    }

    /// Returns whether a breakpoint was met, so that a string instruction traps after this element.
    pub(super) fn has_met_breakpoint(&self) -> bool {
        self.met != 0
    }

    /// Completes an instruction: RIP moves on, RF and the interrupt shadow end. A trap is due if TF was set when it began.
    pub(super) fn complete(&mut self, rip: u64, flags_before: Flags, transfer: Transfer) -> Done {
        self.vmsa.rip = rip;
        self.vmsa.rflags &= !Flags::RESUME.bits();
        self.end(flags_before, transfer, Done::Completed)
    }

    /// Leaves a string instruction between two elements: RIP stays, and a breakpoint on the instruction has had its turn.
    pub(super) fn pause(&mut self, flags_before: Flags) -> Done {
        self.vmsa.rflags |= Flags::RESUME.bits();
        self.end(flags_before, Transfer::None, Done::Again)
    }

    fn end(&mut self, flags_before: Flags, transfer: Transfer, done: Done) -> Done {
        self.vmsa.vintr_ctrl.set_int_shadow(false);
        if debug::end(self.vmsa, self.met, flags_before.bits(), transfer) {
            Done::Trapped
        } else {
            done
        }
    }
}

fn width_of(register: Register) -> Width {
    Width::from_bytes(register.size()).unwrap_or(Width::Qword)
}

fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}
