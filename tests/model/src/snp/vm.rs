//! The virtual machine: what its processors share, behind one lock.

use super::addr::{FrameSource, Gpa, Phys};
use super::gpa_map::GpaMap;
use super::rmp::{Owner, Rmp};
use crate::machine::frames;
use alloc::vec::Vec;
use spin::Mutex;

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

/// What the processors share.
pub struct Vm {
    /// Everything that needs the lock.
    pub state: Mutex<VmState>,
}

/// What the lock protects.
pub struct VmState {
    /// Which guest addresses have memory.
    pub memory: GpaMap,
    /// To whom each page belongs.
    pub rmp: Rmp,
    /// The vCPUs, by index; vCPU n runs on processor n and has APIC id n.
    pub vcpus: Vec<VcpuSlot>,
}

/// What other processors may know and change of a vCPU.
#[derive(Clone, Copy, Default, Debug)]
pub struct VcpuSlot {
    /// The VMSA of each VMPL, once the guest (or the launch) gave one.
    pub vmsas: [Option<Gpa>; 4],
}
