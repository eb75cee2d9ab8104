//! The host's PCI bus as the guest's requests reach it: configuration ports, windows in memory space, messages.
//!
//! Only with an IOMMU between devices and memory: without one the guest finds the functions, but none answers.

use super::devices::MachinePorts;
use super::dma::DmaTables;
use super::memory::Memory;
use super::vm::{MachineFrames, Vm};
use crate::host::ghcb::Width;
use crate::host::pci::{Address, ConfigSpace, Pci, Register};
use crate::host::ports::RawPorts;
use crate::machine::iommu::{self, IommuError};
use crate::machine::memory::HostPa;
use crate::machine::mmio;
use crate::machine::{frames, pci, processor};
use alloc::boxed::Box;
use core::ops::Range;

/// Memory space: from the end of low RAM to the chipset's registers, and from the end of RAM to the end of the mapping.
const CHIPSET: u64 = 0xFEC0_0000;
const FOUR_GIB: u64 = 1 << 32;
const MAPPED_END: u64 = 1 << 39;
/// The firmware's tables lie in this much at the end of low RAM.
const RAM_GRANULE: u64 = 16 << 20;

/// Vectors a device's message may have: none that is an exception's or the model's own.
const MESSAGE_VECTORS: Range<u32> = 0x20..0xF0;
/// Where messages go: a local APIC by its id. APM vol. 2, 16.11.
const MESSAGE_ADDRESS: u32 = 0xFEE0_0000;
/// Delivery mode of a message: fixed and lowest priority are a vector, the others would be the model's to suffer.
const DELIVERY_MODE: u32 = 0x600;

/// Why devices cannot be given to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// No memory for tables.
    #[error("no memory for the IOMMU's tables")]
    OutOfMemory,
    /// It does not work.
    #[error(transparent)]
    Iommu(#[from] IommuError),
}

/// Finds the bus's functions, and lets them reach the guest's shared memory and nothing else.
pub fn attach(memory: &mut Memory) -> Result<Pci, AttachError> {
    if !iommu::is_there() {
        return Ok(Pci::default());
    }
    let dma = DmaTables::try_new(Box::new(MachineFrames), iommu::forget)
        .ok_or(AttachError::OutOfMemory)?;
    let root = HostPa::new(dma.root().get());
    memory.lend_to_devices(dma);
    // SAFETY: `DmaTables` makes the tables and leads to guest memory only; neither is ever given back.
    unsafe { iommu::enable(root) }?;
    let low = frames::low_end().next_multiple_of(RAM_GRANULE);
    let high = frames::end().max(FOUR_GIB).next_multiple_of(RAM_GRANULE);
    let mut bus = Pci::new([low..CHIPSET, high..MAPPED_END]);
    bus.scan(&mut MachineConfig);
    let virtio = bus
        .functions()
        .iter()
        .filter(|function| function.virtio.is_some());
    log::info!("{} virtio functions behind the IOMMU", virtio.count());
    Ok(bus)
}

/// The machine's configuration space.
pub struct MachineConfig;

impl ConfigSpace for MachineConfig {
    fn read(&mut self, address: Address, register: u8, bytes: usize) -> u32 {
        pci::read(address.port_value(register), u16::from(register & 3), bytes)
    }

    fn write(&mut self, address: Address, register: u8, bytes: usize, value: u32) {
        pci::write(
            address.port_value(register),
            u16::from(register & 3),
            bytes,
            value,
        );
    }
}

/// The ports a guest reaches: the bus's are this host's, the rest the machine's.
pub struct GuestPorts<'a> {
    vm: &'a Vm,
}

impl<'a> GuestPorts<'a> {
    /// The ports of this machine's guest.
    pub fn new(vm: &'a Vm) -> Self {
        Self { vm }
    }
}

const fn is_configuration(port: u16) -> bool {
    matches!(port, 0xCF8..=0xCFF)
}

impl RawPorts for GuestPorts<'_> {
    fn read(&mut self, port: u16, width: Width) -> u32 {
        if !is_configuration(port) {
            return MachinePorts.read(port, width);
        }
        let host = self.vm.host.lock();
        match host.pci.access(port, width) {
            Some(access) => {
                let value = MachineConfig.read(access.address, access.register, access.bytes);
                self.vm.tell_config(&host.pci, access, value)
            }
            None => host.pci.read_latch(port, width),
        }
    }

    fn write(&mut self, port: u16, width: Width, value: u32) {
        if !is_configuration(port) {
            return MachinePorts.write(port, width, value);
        }
        let mut host = self.vm.host.lock();
        match host.pci.access(port, width) {
            Some(access) => {
                MachineConfig.write(access.address, access.register, access.bytes, value);
                host.pci.written(access, &mut MachineConfig);
            }
            None => host.pci.write_latch(port, width, value),
        }
    }
}

impl Vm {
    /// The guest reads memory space: a function's window, or nobody's.
    pub(super) fn read_window(&self, gpa: u64, len: usize) -> u64 {
        let (Some((function, register)), Some(width)) =
            (self.named(gpa, len), mmio::Width::of_bytes(len))
        else {
            return u64::MAX;
        };
        // SAFETY: a function's window, where the machine has no memory, below the end of the mapping.
        let value = unsafe { mmio::read(HostPa::new(gpa), width) };
        self.tell_register(function, register, len, value)
    }

    /// The guest writes memory space.
    pub(super) fn write_window(&self, gpa: u64, len: usize, value: u64) {
        let (Some((function, register)), Some(width)) =
            (self.named(gpa, len), mmio::Width::of_bytes(len))
        else {
            return;
        };
        if let Register::MessageTable(offset) = register
            && !is_message(offset, len, value)
        {
            return log::warn!(
                "the guest's message {value:#x} at {offset:#x} is not for it to send"
            );
        }
        let value = match register {
            Register::MessageTable(offset) => addressed(offset, value),
            _ => value,
        };
        if let Some(value) = self.take_register(function, register, len, value) {
            // SAFETY: a function's window; the IOMMU lets devices reach shared memory only, and messages were looked at.
            unsafe { mmio::write(HostPa::new(gpa), width, value) };
        }
    }

    /// What an access to memory space names: a function and what of it.
    fn named(&self, gpa: u64, len: usize) -> Option<(usize, Register)> {
        let host = self.host.lock();
        let place = host.pci.window(gpa, len as u64)?;
        Some((place.function, host.pci.register(place)))
    }
}

/// Whether writing `value` to the table of messages leaves only messages a guest may have sent.
/// PCI Local Bus 3.0, 6.8.2: address, upper address, data, control.
fn is_message(offset: u64, len: usize, value: u64) -> bool {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    let low = u32::from_le_bytes([a, b, c, d]);
    let high = u32::from_le_bytes([e, f, g, h]);
    match len {
        4 => is_word(offset, low),
        8 => is_word(offset, low) && is_word(offset + 4, high),
        _ => false,
    }
}

/// A message for a vCPU's local APIC addresses that of the processor which runs it.
fn addressed(offset: u64, value: u64) -> u64 {
    let apic_id = u32::try_from(value >> 12 & 0xFF).unwrap_or(0);
    match processor::get(apic_id) {
        Some(cpu) if offset.is_multiple_of(16) && value != 0 => {
            value & !0xF_F000 | u64::from(cpu.apic_id) << 12
        }
        _ => value,
    }
}

fn is_word(offset: u64, value: u32) -> bool {
    match offset % 16 {
        0 => value & 0xFFF0_0000 == MESSAGE_ADDRESS || value == 0,
        4 => value == 0,
        8 => value & DELIVERY_MODE == 0 && MESSAGE_VECTORS.contains(&(value & 0xFF)) || value == 0,
        12 => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_vector_for_a_local_apic() {
        assert!(is_message(0, 4, 0xFEE0_1000));
        assert!(is_message(16, 8, 0xFEE0_0000));
        assert!(is_message(8, 4, 0xE2));
        assert!(is_message(24, 8, 0x0000_0001_0000_00EF));
        for vector in (0..0x20).chain(0xF0..0x100) {
            assert_eq!(is_message(8, 4, vector), vector == 0, "{vector:#x}");
        }
        // Memory, a high address, NMI, INIT, half a word.
        assert!(!is_message(0, 4, 0x0010_0000));
        assert!(!is_message(0, 8, 0x1_FEE0_0000));
        assert!(!is_message(8, 4, 0x4E2));
        assert!(!is_message(8, 4, 0x5E2));
        assert!(!is_message(8, 2, 0xE2));
        assert!(!is_message(6, 4, 0xFEE0_1000));
    }
}
