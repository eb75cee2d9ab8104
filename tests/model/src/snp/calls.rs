//! The host's answers to VMGEXIT: requests in the GHCB page (GHCB 4).

use super::addr::{Gpa, PAGE_SIZE, Phys};
use super::devices::{self, MachineCpuid, MachinePorts};
use super::memory::PageState;
use super::npt::Unmapped;
use super::rmp::{PageSize, Vmpl};
use super::vcpu::{Asked, Caller};
use super::vm::Vm;
use crate::host::ghcb::page_state::{self, Change, Operation, Refused};
use crate::host::ghcb::{ApCreation, DoorbellRequest, EventInjection, Ghcb, PAGE_BYTES, Request, SHARED_BUFFER, Scratch};
use crate::host::lapic::{Ipi, LocalApic};
use crate::host::msr_protocol::OFFERED;
use crate::host::ports::{self, PowerAction};
use crate::host::{ioapic, lapic};
use crate::machine::clock;
use crate::machine::exit::Ending;
use crate::psp::{cpuid, message};
use crate::snp::cpu::Platform;
use alloc::boxed::Box;
use alloc::vec;
use core::mem::offset_of;
use stockade_abi::ghcb::{
    Ghcb as Layout, GhcbError, GhcbField, GuestRequestStatus, NaeExit, PROTOCOL_VERSION_2,
    SHARED_BUFFER_SIZE, USAGE_GHCB,
};

/// The GHCB's valid bitmap.
const BITMAP_AT: usize = offset_of!(Layout, valid_bitmap);
const BITMAP: u64 = BITMAP_AT as u64;
/// One past the GHCB's registers and bitmap.
const FIELDS_END: usize = BITMAP_AT + 16;
/// One past its shared buffer; version and usage lie beyond.
const TAIL: usize = SHARED_BUFFER + SHARED_BUFFER_SIZE;
/// xAPIC registers in guest-physical space.
const LAPIC_BASE: u64 = 0xFEE0_0000;

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
                    Request::PortString { .. } | Request::MmioRead { .. } | Request::PageStateChange { .. }
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
                page.in_page(SHARED_BUFFER as u64).write_bytes(&ghcb.bytes()[SHARED_BUFFER..TAIL]);
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
                ghcb.answer().edx_eax(clock::tsc()).with(GhcbField::RCX, u64::from(index)).done();
            }
            Request::Rdpmc { .. } => ghcb.answer().edx_eax(0).done(),
            Request::Cpuid { leaf, subleaf, xcr0, .. } => {
                let found = cpuid::run_time(leaf, subleaf, xcr0.unwrap_or(1), index, &MachineCpuid, &self.cpuid);
                ghcb.answer()
                    .with(GhcbField::RAX, u64::from(found.eax))
                    .with(GhcbField::RBX, u64::from(found.ebx))
                    .with(GhcbField::RCX, u64::from(found.ecx))
                    .with(GhcbField::RDX, u64::from(found.edx))
                    .done();
            }
            Request::Dr7Read => ghcb.answer().with(GhcbField::RAX, 0x400).done(),
            Request::Invd | Request::Wbinvd | Request::Monitor | Request::Mwait | Request::Dr7Write(_) => {
                ghcb.answer().done();
            }
            Request::PortIn { .. } | Request::PortOut { .. } | Request::PortString { .. } => {
                return self.serve_port(request, ghcb);
            }
            Request::MsrRead { .. } | Request::MsrWrite { .. } => self.serve_msr(index, request, ghcb),
            Request::Vmmcall { .. } => ghcb.answer().with(GhcbField::RAX, u64::MAX).done(),
            Request::MmioRead { gpa, len, scratch } => self.mmio_read(index, gpa, len, scratch, ghcb),
            Request::MmioWrite { gpa, len, scratch } => self.mmio_write(index, gpa, len, scratch, ghcb),
            Request::NmiComplete => ghcb.answer().done(),
            Request::PageStateChange { scratch } => self.serve_page_state(scratch, ghcb),
            Request::GuestRequest { request, response } => self.guest_request(request, response, ghcb),
            // Without certificates: as if the host had none to give.
            Request::ExtendedGuestRequest { request, response, .. } => self.guest_request(request, response, ghcb),
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

    fn serve_port(&self, request: Request, ghcb: &mut Ghcb) -> After {
        let mut raw = MachinePorts;
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
            Request::PortString { port, width, direction, scratch, .. } => {
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

    fn serve_msr(&self, index: u32, request: Request, ghcb: &mut Ghcb) {
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
                let written = self.vcpu(index).map(|mut vcpu| vcpu.lapic.write_msr(msr, value, now));
                match written {
                    Some(Ok(effect)) => {
                        self.apply(effect, index);
                        ghcb.answer().done();
                    }
                    _ => ghcb.answer().exception(EventInjection::GeneralProtection),
                }
            }
            Request::MsrWrite { index: msr, .. } if devices::swallows_msr(msr) => ghcb.answer().done(),
            _ => ghcb.answer().exception(EventInjection::GeneralProtection),
        }
    }

    fn mmio_read(&self, index: u32, gpa: u64, len: usize, scratch: Scratch, ghcb: &mut Ghcb) {
        let value = match gpa.checked_sub(ioapic::BASE) {
            Some(offset @ 0..ioapic::SIZE) => u64::from(self.host.lock().ioapic.read(offset)),
            _ => match (gpa.checked_sub(LAPIC_BASE), self.vcpu(index)) {
                (Some(offset @ 0..PAGE_SIZE), Some(vcpu)) => {
                    u64::from(vcpu.lapic.read_mmio(offset, clock::tsc()))
                }
                _ => u64::MAX,
            },
        };
        let bytes = value.to_le_bytes();
        ghcb.answer().scratch(scratch, &bytes[..len.min(8)]).done();
        self.put_scratch(scratch, &bytes[..len.min(8)]);
    }

    fn mmio_write(&self, index: u32, gpa: u64, len: usize, scratch: Scratch, ghcb: &mut Ghcb) {
        let Some(bytes) = self.scratch_bytes(ghcb, scratch) else {
            return ghcb.answer().malformed(GhcbError::INVALID_SCRATCH_AREA);
        };
        let mut value = [0; 4];
        value[..len.min(4)].copy_from_slice(&bytes[..len.min(4)]);
        let value = u32::from_le_bytes(value);
        match (gpa.checked_sub(ioapic::BASE), gpa.checked_sub(LAPIC_BASE)) {
            (Some(offset @ 0..ioapic::SIZE), _) => {
                let delivery = self.host.lock().ioapic.write(offset, value);
                self.deliver(delivery);
            }
            (_, Some(offset @ 0..PAGE_SIZE)) => {
                let effect = self.vcpu(index).map(|mut vcpu| vcpu.lapic.write_mmio(offset, value, clock::tsc()));
                self.apply(effect.unwrap_or(lapic::Effect::None), index);
            }
            _ => {}
        }
        ghcb.answer().done();
    }

    /// Scratch bytes, wherever they are; `None` outside memory the host may see.
    fn scratch_bytes(&self, ghcb: &Ghcb, scratch: Scratch) -> Option<vec::Vec<u8>> {
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
            let Some(page) = gpa.checked_add(done as u64).and_then(|at| self.shared_page(at)) else {
                return;
            };
            done += page.write_bytes(&bytes[done..]);
        }
    }

    fn serve_page_state(&self, scratch: Scratch, ghcb: &mut Ghcb) {
        let Some(mut buffer) = self.scratch_bytes(ghcb, scratch) else {
            return ghcb.answer().malformed(GhcbError::INVALID_SCRATCH_AREA);
        };
        let mut unmapped = Unmapped::Nothing;
        let mut pages = 0;
        let result = page_state::process(&mut buffer, |change| {
            pages += u64::from(change.size.pages());
            let one = self.change_pages(change)?;
            if one == Unmapped::Something {
                unmapped = one;
            }
            Ok(())
        });
        self.counters.count_page_state(pages);
        if unmapped == Unmapped::Something {
            self.flush_others();
        }
        ghcb.answer().scratch(scratch, &buffer).info(0, result).done();
    }

    /// One change of the list. The caller makes the other processors forget.
    pub(super) fn change_pages(&self, change: Change) -> Result<Unmapped, Refused> {
        if let Some(attack) = self.attack
            && attack.on_page_state(self, &change)
        {
            return Ok(Unmapped::Nothing);
        }
        let size = match change.size {
            page_state::PageSize::Small => PageSize::Small,
            page_state::PageSize::Large => PageSize::Large,
        };
        let state = match change.operation {
            Operation::Private => PageState::Private,
            Operation::Shared => PageState::Shared,
            // Hints.
            Operation::Psmash | Operation::Unsmash => return Ok(Unmapped::Nothing),
        };
        let gpa = Gpa::new(change.gpa);
        let mut memory = self.memory.lock();
        if size == PageSize::Large && change.first > 0 {
            let mut unmapped = Unmapped::Nothing;
            for page in u64::from(change.first)..512 {
                let gpa = Gpa::new(change.gpa + page * PAGE_SIZE);
                if memory.change_state(gpa, PageSize::Small, state).ok_or(Refused)? == Unmapped::Something {
                    unmapped = Unmapped::Something;
                }
            }
            return Ok(unmapped);
        }
        memory.change_state(gpa, size, state).ok_or(Refused)
    }

    fn guest_request(&self, request: u64, response: u64, ghcb: &mut Ghcb) {
        let (Some(from), Some(to)) = (self.shared_page(request), self.shared_page(response)) else {
            return ghcb.answer().malformed(GhcbError::INVALID_INPUT);
        };
        let mut page = [0; PAGE_BYTES];
        from.read_bytes(&mut page);
        let mut host = self.host.lock();
        let host = &mut *host;
        let status = match message::guest_request(&host.chip, &mut host.guest, &MachineCpuid, &page) {
            Ok(answer) => {
                to.write_bytes(&*answer);
                GuestRequestStatus::new()
            }
            Err(status) => GuestRequestStatus::new().with_firmware(status.code()),
        };
        ghcb.answer().info(0, status.into_bits()).done();
    }

    /// Requests about vCPUs and their interrupts.
    fn serve_vcpu(&self, index: u32, request: Request, ghcb: &mut Ghcb) {
        match request {
            Request::ApCreation { action, vmpl, apic_id, vmsa, sev_features } => {
                if self.create(action, vmpl, apic_id, vmsa, sev_features.unwrap_or(0)) {
                    ghcb.answer().done();
                } else {
                    ghcb.answer().malformed(GhcbError::INVALID_INPUT);
                }
            }
            Request::Doorbell(request) => self.serve_doorbell(index, request, ghcb),
            Request::HvIpi { icr } => {
                self.send(&Ipi::from_icr(icr), index);
                ghcb.answer().done();
            }
            Request::ApicIds { gpa, pages } => self.apic_ids(gpa, pages, ghcb),
            Request::ApResetHold => {
                if let Some(mut vcpu) = self.vcpu(index) {
                    vcpu.context().is_halted = true;
                }
                ghcb.answer().info(0, 1).done();
            }
            // A VMPL that cannot be run.
            Request::RunVmpl { .. } => ghcb.answer().malformed(GhcbError::INVALID_INPUT),
            _ => ghcb.answer().malformed(GhcbError::INVALID_EVENT),
        }
    }

    fn serve_doorbell(&self, index: u32, request: DoorbellRequest, ghcb: &mut Ghcb) {
        let Some(mut vcpu) = self.vcpu(index) else {
            return ghcb.answer().malformed(GhcbError::INVALID_INPUT);
        };
        match request {
            DoorbellRequest::Preferred => ghcb.answer().info(0, u64::MAX).done(),
            DoorbellRequest::Set(gpa) if self.shared_page(gpa).is_some() => {
                vcpu.doorbell = Some(gpa);
                ghcb.answer().info(0, gpa).done();
            }
            DoorbellRequest::Set(_) => ghcb.answer().malformed(GhcbError::INVALID_INPUT),
            DoorbellRequest::Query => ghcb.answer().info(0, vcpu.doorbell.unwrap_or(0)).done(),
            DoorbellRequest::Clear => {
                vcpu.doorbell = None;
                ghcb.answer().done();
            }
        }
    }

    fn apic_ids(&self, gpa: u64, pages: u64, ghcb: &mut Ghcb) {
        let count = self.vcpu_count();
        if pages == 0 || count > 1023 {
            return ghcb.answer().with(GhcbField::RAX, 1).done();
        }
        let mut list = vec![];
        for word in core::iter::once(count).chain(0..count) {
            list.extend_from_slice(&word.to_le_bytes());
        }
        match self.shared_page(gpa) {
            Some(page) => {
                page.write_bytes(&list);
                ghcb.answer().done();
            }
            None => ghcb.answer().malformed(GhcbError::INVALID_INPUT),
        }
    }

    /// AP creation. The VMSA itself is looked at only by VMRUN.
    fn create(&self, action: ApCreation, vmpl: u8, apic_id: u32, vmsa: u64, features: u64) -> bool {
        let (Some(vmpl), Some(mut vcpu)) = (Vmpl::try_new(vmpl), self.vcpu(apic_id)) else {
            return false;
        };
        let gpa = Gpa::new(vmsa);
        // Erratum: hardware can fault on a VMSA at a 2 MiB boundary; KVM refuses it, too.
        let is_possible = gpa != gpa.large_page() && self.memory.lock().map.translate(gpa).is_some();
        match action {
            ApCreation::Destroy => vcpu.remove(vmpl),
            _ if !is_possible => return false,
            ApCreation::OnInit => vcpu.contexts[vmpl.index()].vmsa_on_init = Some(gpa),
            ApCreation::Now => vcpu.install(vmpl, gpa, features),
        }
        drop(vcpu);
        self.wait_until_out(apic_id);
        if apic_id != crate::machine::processor::current().index {
            self.kick(apic_id);
        }
        true
    }
}

/// The VMPL to run, when that is what the GHCB at `page` asks in due form: the most frequent request of all, looked at
/// without a copy. Each word is read once; whatever is not quite so goes the long way.
fn asked_vmpl(page: Phys) -> Option<u8> {
    let read = |field: GhcbField| page.in_page(field.offset() as u64).read_u64();
    let valid = [BITMAP, BITMAP + 8].map(|word| page.in_page(word).read_u64());
    let has = |field: GhcbField| {
        let (word, bit) = field.valid_mask();
        valid[word] & bit != 0
    };
    let tail = page.in_page(offset_of!(Layout, protocol_version) as u64 & !7).read_u64();
    // Version in bytes 2 and 3, usage in the four behind.
    let is_version_2 = tail >> 16 == u64::from(PROTOCOL_VERSION_2) | u64::from(USAGE_GHCB) << 16;
    let fields = [GhcbField::SW_EXIT_CODE, GhcbField::SW_EXIT_INFO1, GhcbField::SW_EXIT_INFO2];
    if !is_version_2 || !fields.into_iter().all(has) || read(GhcbField::SW_EXIT_CODE) != NaeExit::RUN_VMPL.0 {
        return None;
    }
    u8::try_from(read(GhcbField::SW_EXIT_INFO1)).ok()
}

/// Copies the GHCB's fields, and the shared buffer when a request can be using it.
fn copy_in(page: Phys, copy: &mut [u8; PAGE_BYTES]) {
    page.read_bytes(&mut copy[..FIELDS_END]);
    page.in_page(TAIL as u64).read_bytes(&mut copy[TAIL..]);
    let scratch = GhcbField::SW_SCRATCH.valid_bit();
    if copy[BITMAP_AT + scratch / 8] & 1 << (scratch % 8) != 0 {
        page.in_page(SHARED_BUFFER as u64).read_bytes(&mut copy[SHARED_BUFFER..TAIL]);
    }
}

/// Answers "done" without copying the page: the fields and their valid bits, written where they are.
fn answer_in_place(page: Phys) {
    let info1 = GhcbField::SW_EXIT_INFO1;
    let info2 = GhcbField::SW_EXIT_INFO2;
    page.in_page(info1.offset() as u64).write_u64(0);
    page.in_page(info2.offset() as u64).write_u64(0);
    let mut words = [0; 2];
    for field in [info1, info2] {
        let (word, bit) = field.valid_mask();
        words[word] |= bit;
    }
    page.in_page(BITMAP).write_u64(words[0]);
    page.in_page(BITMAP + 8).write_u64(words[1]);
}

