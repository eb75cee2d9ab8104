//! The instruction an exit is about: its bytes, its length, its registers.

use super::linear::{Linear, LinearFault};
use super::{Next, Platform, Processor};
use crate::snp::decode::{CodeSize, Decoded, MAX_LENGTH, decode, string_side};
use crate::snp::walk::{CR0_PE, Privilege};
use stockade_abi::exit::IoioInfo;

impl Processor {
    /// Goes on behind the instruction.
    pub(super) fn retire(&mut self, decoded: Decoded) {
        self.vmcb.save.rip = self.next_rip(decoded);
        self.injection.control.set_int_shadow(false);
    }

    /// RIP behind the instruction.
    pub(super) fn next_rip(&self, decoded: Decoded) -> u64 {
        let next = self.vmcb.save.rip.wrapping_add(u64::from(decoded.length));
        if self.code_size() == CodeSize::Long {
            next
        } else {
            next & 0xFFFF_FFFF
        }
    }

    fn code_size(&self) -> CodeSize {
        let is_long = self.paging().is_long() && self.vmcb.save.cs.attributes & 0x200 != 0;
        if is_long {
            CodeSize::Long
        } else {
            CodeSize::Legacy
        }
    }

    /// The instruction at RIP, which must be one that can be intercepted.
    pub(super) fn decoded(&mut self, platform: &impl Platform) -> Result<Decoded, Next> {
        match self.fetch(platform)? {
            Some(decoded) => Ok(decoded),
            // Another processor changed the code under this one: the guest runs what is there now.
            None => Err(Next::Resume),
        }
    }

    /// The instruction at RIP, if it is one that can be intercepted.
    pub(super) fn fetch(&mut self, platform: &impl Platform) -> Result<Option<Decoded>, Next> {
        let (bytes, count) = self.code(platform)?;
        Ok(decode(&bytes[..count], self.code_size()))
    }

    /// EXITINFO1 of a port access with what QEMU leaves out of it: the memory side of INS and OUTS.
    pub(super) fn port_info(&mut self, platform: &impl Platform, info: u64) -> Result<u64, Next> {
        const DEFAULT_BIG: u16 = 0x400;
        let info = IoioInfo::from_bits(info);
        if !info.string() {
            return Ok(info.into_bits());
        }
        let (bytes, count) = self.code(platform)?;
        let default = match self.code_size() {
            CodeSize::Long => 8,
            CodeSize::Legacy if self.vmcb.save.cs.attributes & DEFAULT_BIG != 0 => 4,
            CodeSize::Legacy => 2,
        };
        // Another processor changed the code under this one: the guest runs what is there now.
        let side = string_side(&bytes[..count], default).ok_or(Next::Resume)?;
        Ok(info
            .with_address16(side.address_bytes == 2)
            .with_address32(side.address_bytes == 4)
            .with_address64(side.address_bytes == 8)
            .with_segment(side.segment)
            .into_bits())
    }

    /// The bytes at RIP, and how many of them could be read.
    fn code(&mut self, platform: &impl Platform) -> Result<([u8; MAX_LENGTH], usize), Next> {
        let save = &self.vmcb.save;
        let base = if self.code_size() == CodeSize::Long {
            0
        } else {
            save.cs.base
        };
        let address = base.wrapping_add(save.rip);
        let privilege = if save.cpl == 3 && save.cr0 & CR0_PE != 0 {
            Privilege::User
        } else {
            Privilege::Supervisor
        };
        let mut bytes = [0; MAX_LENGTH];
        let memory = platform.memory().lock();
        let linear = Linear::new(&memory, self.who(), self.paging(), self.pages());
        match linear.fetch(address, &mut bytes, privilege) {
            Ok(count) => Ok((bytes, count)),
            // The code went away after it was executed; running it again tells why.
            Err(LinearFault::Page { .. } | LinearFault::Nested(_)) => Err(Next::Resume),
        }
    }

    /// A general register by its number.
    pub(super) fn general(&self, register: u8) -> u64 {
        let registers = &self.registers;
        match register {
            0 => self.vmcb.save.rax,
            1 => registers.rcx,
            2 => registers.rdx,
            3 => registers.rbx,
            4 => self.vmcb.save.rsp,
            5 => registers.rbp,
            6 => registers.rsi,
            7 => registers.rdi,
            8 => registers.r8,
            9 => registers.r9,
            10 => registers.r10,
            11 => registers.r11,
            12 => registers.r12,
            13 => registers.r13,
            14 => registers.r14,
            _ => registers.r15,
        }
    }
}
