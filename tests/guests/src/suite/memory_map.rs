//! What is where in memory, and what is nowhere (ICH9 data sheet, 6.4; PCI Express 3.0, 7.2.2).

use super::mmio::{ECAM, LPC, ecam};
use super::{Context, Outcome, equal, tests};
use crate::machine::memory::{read8, read16, read32, read64, write32};
use crate::machine::port::{inl, outl};

/// Where nothing is.
const ABSENT: u64 = 0xFED8_0000;

tests! {
    absent_memory_reads_ones, "Where nothing answers a read gives ones, of 1, 2, 4 and 8 bytes.",
        known_qemu: "memory where nothing is reads 0";
    absent_memory_takes_writes, "Where nothing answers a write is lost.";
    ecam_is_the_configuration_space, "ECAM and CF8/CFC show the same.";
    ecam_of_an_absent_device_reads_ones, "ECAM of a device that is not there reads ones.";
}

fn absent_memory_reads_ones(_: &mut Context) -> Outcome {
    equal("1 byte", read8(ABSENT), 0xFF_u8)?;
    equal("2 bytes", read16(ABSENT), 0xFFFF_u16)?;
    equal("4 bytes", read32(ABSENT), u32::MAX)?;
    equal("8 bytes", read64(ABSENT), u64::MAX)
}

fn absent_memory_takes_writes(_: &mut Context) -> Outcome {
    let before = read32(ABSENT);
    write32(ABSENT, 0x1234_5678);
    equal("after a write", read32(ABSENT), before)
}

fn ecam_is_the_configuration_space(_: &mut Context) -> Outcome {
    ecam()?;
    for register in (0..64).step_by(4) {
        outl(0xCF8, 0x8000_F800 | register);
        equal("register", read32(LPC + u64::from(register)), inl(0xCFC))?;
    }
    Ok(())
}

fn ecam_of_an_absent_device_reads_ones(_: &mut Context) -> Outcome {
    ecam()?;
    let absent = ECAM + (0x1D << 15);
    equal("4 bytes", read32(absent), u32::MAX)?;
    equal("2 bytes", read16(absent), 0xFFFF_u16)?;
    equal("1 byte", read8(absent), 0xFF_u8)
}
