//! A host for tests: shared memory that is a copy, and a virtio function that works off its queues.
//!
//! [`FakeHost`] answers configuration space and registers as a modern virtio function does and, told to, serves its disk
//! from the rings; a test that wants a liar writes the rings itself through [`FakeMemory`].

mod disk;
mod memory;

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use crate::host::{Function, HostBus, HostFault};

pub use memory::FakeMemory;

/// Makes a type a host bus without devices.
#[macro_export]
macro_rules! no_devices {
    ($host:ty) => {
        impl $crate::HostBus for $host {
            fn config_read(
                &mut self,
                _: $crate::Function,
                _: u8,
            ) -> Result<u32, $crate::HostFault> {
                Err($crate::HostFault)
            }

            fn config_write(
                &mut self,
                _: $crate::Function,
                _: u8,
                _: u32,
            ) -> Result<(), $crate::HostFault> {
                Err($crate::HostFault)
            }

            fn register_read(&mut self, _: u64, _: &mut [u8]) -> Result<(), $crate::HostFault> {
                Err($crate::HostFault)
            }

            fn register_write(&mut self, _: u64, _: &[u8]) -> Result<(), $crate::HostFault> {
                Err($crate::HostFault)
            }
        }
    };
}

/// Where fake shared memory lies on the fake bus.
pub const MEMORY_BASE: u64 = 0x80_0100_0000;
const BAR: u64 = 0xFE00_0000;
const COMMON_LEN: u64 = 0x1000;

/// One queue as its device was told.
#[derive(Clone, Copy, Debug, Default)]
pub struct FakeQueue {
    /// Entries.
    pub size: u16,
    /// Bus address of the descriptors.
    pub descriptors: u64,
    /// Bus address of the available ring.
    pub driver: u64,
    /// Bus address of the used ring.
    pub device: u64,
    seen: u16,
    used: u16,
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeBuffer {
    /// Bus address.
    pub address: u64,
    /// Bytes.
    pub len: usize,
    /// The device writes it.
    pub is_writable: bool,
}

/// A virtio function at 00:02.0, and nothing else on the bus.
#[derive(Debug)]
pub struct FakeHost {
    /// The memory both sides see.
    pub memory: FakeMemory,
    /// What it offers.
    pub offered: u64,
    /// Features the driver took.
    pub accepted: u64,
    /// Device status.
    pub status: u8,
    /// The device's own configuration.
    pub config: Vec<u8>,
    /// Its queues.
    pub queues: Vec<FakeQueue>,
    /// Queues that were notified, in order.
    pub notified: Vec<u16>,
    /// The disk's content.
    pub disk: Vec<u8>,
    /// What the disk was asked, in order: kind and sector.
    pub asked: Vec<(u32, u64)>,
    /// A kind of request the disk fails.
    pub failing: Option<u32>,
    /// Every access is refused.
    pub is_refusing: bool,
    /// Reads float high, as of a device that is gone.
    pub is_gone: bool,
    /// The generation of its configuration is another one at each reading.
    pub is_restless: bool,
    generation: u8,
    space: BTreeMap<u8, u32>,
    feature_select: u32,
    queue_select: u16,
    vector: u16,
}

impl FakeHost {
    /// Returns a disk of `sectors`, with `memory` between it and its driver.
    #[must_use]
    pub fn disk(memory: FakeMemory, sectors: u64) -> Self {
        let mut host = Self::new(memory, 2, 1);
        host.config[..8].copy_from_slice(&sectors.to_le_bytes());
        host.disk = vec![0; usize::try_from(sectors * 512).expect("small disks")];
        host.offered |= 1 << 9 | 1 << 13 | 1 << 14;
        host
    }

    /// Returns a network card.
    #[must_use]
    pub fn net(memory: FakeMemory) -> Self {
        Self::new(memory, 1, 2)
    }

    /// Returns a console of one port that says how large it is.
    #[must_use]
    pub fn console(memory: FakeMemory) -> Self {
        let mut host = Self::new(memory, 3, 2);
        host.offered |= 1;
        host
    }

    fn new(memory: FakeMemory, device_type: u16, queues: usize) -> Self {
        let queue = FakeQueue {
            size: 64,
            ..FakeQueue::default()
        };
        Self {
            memory,
            offered: 1 << 28 | 1 << 29 | 1 << 32 | 1 << 33,
            accepted: 0,
            status: 0,
            config: vec![0; 64],
            queues: vec![queue; queues],
            notified: Vec::new(),
            disk: Vec::new(),
            asked: Vec::new(),
            failing: None,
            is_refusing: false,
            is_gone: false,
            is_restless: false,
            generation: 0,

            space: configuration(device_type),
            feature_select: 0,
            queue_select: 0,
            vector: 0xFFFF,
        }
    }

    /// Returns the function the device is.
    #[must_use]
    pub fn function() -> Function {
        Function {
            device: 2,
            function: 0,
        }
    }

    /// Returns the next chain of a queue: its head and its buffers, tables followed.
    pub fn next_chain(&mut self, queue: usize) -> Option<(u16, Vec<FakeBuffer>)> {
        let state = self.queues[queue];
        let index = self.word(state.driver + 2);
        if index == state.seen {
            return None;
        }
        let slot = u64::from(state.seen % state.size);
        let head = self.word(state.driver + 4 + 2 * slot);
        self.queues[queue].seen = state.seen.wrapping_add(1);
        let mut buffers = Vec::new();
        let (mut table, mut next) = (state.descriptors, Some(head));
        while let Some(entry) = next {
            let bytes = self.memory.device_read(table + 16 * u64::from(entry), 16);
            let word = u128::from_le_bytes(bytes.try_into().expect("16 bytes"));
            let address = u64::try_from(word & u128::from(u64::MAX)).expect("masked");
            let len = usize::try_from(word >> 64 & 0xFFFF_FFFF).expect("masked");
            let flags = word >> 96 & 0xFFFF;
            let following = u16::try_from(word >> 112).expect("16 bits");
            next = (flags & 1 != 0).then_some(following);
            if flags & 4 != 0 {
                (table, next) = (address, Some(0));
                continue;
            }
            buffers.push(FakeBuffer {
                address,
                len,
                is_writable: flags & 2 != 0,
            });
        }
        Some((head, buffers))
    }

    /// Puts an element into the used ring.
    pub fn finish(&mut self, queue: usize, id: u32, written: u32) {
        let state = self.queues[queue];
        let slot = u64::from(state.used % state.size);
        let element = u64::from(id) | u64::from(written) << 32;
        self.memory
            .device_write(state.device + 4 + 8 * slot, &element.to_le_bytes());
        self.queues[queue].used = state.used.wrapping_add(1);
        let used = self.queues[queue].used;
        self.memory
            .device_write(state.device + 2, &used.to_le_bytes());
    }

    /// Has the driver notify of the next chain, as a device does that has seen all there are.
    pub fn listen(&mut self, queue: usize) {
        let state = self.queues[queue];
        let event = state.device + 4 + 8 * u64::from(state.size);
        self.memory.device_write(event, &state.seen.to_le_bytes());
    }

    fn word(&self, address: u64) -> u16 {
        let bytes = self.memory.device_read(address, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    fn common_read(&self, offset: u64) -> u64 {
        let queue = self.queues.get(usize::from(self.queue_select));
        match offset {
            0x04 => self.offered >> (32 * self.feature_select) & 0xFFFF_FFFF,
            0x10 | 0x1A => u64::from(self.vector),
            0x12 => self.queues.len() as u64,
            0x14 => u64::from(self.status),
            0x15 => u64::from(self.generation),
            0x18 => queue.map_or(0, |queue| u64::from(queue.size)),
            0x1E => u64::from(self.queue_select),
            _ => 0,
        }
    }

    fn common_write(&mut self, offset: u64, value: u64) {
        let low = u32::try_from(value & 0xFFFF_FFFF).expect("masked");
        match offset {
            0x00 | 0x08 => self.feature_select = low,
            0x0C => self.accepted |= u64::from(low) << (32 * self.feature_select),
            0x10 | 0x1A => self.vector = u16::try_from(value).expect("16 bits"),
            0x14 => self.status = u8::try_from(value).expect("8 bits"),
            0x16 => self.queue_select = u16::try_from(value).expect("16 bits"),
            _ => {
                let select = usize::from(self.queue_select);
                let Some(queue) = self.queues.get_mut(select) else {
                    return;
                };
                let part = match offset & !7 {
                    0x18 => {
                        if offset == 0x18 {
                            queue.size = u16::try_from(value).expect("16 bits");
                        }
                        return;
                    }
                    0x20 => &mut queue.descriptors,
                    0x28 => &mut queue.driver,
                    _ => &mut queue.device,
                };
                let shift = 8 * (offset & 4);
                *part = *part & !(0xFFFF_FFFF << shift) | value << shift;
            }
        }
    }
}

/// Vendor capabilities for common, notify and device registers, and MSI-X, all in BAR 4.
fn configuration(device_type: u16) -> BTreeMap<u8, u32> {
    let id = u32::from(0x1040 + device_type) << 16 | 0x1AF4;
    let mut space = BTreeMap::from([(0, id), (4, 1 << 20), (0x34, 0x40)]);
    space.insert(0x20, u32::try_from(BAR).expect("below 4 GiB") | 4);
    let blocks = [
        (1_u32, 0x0000, 0x38),
        (2, 0x3000, 0x1000),
        (4, 0x2000, 0x40),
    ];
    for (at, (kind, offset, len)) in (0x40_u8..).step_by(0x14).zip(blocks) {
        let next = u32::from(at + 0x14);
        space.insert(at, 0x09 | next << 8 | 0x14 << 16 | kind << 24);
        space.insert(at + 4, 4);
        space.insert(at + 8, offset);
        space.insert(at + 12, len);
        space.insert(at + 16, 4);
    }
    // The third vendor capability has no fifth word, so MSI-X follows where it would be.
    space.insert(0x7C, 0x11 | 2 << 16);
    space.insert(0x80, 0x1000 | 4);
    space
}

impl HostBus for FakeHost {
    fn config_read(&mut self, function: Function, offset: u8) -> Result<u32, HostFault> {
        if self.is_refusing {
            return Err(HostFault);
        }
        if function != Self::function() || self.is_gone {
            return Ok(u32::MAX);
        }
        Ok(self.space.get(&offset).copied().unwrap_or(0))
    }

    fn config_write(
        &mut self,
        function: Function,
        offset: u8,
        value: u32,
    ) -> Result<(), HostFault> {
        if function == Self::function() {
            self.space.insert(offset, value);
        }
        Ok(())
    }

    fn register_read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), HostFault> {
        if self.is_refusing {
            return Err(HostFault);
        }
        if self.is_gone {
            bytes.fill(0xFF);
            return Ok(());
        }
        let offset = address - BAR;
        if let Some(at) = offset.checked_sub(0x2000).filter(|at| *at < 0x40) {
            let at = usize::try_from(at).expect("small");
            bytes.copy_from_slice(&self.config[at..at + bytes.len()]);
        } else if offset < COMMON_LEN {
            self.generation = self.generation.wrapping_add(self.is_restless.into());
            let value = self.common_read(offset).to_le_bytes();
            bytes.copy_from_slice(&value[..bytes.len()]);
        }
        Ok(())
    }

    fn register_write(&mut self, address: u64, bytes: &[u8]) -> Result<(), HostFault> {
        if self.is_refusing {
            return Err(HostFault);
        }
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        let value = u64::from_le_bytes(value);
        match address - BAR {
            offset if offset < COMMON_LEN => self.common_write(offset, value),
            offset if offset >= 0x3000 => {
                self.notified.push(u16::try_from(value).expect("16 bits"));
            }
            _ => {}
        }
        Ok(())
    }
}
