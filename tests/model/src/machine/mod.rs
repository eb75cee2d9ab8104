//! The computer the model runs on: what QEMU gives a PVH kernel, made ready for a hypervisor.
//!
//! [`init()`] makes the first processor ready and returns what the loader asked for; [`smp::start`] brings the others. From then
//! on each runs with interrupts off but in [`svm::run`](crate::svm::run) and [`sleep`]; what comes is recorded in its [`PerCpu`].

#[cfg(all(feature = "image", not(test)))]
core::arch::global_asm!(include_str!("boot.s"), options(att_syntax));

pub mod clock;
pub mod console;
pub mod exit;
mod firmware;
pub mod frames;
pub mod heap;
mod init;
pub mod interrupts;
#[cfg(any(feature = "image", test))]
pub mod intrinsics;
pub mod ioapic;
pub mod iommu;
pub mod lapic;
pub mod memory;
mod memory_map;
pub mod mmio;
pub mod options;
pub(crate) mod paging;
pub mod pci;
mod pic;
pub mod processor;
mod segments;
pub mod sleep;
pub mod smp;
mod start_info;

pub use init::{Boot, InitError, init};
pub use processor::PerCpu;
