//! A 32-bit kernel with all that goes with it: what to write where, and the registers it starts with.

use alloc::vec::Vec;
use core::ops::Range;

use super::block::{Block, HandOver, PlacedModule};
use super::{Image, PlaceError, Places, Segment};
use crate::launch::{LaunchState, Write};
use crate::multiboot::{self, LOADER_MAGIC};
use crate::pvh;
use crate::ram::RamMap;

/// How the kernel is told what it must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By the multiboot information structure.
    Multiboot,
    /// By Xen's start info.
    Pvh,
}

/// A module to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its file's length.
    pub len_bytes: u64,
    /// Its command line, without a terminating zero; by custom it begins with a name.
    pub command_line: Vec<u8>,
}

/// What the kernel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<'a> {
    /// The kernel's command line, without a terminating zero.
    pub command_line: &'a [u8],
    /// Its modules, in its order.
    pub modules: &'a [Module],
    /// The RSDP's address, or 0.
    pub acpi_rsdp: u64,
}

/// The places of everything and the block that is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPlan {
    image: Image,
    places: Places,
    block: Vec<u8>,
    state: LaunchState,
}

impl KernelPlan {
    /// Places a kernel whose file of `file_bytes` lies in its [`super::scratch`] place.
    pub fn try_new(
        image: Image,
        file_bytes: u64,
        protocol: Protocol,
        told: &Told<'_>,
        ram: &RamMap,
    ) -> Result<Self, PlaceError> {
        let sizes: Vec<u64> = told.modules.iter().map(|module| module.len_bytes).collect();
        let unplaced = sizes.iter().map(|_| 0..0).collect::<Vec<_>>();
        let (draft, _) = hand_over(protocol, 0, told, &unplaced, ram);
        let block_bytes = draft.into_bytes().len() as u64;
        let places = Places::try_new(&image, file_bytes, block_bytes, &sizes, ram)?;
        let base = places.hand_over;
        let (block, ebx) = hand_over(protocol, base, told, &places.modules, ram);
        let eax = match protocol {
            Protocol::Multiboot => LOADER_MAGIC,
            Protocol::Pvh => 0,
        };
        let state = LaunchState::new_32_bit(image.entry, eax, ebx, base, block.stack());
        Ok(Self {
            image,
            places,
            block: block.into_bytes(),
            state,
        })
    }

    /// Returns the kernel's parts, to be copied from its file.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.image.segments
    }

    /// Returns where the modules go, in the kernel's order.
    #[must_use]
    pub fn modules(&self) -> &[Range<u64>] {
        &self.places.modules
    }

    /// Returns what else is to be written.
    #[must_use]
    pub fn block(&self) -> Write {
        (self.places.hand_over, self.block.clone())
    }

    /// Returns the registers of the first vCPU.
    #[must_use]
    pub fn launch_state(&self) -> LaunchState {
        self.state
    }
}

fn hand_over(
    protocol: Protocol,
    base: u64,
    told: &Told<'_>,
    places: &[Range<u64>],
    ram: &RamMap,
) -> (Block, u32) {
    let modules: Vec<PlacedModule<'_>> = told
        .modules
        .iter()
        .zip(places)
        .map(|(module, place)| PlacedModule {
            place: place.clone(),
            command_line: &module.command_line,
        })
        .collect();
    let what = HandOver {
        command_line: told.command_line,
        modules: &modules,
        ram,
        acpi_rsdp: told.acpi_rsdp,
    };
    let mut block = Block::new(base);
    let ebx = match protocol {
        Protocol::Multiboot => multiboot::hand_over(&mut block, &what),
        Protocol::Pvh => pvh::hand_over(&mut block, &what),
    };
    (block, ebx)
}
