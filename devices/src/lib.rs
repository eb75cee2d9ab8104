//! The devices a guest sees: a Q35 PC, chip by chip.
//!
//! Each module is one chip with its registers, its saved state and its tests; none knows where it is plugged in. A chip is
//! reached by the traits of [`stockade_bus`], drives interrupts through the [`stockade_bus::IrqLine`] it was built with and
//! reads time from its [`stockade_bus::Clock`]. What leaves the machine (characters, power-off, reset) is taken out by the
//! machine after the access, never called from inside.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod debug_console;
pub mod fw_cfg;
pub mod hpet;
pub mod i8042;
pub mod pci;
pub mod pflash;
pub mod pit;
pub mod power;
pub mod reset;
pub mod rtc;
pub mod serial;
pub mod test_devices;
pub mod tpm;
pub mod tpm_crb;
pub mod tpm_ppi;
pub mod virtio;

mod state;

pub use state::RestoreError;
