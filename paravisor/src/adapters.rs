//! The platform behind the library's traits.

use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::Vmsa;
use stockade_apic::Time as Moment;
use stockade_backend::{Function, HostBus, HostFault};
use stockade_boot::payload::{PayloadSource, Unreadable};
use stockade_bus::{Clock, Nanoseconds};
use stockade_paravisor::host::{Entered, Host, Processor, Signals, Timekeeper};
use stockade_platform::cpuid::CpuidTable;
use stockade_platform::doorbell::Doorbell;
use stockade_platform::ghcb::{CONSOLE_VECTOR, IoWidth, TIMER_VECTOR};
use stockade_platform::memory::GuestRam;
use stockade_platform::time::{TscClock, read_tsc};
use stockade_platform::vmsa::{HostReturn, prediction_barrier};
use stockade_platform::{Cpu, Ghcb, HostError};

/// The host's port for the guest's console: a 16550.
const CONSOLE_PORT: u16 = 0x3F8;
const LINE_STATUS: u16 = CONSOLE_PORT + 5;
const DATA_READY: u32 = 1;
/// A break has come since it was last read.
const BREAK: u32 = 1 << 4;

/// What a failed call to the host ends in.
fn reason(error: HostError) -> StopReason {
    log::error!("{error}");
    match error {
        HostError::Lied { .. } => StopReason::HOST_LIED,
        HostError::Refused { .. } | HostError::Malformed { .. } | HostError::MsrProtocol { .. } => {
            StopReason::GHCB_PROTOCOL
        }
    }
}

/// Guest time from the processor's counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) TscClock);

impl Clock for Time {
    fn now_ns(&self) -> Nanoseconds {
        self.0.now_ns()
    }
}

impl Timekeeper for Time {
    fn now(&self) -> Moment {
        Moment {
            ns: self.0.now_ns(),
            tsc: read_tsc(),
        }
    }

    fn tsc(&self) -> u64 {
        read_tsc()
    }

    fn tsc_at(&self, ns: u64) -> u64 {
        self.0.tsc_at(ns)
    }
}

/// The guest's side of a processor.
pub(crate) struct GuestProcessor {
    pub(crate) cpu: Cpu,
    /// What the processor knows, for the barriers the guest asks for.
    pub(crate) cpuid: &'static CpuidTable,
}

impl Processor for GuestProcessor {
    fn vmsa(&self) -> &Vmsa {
        self.cpu.vmsa.vmsa()
    }

    fn vmsa_mut(&mut self) -> &mut Vmsa {
        self.cpu.vmsa.vmsa_mut()
    }

    fn enter(&mut self) -> Result<Entered, StopReason> {
        let Cpu {
            ghcb,
            doorbell,
            vmsa,
            ..
        } = &mut self.cpu;
        match vmsa.enter(ghcb, doorbell).map_err(reason)? {
            HostReturn::Ran => Ok(Entered::Ran),
            HostReturn::EventPending => Ok(Entered::EventPending),
        }
    }

    fn reset(&mut self) {
        self.cpu.vmsa.reset();
    }

    fn prediction_barrier(&mut self, bits: u64) {
        prediction_barrier(self.cpuid, bits);
    }
}

/// Has the host's port signal input: OUT2 opens the interrupt line, input enables it (PC16550D, 8.5 and 8.7).
///
/// The FIFO is left as it is: switching it would drop what somebody has typed already.
pub(crate) fn open_console(ghcb: &Ghcb) -> Result<(), HostError> {
    ghcb.route_console_interrupt(0)?;
    for (register, value) in [(4, 0x0B), (1, 0x01)] {
        ghcb.io_out(CONSOLE_PORT + register, IoWidth::Byte, value)?;
    }
    Ok(())
}

/// The host as this processor sees it.
pub(crate) struct PlatformHost {
    ghcb: Ghcb,
    doorbell: Doorbell,
    breaks: Breaks,
}

/// Breaks on the host's console, which are its power button. Each comes with a zero among the characters.
#[derive(Default)]
struct Breaks {
    is_button_pressed: bool,
    /// Zeros still to come.
    zeros: u32,
}

impl Breaks {
    fn see(&mut self, is_break: bool) {
        if is_break {
            self.is_button_pressed = true;
            self.zeros = self.zeros.saturating_add(1);
        }
    }

    /// Returns whether a character is a break's and not the guest's.
    fn is_its_character(&mut self, byte: u8) -> bool {
        let is_its = byte == 0 && self.zeros > 0;
        if is_its {
            self.zeros -= 1;
        }
        is_its
    }
}

impl PlatformHost {
    pub(crate) fn new(cpu: &Cpu) -> Self {
        Self {
            ghcb: cpu.ghcb,
            doorbell: cpu.doorbell,
            breaks: Breaks::default(),
        }
    }
}

impl Host for PlatformHost {
    fn drain(&mut self) -> Result<Signals, StopReason> {
        if !self.doorbell.is_signalled() {
            return Ok(Signals::default());
        }
        let pending = self.doorbell.drain(&self.ghcb).map_err(reason)?;
        Ok(Signals {
            devices: pending.devices(),
            timer: pending.contains(TIMER_VECTOR),
            console: pending.contains(CONSOLE_VECTOR),
            dropped: pending.denied + u32::from(pending.nmi) + u32::from(pending.machine_check),
        })
    }

    fn is_signalled(&self) -> bool {
        self.doorbell.is_signalled()
    }

    fn wait(&mut self) -> Result<(), StopReason> {
        self.doorbell.wait();
        Ok(())
    }

    fn arm_timer(&mut self, tsc: u64) -> Result<(), StopReason> {
        self.ghcb.arm_timer(tsc).map_err(reason)
    }

    fn kick(&mut self, vcpu: usize) -> Result<(), StopReason> {
        // vCPUs are numbered by APIC id.
        let apic_id = u32::try_from(vcpu).unwrap_or(u32::MAX);
        self.ghcb.kick(apic_id).map_err(reason)
    }

    fn console_write(&mut self, bytes: &[u8]) -> Result<(), StopReason> {
        self.ghcb.io_out_string(CONSOLE_PORT, bytes).map_err(reason)
    }

    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, StopReason> {
        let mut got = 0;
        for _ in 0..buffer.len() {
            let status = self
                .ghcb
                .io_in(LINE_STATUS, IoWidth::Byte)
                .map_err(reason)?;
            if status & DATA_READY == 0 {
                return Ok(got);
            }
            let byte = self
                .ghcb
                .io_in(CONSOLE_PORT, IoWidth::Byte)
                .map_err(reason)?;
            let byte = byte.to_le_bytes()[0];
            self.breaks.see(status & BREAK != 0);
            if !self.breaks.is_its_character(byte) {
                buffer[got] = byte;
                got += 1;
            }
        }
        Ok(got)
    }

    fn take_button(&mut self) -> bool {
        core::mem::take(&mut self.breaks.is_button_pressed)
    }
}

/// The address register of configuration space (PCI Local Bus 3.0, 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DATA: u16 = 0xCFC;

impl PlatformHost {
    fn select(&self, function: Function, offset: u8) -> Result<(), HostFault> {
        let address = 1 << 31
            | u32::from(function.device & 31) << 11
            | u32::from(function.function & 7) << 8
            | u32::from(offset & 0xFC);
        fault(self.ghcb.io_out(CONFIG_ADDRESS, IoWidth::Double, address))
    }
}

/// What a failed access to a device ends in: the device is the host's, and lost.
fn fault<T>(outcome: Result<T, HostError>) -> Result<T, HostFault> {
    outcome.map_err(|error| {
        log::warn!("{error}");
        HostFault
    })
}

impl HostBus for PlatformHost {
    fn config_read(&mut self, function: Function, offset: u8) -> Result<u32, HostFault> {
        self.select(function, offset)?;
        fault(self.ghcb.io_in(CONFIG_DATA, IoWidth::Double))
    }

    fn config_write(
        &mut self,
        function: Function,
        offset: u8,
        value: u32,
    ) -> Result<(), HostFault> {
        self.select(function, offset)?;
        fault(self.ghcb.io_out(CONFIG_DATA, IoWidth::Double, value))
    }

    fn register_read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), HostFault> {
        fault(self.ghcb.mmio_read(address, bytes))
    }

    fn register_write(&mut self, address: u64, bytes: &[u8]) -> Result<(), HostFault> {
        fault(self.ghcb.mmio_write(address, bytes))
    }
}

/// The staging range as the loader reads it.
pub(crate) struct Staging<'a>(pub(crate) &'a GuestRam);

impl PayloadSource for Staging<'_> {
    fn read(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        self.0
            .read_staging(gpa, buffer)
            .map_err(|_| Unreadable(gpa))
    }
}
