//! What an emulated instruction reaches.

use stockade_apic::LocalApic;
use stockade_bus::Gpa;
use stockade_intercept::emulate::{MmioBus, PortBus};

use super::{apic_time, apply};
use crate::host::Timekeeper;
use crate::machine::Machine;
use crate::stats::Work;

/// What an emulated instruction of a vCPU reaches: its own local APIC, and the machine.
pub struct Bus<'a, C> {
    /// The vCPU's local APIC.
    pub apic: &'a mut LocalApic,
    /// The machine.
    pub machine: &'a Machine<C>,
    /// Whom the vCPU's interrupts were for.
    pub wakes: &'a mut u64,
    /// What the instruction did.
    pub work: &'a mut Work,
    /// Whether a chip was touched.
    pub has_touched_chips: bool,
}

impl<C: Timekeeper + Clone> Bus<'_, C> {
    /// Returns the offset in the local APIC's page, if the address is in it.
    fn apic_offset(&self, gpa: Gpa) -> Option<u16> {
        let offset = u16::try_from(gpa.page_offset()).ok()?;
        (self.apic.page() == Some(gpa.page())).then_some(offset)
    }

    fn touch_chips(&mut self, work: Work) {
        self.has_touched_chips = true;
        *self.work = work;
    }
}

impl<C: Timekeeper + Clone> MmioBus for Bus<'_, C> {
    fn mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) {
        match self.apic_offset(gpa) {
            Some(offset) => {
                *self.work = Work::Apic;
                let now = self.machine.clock().now();
                if self.apic.read_mmio(offset, data, now).is_err() {
                    data.fill(0xFF);
                }
            }
            None => {
                self.touch_chips(Work::Mmio);
                self.machine.mmio_read(gpa, data);
            }
        }
    }

    fn mmio_write(&mut self, gpa: Gpa, data: &[u8]) {
        match self.apic_offset(gpa) {
            Some(offset) => {
                *self.work = Work::of_apic_register(offset >> 4);
                let now = apic_time(self.machine, *self.work);
                if let Ok(effect) = self.apic.write_mmio(offset, data, now) {
                    apply(self.apic, self.wakes, effect, self.machine);
                }
            }
            None => {
                self.touch_chips(Work::Mmio);
                self.machine.mmio_write(gpa, data);
            }
        }
    }
}

impl<C: Timekeeper + Clone> PortBus for Bus<'_, C> {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.touch_chips(Work::of_port(port));
        self.machine.port_read(port, data);
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.touch_chips(Work::of_port(port));
        self.machine.port_write(port, data);
    }
}
