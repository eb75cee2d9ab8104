//! The host's answers to VMGEXIT: requests in the GHCB page (GHCB 4).

mod devices;
mod page;
mod page_state;
mod vcpus;

use super::devices::MachineCpuid;
use super::rmp::Vmpl;
use super::vcpu::{Asked, Caller};
use super::vm::Vm;
use crate::host::ghcb::{Ghcb, PAGE_BYTES, Request, SHARED_BUFFER};
use crate::host::msr_protocol::OFFERED;
use crate::machine::clock;
use crate::machine::exit::Ending;
use crate::psp::{cpuid, message};
use alloc::boxed::Box;
use page::{FIELDS_END, TAIL, answer_in_place, asked_vmpl, copy_in};
use stockade_abi::ghcb::{GhcbError, GhcbField, GuestRequestStatus};

/// What the host does after a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Runs the vCPU on, whatever VMPL is current now.
    Resume,
    /// Ends the machine.
    End(Ending),
}

impl Vm {
    /// Serves the request in the GHCB at `gpa` of vCPU `index`.
    pub(super) fn serve_page(&self, index: u32, gpa: u64) -> After {
        let Some(page) = self.shared_page(gpa) else {
            return self.refuse_ghcb(index, gpa);
        };
        let (registered, mut copy) = match self.vcpu(index) {
            Some(mut vcpu) => (vcpu.context().ghcb == Some(gpa), vcpu.take_page()),
            None => return After::Resume,
        };
        if registered
            && let Some(vmpl) = asked_vmpl(page)
            && self.call(index, vmpl, Asked::Ghcb(gpa))
        {
            self.keep_page(index, copy);
            return After::Resume;
        }
        copy_in(page, &mut copy);
        let mut ghcb = Ghcb::new(gpa, copy);
        let mut returns_buffer = false;
        let after = match ghcb.request() {
            _ if !registered => {
                ghcb.answer().malformed(GhcbError::NOT_REGISTERED);
                After::Resume
            }
            Ok(request) => {
                returns_buffer = matches!(
                    request,
                    Request::PortString { .. }
                        | Request::MmioRead { .. }
                        | Request::PageStateChange { .. }
                );
                self.serve(index, request, &mut ghcb)
            }
            Err(error) => {
                log::warn!("vcpu {index}: malformed GHCB request: {error}");
                ghcb.answer().malformed(error);
                After::Resume
            }
        };
        // The page may have changed hands in between (the request itself may have done it).
        if let Some(page) = self.shared_page(gpa) {
            page.write_bytes(&ghcb.bytes()[..FIELDS_END]);
            if returns_buffer {
                page.in_page(SHARED_BUFFER as u64)
                    .write_bytes(&ghcb.bytes()[SHARED_BUFFER..TAIL]);
            }
        }
        self.keep_page(index, ghcb.into_page());
        after
    }

    fn keep_page(&self, index: u32, page: Box<[u8; PAGE_BYTES]>) {
        if let Some(mut vcpu) = self.vcpu(index) {
            vcpu.give_page(page);
        }
    }

    /// Turns vCPU `index` to a lower VMPL.
    pub(super) fn call(&self, index: u32, vmpl: u8, asked: Asked) -> bool {
        let (Some(target), Some(mut vcpu)) = (Vmpl::try_new(vmpl), self.vcpu(index)) else {
            return false;
        };
        let called = vcpu.call(target, asked);
        if called {
            self.counters.count_world_switch();
        }
        called
    }

    /// Answers the VMPL that had a lower one run, and which is current again.
    pub(super) fn complete_call(&self, caller: Caller) -> Option<u64> {
        self.counters.count_world_switch();
        match caller.asked {
            Asked::Msr => Some(crate::host::msr_protocol::Response::RunVmpl { error: 0 }.encode()),
            Asked::Ghcb(gpa) => {
                if let Some(page) = self.shared_page(gpa) {
                    answer_in_place(page);
                }
                None
            }
        }
    }

    fn refuse_ghcb(&self, index: u32, gpa: u64) -> After {
        log::error!("vcpu {index}: GHCB at {gpa:#x} is not shared memory");
        After::End(Ending::Stopped)
    }

    fn serve(&self, index: u32, request: Request, ghcb: &mut Ghcb) -> After {
        match request {
            Request::Rdtsc => ghcb.answer().edx_eax(clock::tsc()).done(),
            Request::Rdtscp => {
                ghcb.answer()
                    .edx_eax(clock::tsc())
                    .with(GhcbField::RCX, u64::from(index))
                    .done();
            }
            Request::Rdpmc { .. } => ghcb.answer().edx_eax(0).done(),
            Request::Cpuid {
                leaf,
                subleaf,
                xcr0,
                ..
            } => {
                let found = cpuid::run_time(
                    leaf,
                    subleaf,
                    xcr0.unwrap_or(1),
                    index,
                    &MachineCpuid,
                    &self.cpuid,
                );
                ghcb.answer()
                    .with(GhcbField::RAX, u64::from(found.eax))
                    .with(GhcbField::RBX, u64::from(found.ebx))
                    .with(GhcbField::RCX, u64::from(found.ecx))
                    .with(GhcbField::RDX, u64::from(found.edx))
                    .done();
            }
            Request::Dr7Read => ghcb.answer().with(GhcbField::RAX, 0x400).done(),
            Request::Invd
            | Request::Wbinvd
            | Request::Monitor
            | Request::Mwait
            | Request::Dr7Write(_) => {
                ghcb.answer().done();
            }
            Request::PortIn { .. } | Request::PortOut { .. } | Request::PortString { .. } => {
                return self.serve_port(request, ghcb);
            }
            Request::MsrRead { .. } | Request::MsrWrite { .. } => {
                self.serve_msr(index, request, ghcb)
            }
            Request::Vmmcall { .. } => ghcb.answer().with(GhcbField::RAX, u64::MAX).done(),
            Request::MmioRead { gpa, len, scratch } => {
                self.mmio_read(index, gpa, len, scratch, ghcb)
            }
            Request::MmioWrite { gpa, len, scratch } => {
                self.mmio_write(index, gpa, len, scratch, ghcb)
            }
            Request::NmiComplete => ghcb.answer().done(),
            Request::PageStateChange { scratch } => self.serve_page_state(scratch, ghcb),
            Request::GuestRequest { request, response } => {
                self.guest_request(request, response, ghcb)
            }
            // Without certificates: as if the host had none to give.
            Request::ExtendedGuestRequest {
                request, response, ..
            } => self.guest_request(request, response, ghcb),
            Request::HypervisorFeatures => ghcb.answer().info(0, OFFERED.bits()).done(),
            Request::Terminate { set, code } => return self.terminated(set, code),
            Request::UnsupportedEvent { code } => {
                log::error!("vcpu {index}: the guest does not know #VC {code:#x}");
                return After::End(Ending::Stopped);
            }
            other => self.serve_vcpu(index, other, ghcb),
        }
        After::Resume
    }

    /// The guest asked to be ended.
    pub(super) fn terminated(&self, set: u8, code: u8) -> After {
        crate::machine::console::line(format_args!("model-stop: set={set} code={code}"));
        After::End(Ending::Terminated)
    }

    fn guest_request(&self, request: u64, response: u64, ghcb: &mut Ghcb) {
        let (Some(from), Some(to)) = (self.shared_page(request), self.shared_page(response)) else {
            return ghcb.answer().malformed(GhcbError::INVALID_INPUT);
        };
        let mut page = [0; PAGE_BYTES];
        from.read_bytes(&mut page);
        if (self.attack).is_some_and(|attack| attack.on_guest_request(&page)) {
            let busy = GuestRequestStatus::new().with_host(GuestRequestStatus::HOST_BUSY);
            return ghcb.answer().info(0, busy.into_bits()).done();
        }
        let mut host = self.host.lock();
        let host = &mut *host;
        let status = match message::guest_request(&host.chip, &mut host.guest, &MachineCpuid, &page)
        {
            Ok(answer) => {
                to.write_bytes(&*answer);
                GuestRequestStatus::new()
            }
            Err(status) => GuestRequestStatus::new().with_firmware(status.code()),
        };
        ghcb.answer().info(0, status.into_bits()).done();
    }
}
