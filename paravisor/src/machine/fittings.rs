//! What a machine may have beyond the least: an HPET, PCI functions, and the small devices that test kernels expect of QEMU.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use stockade_boot::manifest::Start;
use stockade_boot::ram::RamMap;
use stockade_bus::{AccessError, GuestMemory, PortIo};
use stockade_devices::fw_cfg::{Facts, File, FwCfg};
use stockade_devices::test_devices::{DebugExit, LATCH_PORT, LINES, PcTestdev};

use super::module_port::ModulePort;
use super::slots::Functions;
use crate::module::Modules;
use crate::screen::Surface;
use crate::tpm::TpmFitting;
use crate::virtio::Bays;
use crate::wires::Wire;

/// Guest memory for a device that reads its commands from it.
pub type Memory = &'static (dyn GuestMemory + Sync);

/// What is fitted.
#[derive(Clone, Debug, Default)]
pub struct Fittings {
    /// What starts the guest.
    pub start: Start,
    /// An HPET.
    pub hpet: bool,
    /// What firmware of the guest's is told.
    pub firmware: Option<FirmwareFittings>,
    /// The test devices, and what they tell.
    pub test_devices: Option<TestFittings>,
    /// The functions on the PCI bus besides the chipset's.
    pub functions: Functions,
    /// Those of them that are virtio devices.
    pub bays: Bays,
    /// A TPM.
    pub tpm: Option<TpmFitting>,
    /// Programs that run beside the guest.
    pub modules: Arc<Modules>,
}

/// What firmware of the guest's finds in its machine.
#[derive(Clone)]
pub struct FirmwareFittings {
    /// Guest memory.
    pub memory: Memory,
    /// How many vCPUs there are.
    pub vcpus: u16,
    /// Which memory there is.
    pub ram: RamMap,
    /// The files of its configuration device.
    pub files: Vec<File>,
    /// Where it says what it shows, if the host is to see that.
    pub surface: Option<Surface>,
}

impl fmt::Debug for FirmwareFittings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirmwareFittings")
            .field("vcpus", &self.vcpus)
            .field("ram", &self.ram)
            .finish_non_exhaustive()
    }
}

impl FirmwareFittings {
    /// Returns the configuration device; `None` if there are two files of a name.
    pub(super) fn device(&self) -> Option<FwCfg<Memory>> {
        let facts = Facts {
            cpu_count: self.vcpus,
            ram_bytes: self.ram.bytes(),
        };
        FwCfg::try_new(self.memory, facts, self.files.clone()).ok()
    }
}

/// What the test devices need.
#[derive(Clone, Copy)]
pub struct TestFittings {
    /// Guest memory.
    pub memory: Memory,
    /// How many vCPUs there are.
    pub vcpus: u16,
    /// Bytes of RAM.
    pub ram_bytes: u64,
}

impl fmt::Debug for TestFittings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestFittings")
            .field("vcpus", &self.vcpus)
            .field("ram_bytes", &self.ram_bytes)
            .finish_non_exhaustive()
    }
}

/// The test devices: isa-debug-exit, pc-testdev, fw_cfg, and a door to modules.
pub(super) struct TestDevices {
    pub(super) exit: DebugExit,
    pub(super) testdev: PcTestdev<Wire>,
    fw_cfg: FwCfg<Memory>,
    modules: ModulePort,
}

impl TestDevices {
    /// Returns the devices on the interrupt lines `wire` gives; `None` if what they tell makes no sense.
    pub(super) fn try_new(
        fittings: TestFittings,
        modules: Arc<Modules>,
        wire: impl Fn(u8) -> Wire,
    ) -> Option<Self> {
        let facts = Facts {
            cpu_count: fittings.vcpus,
            ram_bytes: fittings.ram_bytes,
        };
        let numbers: [u8; 24] = core::array::from_fn(|line| line.to_le_bytes()[0]);
        Some(Self {
            exit: DebugExit::new(),
            testdev: PcTestdev::new(numbers.map(wire)),
            fw_cfg: FwCfg::try_new(fittings.memory, facts, []).ok()?,
            modules: ModulePort::new(modules),
        })
    }

    pub(super) fn reset(&mut self) {
        self.exit = DebugExit::new();
        self.testdev.reset();
        self.fw_cfg.reset();
        self.modules.reset();
    }

    /// The wiring table of their ports.
    pub(super) fn with_port(
        &mut self,
        port: u16,
        access: impl FnOnce(&mut dyn PortIo, u16) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        const EXIT: u16 = DebugExit::PORT;
        const EXIT_END: u16 = EXIT + DebugExit::PORTS;
        const LATCH_END: u16 = LATCH_PORT + 12;
        const LINE_0: u16 = LATCH_PORT + LINES;
        const LINE_END: u16 = LINE_0 + 24;
        const MODULES: u16 = ModulePort::PORT;
        const MODULES_END: u16 = MODULES + ModulePort::PORTS;
        match port {
            LATCH_PORT..LATCH_END | LINE_0..LINE_END => {
                let outcome = access(&mut self.testdev, port - LATCH_PORT);
                // Nothing of ours keeps translations of the guest: there is nothing to forget.
                let _ = self.testdev.take_flush();
                outcome
            }
            EXIT..EXIT_END => access(&mut self.exit, port - EXIT),
            MODULES..MODULES_END => access(&mut self.modules, port - MODULES),
            0x510..=0x51B => access(&mut self.fw_cfg, port - 0x510),
            _ => Err(AccessError::NoRegister),
        }
    }
}
