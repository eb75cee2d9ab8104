//! The virtual machine: what its processors share.
//!
//! Locks: the memory system's, the host devices', one for each vCPU. Nobody holds two vCPUs' at once; whoever needs a
//! vCPU's and another takes the vCPU's first. To wait for another processor is allowed under any of them, since a
//! processor inside the guest holds none.

use super::addr::{FrameSource, Gpa, Phys};
use super::cpu::vmsa::Image;
use super::cpu::{NestedLie, Platform};
use super::memory::Memory;
use super::restart::Restarts;
use super::rmp::Owner;
use super::stats::Counters;
use super::vcpu::Vcpu;
use crate::host::ioapic::IoApic;
use crate::host::pci::Pci;
use crate::hostile::Attack;
use crate::machine::{clock, frames, lapic, processor};
use crate::psp::chip::Chip;
use crate::psp::cpuid;
use crate::psp::message::GuestContext;
use crate::tap::Tap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::{Mutex, MutexGuard};

/// The one guest this host runs.
pub const OWNER: Owner = Owner { asid: 1 };

/// The machine's frames as a [`FrameSource`].
pub struct MachineFrames;

impl FrameSource for MachineFrames {
    fn frame(&mut self) -> Option<Phys> {
        let page = frames::allocate_page()?;
        // SAFETY: the page was free and is never given back; the machine maps memory one to one.
        Some(unsafe { Phys::new(page.as_u64()) })
    }

    fn large_frame(&mut self) -> Option<Phys> {
        let chunk = frames::allocate_chunk()?;
        // SAFETY: as for a page.
        Some(unsafe { Phys::new(chunk.as_u64()) })
    }
}

/// The virtual machine.
pub struct Vm {
    /// The memory system.
    pub memory: Mutex<Memory>,
    /// Devices and firmware that serve all vCPUs.
    pub host: Mutex<Host>,
    /// What is counted.
    pub counters: Counters,
    /// What CPUID answers are made from.
    pub cpuid: cpuid::Options,
    /// How this host misbehaves.
    pub attack: Option<&'static dyn Attack>,
    /// What a host that lies about its virtio devices sees of them.
    pub tap: Option<Mutex<Tap>>,
    /// Whether to tell at the end where guest memory lies.
    pub view: bool,
    /// The guest is the model's own [`probe`](super::probe).
    pub is_probe: bool,
    vcpus: Vec<Slot>,
    restarts: Mutex<Restarts>,
}

/// Devices and firmware that serve all vCPUs.
pub struct Host {
    /// The host's IOAPIC.
    pub ioapic: IoApic,
    /// The host's PCI bus.
    pub pci: Pci,
    /// The PSP's own secrets.
    pub chip: Chip,
    /// What the PSP knows of the guest.
    pub guest: GuestContext,
}

struct Slot {
    vcpu: Mutex<Vcpu>,
    /// Its processor is in the guest, or just about to be.
    in_guest: AtomicBool,
    /// How often it left.
    departures: AtomicU64,
}

impl Vm {
    /// A machine ready to run.
    pub fn new(memory: Memory, host: Host, vcpus: Vec<Vcpu>, cpuid: cpuid::Options) -> Self {
        let slot = |vcpu| Slot {
            vcpu: Mutex::new(vcpu),
            in_guest: AtomicBool::new(false),
            departures: AtomicU64::new(0),
        };
        Self {
            memory: Mutex::new(memory),
            host: Mutex::new(host),
            counters: Counters::new(),
            cpuid,
            attack: None,
            tap: None,
            view: false,
            is_probe: false,
            vcpus: vcpus.into_iter().map(slot).collect(),
            restarts: Mutex::default(),
        }
    }

    /// Makes the host misbehave.
    pub fn attack_by(&mut self, attack: Option<&'static dyn Attack>) {
        self.attack = attack;
        let lie = attack.and_then(Attack::lie);
        self.tap = lie.map(|lie| Mutex::new(Tap::new(lie, &self.host.lock().pci)));
    }

    /// How many vCPUs there are.
    pub fn vcpu_count(&self) -> u32 {
        u32::try_from(self.vcpus.len()).unwrap_or(u32::MAX)
    }

    /// The vCPU with this index, which is its APIC id, too.
    pub fn vcpu(&self, index: u32) -> Option<MutexGuard<'_, Vcpu>> {
        Some(self.slot(index)?.vcpu.lock())
    }

    /// Makes the processor of vCPU `index` look for work: it leaves the guest or its sleep.
    pub fn kick(&self, index: u32) {
        if let Some(target) = processor::get(index) {
            lapic::kick(target);
        }
    }

    /// Waits until the processor of vCPU `index`, if it is in the guest now, has left it once.
    pub fn wait_until_out(&self, index: u32) {
        let Some(slot) = self.slot(index) else {
            return;
        };
        let before = slot.departures.load(Ordering::SeqCst);
        if index == processor::current().index || !slot.in_guest.load(Ordering::SeqCst) {
            return;
        }
        self.kick(index);
        while slot.in_guest.load(Ordering::SeqCst)
            && slot.departures.load(Ordering::SeqCst) == before
        {
            core::hint::spin_loop();
        }
    }

    /// The page at `gpa` when the host may see it.
    pub fn shared_page(&self, gpa: u64) -> Option<Phys> {
        self.memory.lock().host_page(Gpa::new(gpa))
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.vcpus.get(usize::try_from(index).ok()?)
    }
}

impl Platform for Vm {
    fn memory(&self) -> &Mutex<Memory> {
        &self.memory
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn flush_others(&self) {
        self.counters.count_flush();
        for index in 0..self.vcpu_count() {
            self.wait_until_out(index);
        }
    }

    fn set_in_guest(&self, is_in_guest: bool) {
        if let Some(slot) = self.slot(processor::current().index) {
            slot.in_guest.store(is_in_guest, Ordering::SeqCst);
            if !is_in_guest {
                slot.departures.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn recall(&self) {
        let cpu = processor::current();
        if cpu.has_pending() {
            lapic::kick(cpu);
        }
    }

    fn entering(&self, index: u32, image: &Image) {
        // The others are started by the first.
        if index == 0 && self.restarts.lock().note(image.vmpl(), image.vmsa()) {
            self.forget_code();
        }
    }

    fn tsc_mhz(&self) -> u64 {
        clock::tsc_khz() / 1000
    }

    fn nested_lie(&self, gpa: Gpa) -> Option<NestedLie> {
        self.attack?.on_nested_fault(self, gpa)
    }
}
