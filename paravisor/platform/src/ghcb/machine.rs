//! Pages, processors, interrupts and power: what the host manages for us (GHCB specification, section 4.1).

use stockade_abi::ghcb::{
    ApCreation, ApCreationOp, GuestRequestStatus, NaeExit, PSC_MAX_ENTRIES, PscEntry, PscHeader,
    doorbell_action,
};
use stockade_abi::vmsa::SevFeatures;
use stockade_boot::layout::IOAPIC_BASE;
use zerocopy::{FromZeros, IntoBytes};

use super::{Gate, Ghcb, IoWidth, Request};
use crate::doorbell::Doorbell;
use crate::error::HostError;

/// The doorbell vector of the host's timer.
pub const TIMER_VECTOR: u8 = 0xE0;
/// The doorbell vector of console input.
pub const CONSOLE_VECTOR: u8 = 0xE1;
/// The doorbell vector by which one of our processors calls another out of its guest.
pub const KICK_VECTOR: u8 = 0xE2;

/// The first of the doorbell vectors by which the host's devices signal; the last is 0xEF.
pub const DEVICE_VECTOR: u8 = 0xE3;
/// The last of them.
pub const LAST_DEVICE_VECTOR: u8 = 0xEF;

const IA32_APIC_BASE: u32 = 0x1B;
const APIC_BASE_ENABLE_X2APIC: u64 = 1 << 10 | 1 << 11;
const X2APIC_EOI: u32 = 0x80B;
const X2APIC_SPURIOUS: u32 = 0x80F;
const SPURIOUS_ENABLE: u64 = 1 << 8 | 0xFF;
const X2APIC_LVT_TIMER: u32 = 0x832;
const LVT_TSC_DEADLINE: u64 = 2 << 17;
const IA32_TSC_DEADLINE: u32 = 0x6E0;

/// Which IOAPIC pin a PC's first serial port is wired to.
const CONSOLE_PIN: u32 = 4;
const POWER_PORT: u16 = 0x604;
/// SLP_EN with sleep type 0, which is S5 on the host's Q35.
const POWER_OFF: u32 = 0x2000;
/// How often a page state change may come back without progress.
const PSC_RETRIES: u32 = 1000;

impl<G: Gate> Ghcb<G> {
    /// Runs `vmpl` of this processor until the host comes back; `false` if `doorbell` is signalled and it was not run.
    pub(crate) fn run_vmpl(&self, vmpl: u8, doorbell: &Doorbell) -> Result<bool, HostError> {
        let request = Request::new(NaeExit::RUN_VMPL, u64::from(vmpl), 0);
        self.call_unless_signalled(&request, doorbell)
    }

    /// Registers the doorbell page.
    pub(crate) fn set_doorbell(&self, gpa: u64) -> Result<(), HostError> {
        let request = Request::new(NaeExit::HV_DOORBELL, doorbell_action::SET, gpa);
        self.call(&request).map(|_| ())
    }

    /// Tells the host which save area `vmpl` of processor `apic_id` has.
    pub(crate) fn create_vcpu(
        &self,
        apic_id: u32,
        vmpl: u8,
        features: SevFeatures,
        vmsa_gpa: u64,
    ) -> Result<(), HostError> {
        let info = ApCreation::new()
            .with_operation(ApCreationOp::CREATE)
            .with_vmpl(vmpl)
            .with_apic_id(apic_id);
        self.call(&Request {
            rax: Some(features.0),
            ..Request::new(NaeExit::AP_CREATION, info.into_bits(), vmsa_gpa)
        })?;
        Ok(())
    }

    /// Asks the host to change the state of pages, and sees it through.
    ///
    /// The pages' own validation is the caller's business; the host is not believed to have done it.
    pub(crate) fn change_page_state(&self, entries: &[PscEntry]) -> Result<(), HostError> {
        entries
            .chunks(PSC_MAX_ENTRIES)
            .try_for_each(|chunk| self.change_chunk(chunk))
    }

    fn change_chunk(&self, entries: &[PscEntry]) -> Result<(), HostError> {
        let event = NaeExit::PAGE_STATE_CHANGE;
        let malformed = HostError::Malformed {
            event,
            what: "too many pages",
        };
        let count = u16::try_from(entries.len()).map_err(|_| malformed)?;
        let Some(last) = count.checked_sub(1) else {
            return Ok(());
        };
        let mut next = 0;
        for _ in 0..PSC_RETRIES {
            // The host works on our shadow, written anew each time.
            let mut buffer = [0; size_of::<PscHeader>() + PSC_MAX_ENTRIES * size_of::<PscEntry>()];
            let (head, rest) = buffer.split_at_mut(size_of::<PscHeader>());
            head.copy_from_slice(PscHeader::new(next, last).as_bytes());
            rest[..size_of_val(entries)].copy_from_slice(entries.as_bytes());
            self.fill_buffer(event, &buffer)?;
            let answer = self.call(&Request {
                uses_buffer: true,
                ..Request::new(event, 0, 0)
            })?;
            match answer.info2()? {
                0 => {}
                detail => {
                    return Err(HostError::Refused {
                        event,
                        result: 0,
                        detail,
                    });
                }
            }
            let mut head = PscHeader::new_zeroed();
            self.read_buffer(event, head.as_mut_bytes())?;
            if head.cur_entry < next || head.cur_entry > count {
                let what = "impossible progress";
                return Err(HostError::Lied { event, what });
            }
            next = head.cur_entry;
            if next == count {
                return Ok(());
            }
        }
        let what = "no progress";
        Err(HostError::Lied { event, what })
    }

    /// Passes the message on the page at `request_gpa` to the PSP; its answer is on the page at `response_gpa`.
    pub(crate) fn guest_request(
        &self,
        request_gpa: u64,
        response_gpa: u64,
    ) -> Result<GuestRequestStatus, HostError> {
        let request = Request::new(NaeExit::GUEST_REQUEST, request_gpa, response_gpa);
        let answer = self.call(&request)?;
        Ok(GuestRequestStatus::from_bits(answer.info2()?))
    }

    /// Switches the host's local APIC to x2APIC mode and points its timer at [`TIMER_VECTOR`].
    pub(crate) fn prepare_timer(&self) -> Result<(), HostError> {
        let base = self.rdmsr(IA32_APIC_BASE)?;
        self.wrmsr(IA32_APIC_BASE, base | APIC_BASE_ENABLE_X2APIC)?;
        self.wrmsr(X2APIC_SPURIOUS, SPURIOUS_ENABLE)?;
        self.wrmsr(X2APIC_LVT_TIMER, LVT_TSC_DEADLINE | u64::from(TIMER_VECTOR))
    }

    /// Has the host signal [`TIMER_VECTOR`] once the time-stamp counter reaches `deadline`; a past one signals at once.
    pub fn arm_timer(&self, deadline: u64) -> Result<(), HostError> {
        self.wrmsr(IA32_TSC_DEADLINE, deadline.max(1))
    }

    /// Takes the timer's deadline back.
    pub fn disarm_timer(&self) -> Result<(), HostError> {
        self.wrmsr(IA32_TSC_DEADLINE, 0)
    }

    /// Tells the host that the vector last taken from the doorbell is dealt with.
    pub(crate) fn end_of_interrupt(&self) -> Result<(), HostError> {
        self.wrmsr(X2APIC_EOI, 0)
    }

    /// Has the host signal [`KICK_VECTOR`] on processor `apic_id`, which brings it back from its guest.
    pub fn kick(&self, apic_id: u32) -> Result<(), HostError> {
        let icr = u64::from(apic_id) << 32 | u64::from(KICK_VECTOR);
        self.call(&Request::new(NaeExit::HV_IPI, icr, 0))
            .map(|_| ())
    }

    /// Has the host's first serial port signal [`CONSOLE_VECTOR`] on processor `apic_id` (82093AA, 3.2.4).
    pub fn route_console_interrupt(&self, apic_id: u8) -> Result<(), HostError> {
        let index = 0x10 + 2 * CONSOLE_PIN;
        self.write_ioapic(index + 1, u32::from(apic_id) << 24)?;
        self.write_ioapic(index, u32::from(CONSOLE_VECTOR))
    }

    fn write_ioapic(&self, index: u32, value: u32) -> Result<(), HostError> {
        self.mmio_write(IOAPIC_BASE, &index.to_le_bytes())?;
        self.mmio_write(IOAPIC_BASE + 0x10, &value.to_le_bytes())
    }

    /// Asks the host to switch the machine off; returns only if it does not.
    pub fn power_off(&self) -> Result<(), HostError> {
        self.io_out(POWER_PORT, IoWidth::Word, POWER_OFF)
    }
}
