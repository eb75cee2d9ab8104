//! The machine's side of a `Tap`: where a host that lies about its devices stands. Without one everything passes.

use super::addr::{FrameSource, Phys};
use super::vm::{MachineFrames, Vm};
use crate::host::pci::{ConfigAccess, Pci, Register};
use crate::machine::memory::HostPa;
use crate::machine::mmio;
use crate::tap::{GuestBytes, SHADOW_BYTES, Told, USED_REGISTER};
use alloc::vec::Vec;

/// Memory of the guest's that the host sees.
struct SharedBytes<'a>(&'a Vm);

impl GuestBytes for SharedBytes<'_> {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let Some(page) = self.page(gpa, done) else {
                return false;
            };
            done += page.read_bytes(&mut bytes[done..]);
        }
        true
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let Some(page) = self.page(gpa, done) else {
                return false;
            };
            done += page.write_bytes(&bytes[done..]);
        }
        true
    }
}

impl SharedBytes<'_> {
    fn page(&self, gpa: u64, offset: usize) -> Option<Phys> {
        self.0.shared_page(gpa.checked_add(offset as u64)?)
    }
}

impl Vm {
    /// What the guest is told of configuration space.
    pub(super) fn tell_config(&self, pci: &Pci, access: ConfigAccess, value: u32) -> u32 {
        match &self.tap {
            Some(tap) => {
                tap.lock()
                    .config(pci, access.address, access.register, access.bytes, value)
            }
            None => value,
        }
    }

    /// What the guest is told of a register.
    pub(super) fn tell_register(
        &self,
        function: usize,
        register: Register,
        len: usize,
        value: u64,
    ) -> u64 {
        match &self.tap {
            Some(tap) => tap.lock().read(function, register, len, value),
            None => value,
        }
    }

    /// What a device is told when the guest writes a register; `None` for nothing.
    pub(super) fn take_register(
        &self,
        function: usize,
        register: Register,
        len: usize,
        value: u64,
    ) -> Option<u64> {
        let Some(tap) = &self.tap else {
            return Some(value);
        };
        let mut tap = tap.lock();
        match tap.write(function, register, len, value) {
            Told::Nothing => None,
            Told::Value(value) => {
                if matches!(register, Register::Notify(_)) {
                    tap.notified(function, value & 0xFFFF, &SharedBytes(self));
                }
                Some(value)
            }
            Told::Divert {
                queue,
                shadow,
                value,
            } => {
                if let Some(queue) = tap.queue(function, queue) {
                    let pages = self.shadow_pages(queue.take_shadow(), shadow);
                    queue.divert(pages);
                }
                drop(tap);
                self.set_used_ring(function, shadow);
                Some(value)
            }
        }
    }

    /// Moves what devices have done on to their drivers.
    pub(super) fn look_at_devices(&self) {
        if let Some(tap) = &self.tap {
            tap.lock().look(&SharedBytes(self));
        }
    }

    /// Pages of the host's own, zero, that devices reach at `shadow`.
    fn shadow_pages(&self, mut pages: Vec<Phys>, shadow: u64) -> Vec<Phys> {
        let mut memory = self.memory.lock();
        for offset in (0..SHADOW_BYTES).step_by(0x1000) {
            let index = usize::try_from(offset / 0x1000).unwrap_or(usize::MAX);
            if pages.len() <= index {
                pages.extend(MachineFrames.frame());
            }
            if let (Some(page), Some(dma)) = (pages.get(index), memory.dma()) {
                page.zero_page();
                // Without it the device is refused, which shows.
                let _ = dma.map(shadow + offset, *page);
            }
        }
        pages
    }

    fn set_used_ring(&self, function: usize, shadow: u64) {
        let [low, high] = [0, 4].map(|half| {
            let Register::Common(offset) = USED_REGISTER else {
                return None;
            };
            let host = self.host.lock();
            let function = host.pci.functions().get(function)?;
            function.locate(Register::Common(offset + half))
        });
        for (gpa, value) in [(low, shadow & 0xFFFF_FFFF), (high, shadow >> 32)] {
            if let Some(gpa) = gpa {
                // SAFETY: the function's own register, in its window; the ring is the host's own pages.
                unsafe { mmio::write(HostPa::new(gpa), mmio::Width::Double, value) };
            }
        }
    }
}
