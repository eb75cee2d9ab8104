//! The untrusted host's side of the guest's interface: what a hypervisor does for an SNP guest.
//!
//! Order of use: [`msr_protocol`] until a GHCB is registered, then [`ghcb`] for each VMGEXIT. The devices behind it are
//! [`ports`], [`pci`], [`ioapic`] and one [`lapic`] a vCPU; [`doorbell`] tells a guest under restricted injection of events.
//! [`loader`] turns an IGVM file into launch commands. All is pure: effects are values or small traits.

pub mod doorbell;
pub mod ghcb;
pub mod ioapic;
pub mod lapic;
pub mod loader;
pub mod msr_protocol;
pub mod pci;
pub mod ports;
