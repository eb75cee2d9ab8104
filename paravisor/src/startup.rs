//! INIT and start-up: what they do to a vCPU's registers (APM vol. 2, 14.1.3 and 16.5).

use stockade_abi::exit::ExitCode;
use stockade_abi::vmsa::{EventInfo, VintrControl, Vmsa, reset};

/// CR0.CD and CR0.NW, which an INIT leaves as they are.
const CR0_CACHE: u64 = 1 << 30 | 1 << 29;

/// Puts the registers into the state after INIT; `signature` is what CPUID 1 has in EAX.
///
/// x87, SSE and extended registers, XCR0 and all MSRs but EFER keep their values.
pub(crate) fn init(vmsa: &mut Vmsa, signature: u32) {
    vmsa.cs = reset::CS;
    for data in [
        &mut vmsa.ds,
        &mut vmsa.es,
        &mut vmsa.fs,
        &mut vmsa.gs,
        &mut vmsa.ss,
    ] {
        *data = reset::DATA;
    }
    (vmsa.ldtr, vmsa.tr) = (reset::LDTR, reset::TR);
    (vmsa.gdtr, vmsa.idtr) = (reset::TABLE, reset::TABLE);
    for register in [
        &mut vmsa.rax,
        &mut vmsa.rbx,
        &mut vmsa.rcx,
        &mut vmsa.rsi,
        &mut vmsa.rdi,
        &mut vmsa.rbp,
        &mut vmsa.rsp,
        &mut vmsa.r8,
        &mut vmsa.r9,
        &mut vmsa.r10,
        &mut vmsa.r11,
        &mut vmsa.r12,
        &mut vmsa.r13,
        &mut vmsa.r14,
        &mut vmsa.r15,
        &mut vmsa.cr2,
        &mut vmsa.cr3,
        &mut vmsa.cr4,
        &mut vmsa.dr0,
        &mut vmsa.dr1,
        &mut vmsa.dr2,
        &mut vmsa.dr3,
    ] {
        *register = 0;
    }
    vmsa.rdx = u64::from(signature);
    (vmsa.rip, vmsa.rflags, vmsa.cpl) = (reset::RIP, reset::RFLAGS, 0);
    vmsa.cr0 = vmsa.cr0 & CR0_CACHE | reset::CR0 & !CR0_CACHE;
    (vmsa.dr6, vmsa.dr7) = (reset::DR6, reset::DR7);
    vmsa.efer = reset::EFER_SVME;
    forget_events(vmsa);
}

/// What was to be delivered is not for the new start; nor are translations made before it.
fn forget_events(vmsa: &mut Vmsa) {
    vmsa.event_inj = EventInfo::new();
    vmsa.guest_exit_int_info = EventInfo::new();
    vmsa.guest_exit_code = ExitCode::INTR;
    let is_busy = vmsa.vintr_ctrl.busy();
    vmsa.vintr_ctrl = VintrControl::new().with_v_gif(true).with_busy(is_busy);
    vmsa.pcpu_id = 0;
}

/// Starts in real mode at `page`, in the state after INIT.
pub(crate) fn start_up(vmsa: &mut Vmsa, page: u8) {
    (vmsa.cs, vmsa.rip) = (reset::startup_cs(page), 0);
}

#[cfg(test)]
mod tests {
    use super::{init, start_up};
    use stockade_abi::vmsa::{EventInfo, Vmsa};
    use zerocopy::{FromBytes, IntoBytes};

    /// A save area with nothing left at zero.
    fn used() -> Vmsa {
        let mut vmsa = Vmsa::read_from_bytes(&[0xA5; 4096]).unwrap();
        vmsa.event_inj = EventInfo::new().with_valid(true);
        vmsa.vintr_ctrl.set_busy(true);
        vmsa
    }

    #[test]
    fn init_starts_at_the_reset_vector_with_nothing_pending() {
        let mut vmsa = used();
        init(&mut vmsa, 0x00A0_0F11);
        assert_eq!((vmsa.cs.base, vmsa.rip), (0xFFFF_0000, 0xFFF0));
        assert_eq!((vmsa.rax, vmsa.r15, vmsa.rdx), (0, 0, 0x00A0_0F11));
        assert_eq!((vmsa.cr0 & 0x9FFF_FFFF, vmsa.cr4, vmsa.cpl), (0x10, 0, 0));
        assert!(!vmsa.event_inj.valid() && !vmsa.vintr_ctrl.v_irq());
        assert!(vmsa.vintr_ctrl.busy() && vmsa.vintr_ctrl.v_gif());
        assert_eq!(vmsa.efer, 1 << 12, "runnable, and nothing else");
    }

    #[test]
    fn init_keeps_caches_extended_state_and_msrs() {
        let (before, mut vmsa) = (used(), used());
        init(&mut vmsa, 0);
        assert_eq!(vmsa.cr0 >> 29 & 3, before.cr0 >> 29 & 3);
        assert_eq!(vmsa.g_pat, before.g_pat);
        assert_eq!(vmsa.lstar, before.lstar);
        assert_eq!(vmsa.xcr0, before.xcr0);
        assert_eq!(vmsa.xmm.as_bytes(), before.xmm.as_bytes());
        assert_eq!(vmsa.sev_features, before.sev_features);
    }

    /// A stale translation of the former life would show the new one foreign memory.
    #[test]
    fn init_forgets_translations() {
        let mut vmsa = used();
        init(&mut vmsa, 0);
        assert_eq!(vmsa.pcpu_id, 0);
    }

    #[test]
    fn start_up_begins_at_the_page_it_names() {
        let mut vmsa = used();
        init(&mut vmsa, 0);
        start_up(&mut vmsa, 0x9A);
        assert_eq!((vmsa.cs.selector, vmsa.cs.base), (0x9A00, 0x9A000));
        assert_eq!((vmsa.cs.limit, vmsa.rip), (0xFFFF, 0));
    }
}
