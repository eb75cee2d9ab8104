//! AMD's virtual machine extension as QEMU's TCG offers it: one VMRUN at a time, and nothing of SNP.
//!
//! A guest context is a [`Vmcb`] in a page of its own, the [`GuestRegisters`] VMRUN does not load, and the
//! [`ExtendedState`] neither VMRUN nor VMLOAD swaps. [`run()`] enters it and returns the [`Exit`].

mod extended;
mod intercepts;
mod permission;
mod run;
mod vmcb;

pub use extended::{ExtendedState, Xsave, supported};
pub use intercepts::{Intercepts1, Intercepts2};
pub use permission::{IoPermissionMap, MsrAccess, MsrPermissionMap};
pub(crate) use run::enable;
pub use run::{Exit, GuestRegisters, INSTRUCTIONS_AROUND, run};
pub use vmcb::{
    ControlArea, Event, InterruptControl, InterruptShadow, NestedControl, SaveArea, Segment, Vmcb,
};
