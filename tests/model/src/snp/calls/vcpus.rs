//! Requests about vCPUs and their interrupts.

use crate::host::ghcb::{ApCreation, DoorbellRequest, Ghcb, Request};
use crate::host::lapic::Ipi;
use crate::machine::processor;
use crate::snp::addr::Gpa;
use crate::snp::rmp::Vmpl;
use crate::snp::vm::Vm;
use alloc::vec::Vec;
use stockade_abi::ghcb::{GhcbError, GhcbField};

impl Vm {
    /// Requests about vCPUs and their interrupts.
    pub(super) fn serve_vcpu(&self, index: u32, request: Request, ghcb: &mut Ghcb) {
        match request {
            Request::ApCreation {
                action,
                vmpl,
                apic_id,
                vmsa,
                sev_features,
            } => {
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
        let mut list = Vec::new();
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
        let is_possible =
            gpa != gpa.large_page() && self.memory.lock().map.translate(gpa).is_some();
        match action {
            ApCreation::Destroy => vcpu.remove(vmpl),
            _ if !is_possible => return false,
            ApCreation::OnInit => vcpu.contexts[vmpl.index()].vmsa_on_init = Some(gpa),
            ApCreation::Now => vcpu.install(vmpl, gpa, features),
        }
        drop(vcpu);
        self.wait_until_out(apic_id);
        if apic_id != processor::current().index {
            self.kick(apic_id);
        }
        true
    }
}
