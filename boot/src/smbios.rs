//! SMBIOS tables (DMTF DSP0134 3.0), for firmware of the guest's to install: what the machine is, in the words of people.
//!
//! [`tables`] has types 0, 1, 3, 4, 16, 17, 19, 32 and 127; [`anchor`] is the entry point, whose address the firmware fills in.

use alloc::vec::Vec;

use crate::ram::RamMap;

mod structure;

use structure::Structure;

/// The name of the tables' file.
pub const TABLES: &str = "etc/smbios/smbios-tables";
/// The name of the anchor's file.
pub const ANCHOR: &str = "etc/smbios/smbios-anchor";

const MANUFACTURER: &str = "Stockade";
const PRODUCT: &str = "Stockade Q35";
const MIB: u64 = 1 << 20;

const BIOS: u16 = 0x0000;
const SYSTEM: u16 = 0x0100;
const CHASSIS: u16 = 0x0300;
const PROCESSOR: u16 = 0x0400;
const MEMORY_ARRAY: u16 = 0x1000;
const MEMORY_DEVICE: u16 = 0x1100;
const MEMORY_RANGE: u16 = 0x1300;
const BOOT: u16 = 0x2000;
const END: u16 = 0x7F00;

/// What a reference to nothing is.
const NO_ERROR_INFORMATION: u16 = 0xFFFE;
const NO_CACHE: u16 = 0xFFFF;
/// What reads "unknown" or "other", by the field.
const OTHER: u8 = 1;
const UNKNOWN: u8 = 2;
const SAFE: u8 = 3;

/// The machine to be described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine<'a> {
    /// How many vCPUs.
    pub vcpus: u16,
    /// The memory.
    pub ram: RamMap,
    /// Tells this machine from others.
    pub uuid: [u8; 16],
    /// The paravisor's version.
    pub version: &'a str,
    /// CPUID leaf 1: EAX and EDX.
    pub processor_id: [u32; 2],
}

/// Returns the structures one after the other.
#[must_use]
pub fn tables(machine: &Machine<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    bios(machine).write(&mut bytes);
    system(machine).write(&mut bytes);
    chassis(machine).write(&mut bytes);
    processor(machine).write(&mut bytes);
    memory_array(&machine.ram).write(&mut bytes);
    memory_device(&machine.ram).write(&mut bytes);
    for (handle, range) in (MEMORY_RANGE..).zip(machine.ram.ranges()) {
        memory_range(handle, range).write(&mut bytes);
    }
    let mut boot = Structure::new(32, BOOT);
    // No errors detected.
    boot.bytes(&[0; 7]);
    boot.write(&mut bytes);
    Structure::new(127, END).write(&mut bytes);
    bytes
}

/// Returns the 64-bit entry point for tables of so many bytes (DSP0134, 5.2.2).
#[must_use]
pub fn anchor(tables: &[u8]) -> Vec<u8> {
    const BYTES: u8 = 24;
    let mut anchor = Vec::from(*b"_SM3_\0");
    // Version 3.0, and the first revision of the entry point.
    anchor.extend([BYTES, 3, 0, 0, 1, 0]);
    let size = u32::try_from(tables.len()).unwrap_or(u32::MAX);
    anchor.extend(size.to_le_bytes());
    anchor.extend([0; 8]);
    let sum = anchor
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    anchor[5] = sum.wrapping_neg();
    anchor
}

/// Type 0 (7.1).
fn bios(machine: &Machine<'_>) -> Structure {
    /// "Characteristics are not supported": they are of ISA and floppy days.
    const NO_CHARACTERISTICS: u64 = 1 << 3;
    /// UEFI, and a virtual machine.
    const EXTENSION: [u8; 2] = [0, 1 << 3 | 1 << 4];
    let mut bios = Structure::new(0, BIOS);
    bios.string(MANUFACTURER);
    bios.string(machine.version);
    bios.word(0xE800);
    bios.string("01/01/2024");
    bios.byte(0);
    bios.quad(NO_CHARACTERISTICS);
    bios.bytes(&EXTENSION);
    // No release numbers, of system and of embedded controller.
    bios.bytes(&[0xFF; 4]);
    bios
}

/// Type 1 (7.2).
fn system(machine: &Machine<'_>) -> Structure {
    const POWER_SWITCH: u8 = 6;
    let mut system = Structure::new(1, SYSTEM);
    system.string(MANUFACTURER);
    system.string(PRODUCT);
    system.string(machine.version);
    system.string("");
    system.bytes(&machine.uuid);
    system.byte(POWER_SWITCH);
    system.string("");
    system.string("");
    system
}

/// Type 3 (7.4).
fn chassis(machine: &Machine<'_>) -> Structure {
    let mut chassis = Structure::new(3, CHASSIS);
    chassis.string(MANUFACTURER);
    chassis.byte(OTHER);
    chassis.string(machine.version);
    chassis.string("");
    chassis.string("");
    // Boot-up, power supply, temperature, security.
    chassis.bytes(&[SAFE, SAFE, SAFE, UNKNOWN]);
    // OEM's own, height, power cords, parts.
    chassis.bytes(&[0; 8]);
    chassis.string("");
    chassis
}

/// Type 4 (7.5): one socket.
fn processor(machine: &Machine<'_>) -> Structure {
    const CENTRAL: u8 = 3;
    /// The socket is populated, the processor enabled.
    const ENABLED: u8 = 0x41;
    const SEE_FAMILY_2: u8 = 0xFE;
    let [low, high] = machine.processor_id;
    let count = u8::try_from(machine.vcpus).unwrap_or(u8::MAX);
    let mut processor = Structure::new(4, PROCESSOR);
    processor.string("CPU 0");
    processor.bytes(&[CENTRAL, SEE_FAMILY_2]);
    processor.string("Advanced Micro Devices, Inc.");
    processor.quad(u64::from(high) << 32 | u64::from(low));
    processor.string("virtual");
    // Voltage, external clock, greatest and present speed: not known.
    processor.bytes(&[0; 7]);
    processor.bytes(&[ENABLED, OTHER]);
    for _level in 1..=3 {
        processor.word(NO_CACHE);
    }
    for _text in ["serial number", "asset tag", "part number"] {
        processor.string("");
    }
    // Cores, enabled cores, threads.
    processor.bytes(&[count; 3]);
    // 64 bits wide.
    processor.word(1 << 2);
    processor.word(OTHER.into());
    for _count in 0..3 {
        processor.word(machine.vcpus);
    }
    processor
}

/// Type 16 (7.17).
fn memory_array(ram: &RamMap) -> Structure {
    const SYSTEM_MEMORY: u8 = 3;
    const MULTI_BIT_ECC: u8 = 6;
    const SEE_EXTENDED: u32 = 0x8000_0000;
    let mut array = Structure::new(16, MEMORY_ARRAY);
    array.bytes(&[OTHER, SYSTEM_MEMORY, MULTI_BIT_ECC]);
    let kib = u32::try_from(ram.bytes() / 1024).unwrap_or(SEE_EXTENDED);
    array.double(kib.min(SEE_EXTENDED));
    array.word(NO_ERROR_INFORMATION);
    array.word(1);
    array.quad(if kib >= SEE_EXTENDED { ram.bytes() } else { 0 });
    array
}

/// Type 17 (7.18): all memory as one module.
fn memory_device(ram: &RamMap) -> Structure {
    const UNKNOWN_WIDTH: u16 = 0xFFFF;
    const SEE_EXTENDED: u16 = 0x7FFF;
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    let mib = ram.bytes() / MIB;
    let size = u16::try_from(mib).unwrap_or(SEE_EXTENDED).min(SEE_EXTENDED);
    let mut device = Structure::new(17, MEMORY_DEVICE);
    for word in [
        MEMORY_ARRAY,
        NO_ERROR_INFORMATION,
        UNKNOWN_WIDTH,
        UNKNOWN_WIDTH,
        size,
    ] {
        device.word(word);
    }
    device.bytes(&[DIMM, 0]);
    device.string("DIMM 0");
    device.string("");
    device.byte(RAM);
    // Type detail "other"; speed not known.
    device.word(1 << 1);
    device.word(0);
    device.string(MANUFACTURER);
    for _text in ["serial number", "asset tag", "part number"] {
        device.string("");
    }
    device.byte(0);
    let extended = u32::try_from(mib).unwrap_or(u32::MAX);
    device.double(if size == SEE_EXTENDED { extended } else { 0 });
    // Configured speed; least, greatest and present voltage: not known.
    device.bytes(&[0; 8]);
    device
}

/// Type 19 (7.20).
fn memory_range(handle: u16, range: core::ops::Range<u64>) -> Structure {
    const SEE_EXTENDED: u32 = u32::MAX;
    let last = range.end - 1;
    let kib = |address: u64| u32::try_from(address / 1024).ok();
    let short = kib(range.start).zip(kib(last));
    let short = short.filter(|(_, last)| *last != SEE_EXTENDED);
    let (start, end) = short.unwrap_or((SEE_EXTENDED, SEE_EXTENDED));
    let mut mapped = Structure::new(19, handle);
    mapped.double(start);
    mapped.double(end);
    mapped.word(MEMORY_ARRAY);
    mapped.byte(1);
    let is_short = short.is_some();
    mapped.quad(if is_short { 0 } else { range.start });
    mapped.quad(if is_short { 0 } else { last });
    mapped
}

/// Returns the words by which a machine is told from others: a UUID of version 8 (RFC 9562, 5.8) of this digest.
#[must_use]
pub fn uuid(digest: &[u8]) -> [u8; 16] {
    let mut uuid = [0; 16];
    for (byte, from) in uuid.iter_mut().zip(digest) {
        *byte = *from;
    }
    // SMBIOS has the third number little-endian, so the version is in its second byte.
    uuid[7] = uuid[7] & 0x0F | 0x80;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

#[cfg(test)]
mod tests;
