//! A read of a device's register: MOV of 32 bits to a register of the processor's.

use stockade_abi::exit::NpfInfo;
use stockade_abi::vmsa::Vmsa;
use stockade_bus::{Gpa, GuestMemory};

use super::{Operands, instruction, operands};
use crate::gpr;

const MOV_FROM_MEMORY: u8 = 0x8B;

/// A read of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegisterRead {
    /// The processor's register.
    to: u8,
    /// The instruction's length.
    len: u8,
}

impl RegisterRead {
    /// Completes the instruction.
    pub(crate) fn complete(self, value: u32, vmsa: &mut Vmsa) {
        *gpr::register(vmsa, self.to) = value.into();
        gpr::advance(vmsa, self.len);
    }
}

/// Returns the read of `gpa` a fault was for, if it is of the short kind.
pub(crate) fn decode(
    vmsa: &Vmsa,
    memory: &dyn GuestMemory,
    gpa: Gpa,
    info: NpfInfo,
) -> Option<RegisterRead> {
    let is_read = !info.contains(NpfInfo::WRITE);
    let bytes = is_read.then(|| instruction(vmsa, memory, info))??;
    let Operands {
        opcode,
        number,
        end,
    } = operands(&bytes, vmsa, gpa)?;
    let len = u8::try_from(end).ok()?;
    (opcode == MOV_FROM_MEMORY).then_some(RegisterRead { to: number, len })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use stockade_intercept::emulate::{Emulator, Hint, MmioBus};
    use zerocopy::IntoBytes;

    use super::*;
    use crate::short::tests::{CODE_AT, EOI, guest, write};

    const READ: NpfInfo = NpfInfo::FINAL_GPA;
    const VALUE: u32 = 0x8765_4321;

    struct Register;

    impl MmioBus for Register {
        fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) {
            assert_eq!((gpa, data.len()), (EOI, 4));
            data.copy_from_slice(&VALUE.to_le_bytes());
        }

        fn mmio_write(&mut self, _: Gpa, _: &[u8]) {}
    }

    /// Of all two-byte beginnings, what is taken does what the emulator would do.
    #[test]
    fn what_is_taken_is_what_the_emulator_does() {
        let mut taken = 0;
        let (fresh, memory) = guest(&[]);
        let all = (0..=0xFF_u8).flat_map(|first| (0..=0xFF_u8).map(move |second| (first, second)));
        for (first, second) in all {
            for rex in [
                None,
                Some(0x41),
                Some(0x44),
                Some(0x45),
                Some(0x48),
                Some(0x42),
            ] {
                let mut code: Vec<u8> = rex.into_iter().collect();
                code.extend([first, second, 0, 0, 0, 0, 7, 0, 0, 0]);
                memory.write(Gpa(CODE_AT), &code).unwrap();
                let mut vmsa = fresh.clone();
                let Some(read) = decode(&vmsa, &memory, EOI, READ) else {
                    continue;
                };
                taken += 1;
                read.complete(VALUE, &mut vmsa);
                let mut other = fresh.clone();
                let hint = Hint::from_exit(READ, EOI);
                let done = Emulator::new(46).emulate(&mut other, &memory, &mut Register, hint);
                assert!(done.is_ok(), "{code:x?}");
                assert!(vmsa.as_bytes() == other.as_bytes(), "{code:x?}");
            }
        }
        assert!(taken > 20, "{taken}");
    }

    #[test]
    fn writes_and_user_code_are_left_to_the_emulator() {
        // mov (%r10), %eax
        let (mut vmsa, memory) = guest(&[0x41, 0x8B, 0x02]);
        assert!(decode(&vmsa, &memory, EOI, READ).is_some());
        assert_eq!(decode(&vmsa, &memory, EOI, write()), None);
        vmsa.cpl = 3;
        assert_eq!(decode(&vmsa, &memory, EOI, READ), None);
    }
}
