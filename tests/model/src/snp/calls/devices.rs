//! Requests that reach devices: ports, MSRs, memory-mapped registers, and the buffers they go through.

use super::After;
use crate::host::ghcb::{EventInjection, Ghcb, Request, Scratch};
use crate::host::lapic::LocalApic;
use crate::host::ports::{self, PowerAction};
use crate::host::{ioapic, lapic};
use crate::machine::clock;
use crate::machine::exit::Ending;
use crate::snp::addr::PAGE_SIZE;
use crate::snp::bus::GuestPorts;
use crate::snp::devices;
use crate::snp::vm::Vm;
use alloc::vec;
use alloc::vec::Vec;
use stockade_abi::ghcb::{GhcbError, GhcbField};

/// xAPIC registers in guest-physical space.
const LAPIC_BASE: u64 = 0xFEE0_0000;

impl Vm {
    pub(super) fn serve_port(&self, request: Request, ghcb: &mut Ghcb) -> After {
        let mut raw = GuestPorts::new(self);
        let action = match request {
            Request::PortIn { port, width } => {
                let value = ports::read(&mut raw, port, width);
                ghcb.answer().with(GhcbField::RAX, u64::from(value)).done();
                None
            }
            Request::PortOut { port, width, value } => {
                ghcb.answer().done();
                ports::write(&mut raw, port, width, value)
            }
            Request::PortString {
                port,
                width,
                direction,
                scratch,
                ..
            } => {
                let Some(mut buffer) = self.scratch_bytes(ghcb, scratch) else {
                    ghcb.answer().malformed(GhcbError::INVALID_SCRATCH_AREA);
                    return After::Resume;
                };
                let action = ports::string(&mut raw, port, width, direction, &mut buffer);
                ghcb.answer().scratch(scratch, &buffer).done();
                self.put_scratch(scratch, &buffer);
                action
            }
            _ => None,
        };
        match action {
            Some(PowerAction::PowerOff) => After::End(Ending::PoweredOff),
            Some(PowerAction::Reset) => {
                log::info!("the guest resets the machine: taken as power-off");
                After::End(Ending::PoweredOff)
            }
            None => After::Resume,
        }
    }

    pub(super) fn serve_msr(&self, index: u32, request: Request, ghcb: &mut Ghcb) {
        let now = clock::tsc();
        match request {
            Request::MsrRead { index: msr } => {
                let value = match self.vcpu(index) {
                    Some(vcpu) if LocalApic::has_msr(msr) => vcpu.lapic.read_msr(msr, now).ok(),
                    _ if msr == 0x10 => Some(now),
                    _ => devices::read_msr(msr),
                };
                match value {
                    Some(value) => ghcb.answer().edx_eax(value).done(),
                    None => ghcb.answer().exception(EventInjection::GeneralProtection),
                }
            }
            Request::MsrWrite { index: msr, value } if LocalApic::has_msr(msr) => {
                let written = self
                    .vcpu(index)
                    .map(|mut vcpu| vcpu.lapic.write_msr(msr, value, now));
                match written {
                    Some(Ok(effect)) => {
                        self.apply(effect, index);
                        ghcb.answer().done();
                    }
                    _ => ghcb.answer().exception(EventInjection::GeneralProtection),
                }
            }
            Request::MsrWrite { index: msr, .. } if devices::swallows_msr(msr) => {
                ghcb.answer().done()
            }
            _ => ghcb.answer().exception(EventInjection::GeneralProtection),
        }
    }

    pub(super) fn mmio_read(
        &self,
        index: u32,
        gpa: u64,
        len: usize,
        scratch: Scratch,
        ghcb: &mut Ghcb,
    ) {
        let value = match gpa.checked_sub(ioapic::BASE) {
            Some(offset @ 0..ioapic::SIZE) => u64::from(self.host.lock().ioapic.read(offset)),
            _ => match (gpa.checked_sub(LAPIC_BASE), self.vcpu(index)) {
                (Some(offset @ 0..PAGE_SIZE), Some(vcpu)) => {
                    u64::from(vcpu.lapic.read_mmio(offset, clock::tsc()))
                }
                _ => self.read_window(gpa, len),
            },
        };
        let bytes = value.to_le_bytes();
        ghcb.answer().scratch(scratch, &bytes[..len.min(8)]).done();
        self.put_scratch(scratch, &bytes[..len.min(8)]);
    }

    pub(super) fn mmio_write(
        &self,
        index: u32,
        gpa: u64,
        len: usize,
        scratch: Scratch,
        ghcb: &mut Ghcb,
    ) {
        let Some(bytes) = self.scratch_bytes(ghcb, scratch) else {
            return ghcb.answer().malformed(GhcbError::INVALID_SCRATCH_AREA);
        };
        let mut wide = [0; 8];
        wide[..len.min(8)].copy_from_slice(&bytes[..len.min(8)]);
        let [a, b, c, d, ..] = wide;
        let value = u32::from_le_bytes([a, b, c, d]);
        match (gpa.checked_sub(ioapic::BASE), gpa.checked_sub(LAPIC_BASE)) {
            (Some(offset @ 0..ioapic::SIZE), _) => {
                let delivery = self.host.lock().ioapic.write(offset, value);
                self.deliver(delivery);
            }
            (_, Some(offset @ 0..PAGE_SIZE)) => {
                let effect = self
                    .vcpu(index)
                    .map(|mut vcpu| vcpu.lapic.write_mmio(offset, value, clock::tsc()));
                self.apply(effect.unwrap_or(lapic::Effect::None), index);
            }
            _ => self.write_window(gpa, len, u64::from_le_bytes(wide)),
        }
        ghcb.answer().done();
    }

    /// Scratch bytes, wherever they are; `None` outside memory the host may see.
    pub(super) fn scratch_bytes(&self, ghcb: &Ghcb, scratch: Scratch) -> Option<Vec<u8>> {
        let Scratch::Shared { gpa, len } = scratch else {
            return ghcb.scratch(scratch).map(<[u8]>::to_vec);
        };
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = gpa.checked_add(done as u64)?;
            done += self.shared_page(at)?.read_bytes(&mut bytes[done..]);
        }
        Some(bytes)
    }

    fn put_scratch(&self, scratch: Scratch, bytes: &[u8]) {
        let Scratch::Shared { gpa, .. } = scratch else {
            return;
        };
        let mut done = 0;
        while done < bytes.len() {
            let Some(page) = gpa
                .checked_add(done as u64)
                .and_then(|at| self.shared_page(at))
            else {
                return;
            };
            done += page.write_bytes(&bytes[done..]);
        }
    }
}
