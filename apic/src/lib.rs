//! Interrupt controllers of a PC, and the decision what to inject.
//!
//! An interrupt flows down this list. A device raises a pin of the [`ioapic`] or the [`pic`], or writes an MSI ([`msi`]); the
//! resulting [`Message`] is [`route`]d into the [`Mailbox`] of each vCPU it names. The vCPU drains its mailbox into its own
//! [`LocalApic`], and before it enters the guest [`inject::decide`] says what goes into the VMSA. Timers of Hyper-V's kind are [`synthetic`].
//!
//! Everything here is pure: time is an argument ([`Time`]), effects are return values or go to what the constructor was given.
//! References are to the Intel SDM, volume 3A, chapter 10 ("SDM"), and the AMD APM, volume 2, chapter 16 ("APM").

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test may panic"))]

#[cfg(test)]
extern crate std;

pub mod inject;
pub mod ioapic;
pub mod local;
pub mod mailbox;
pub mod msi;
pub mod pic;
pub mod route;
pub mod saved;
pub mod synthetic;
mod vectors;

pub use inject::{Decision, NmiLatch, VirtualInterrupt};
pub use ioapic::{Ending, Endings, IoApic};
pub use local::{
    Address, Config, Effect, Features, GeneralProtection, Ipi, IpiDestination, Lint, LocalApic,
    LocalEvent, LocalSource, MSR_TSC_DEADLINE, MSR_X2APIC, Role, Time, TimerDeadline,
};
pub use mailbox::{LocalEvents, Mailbox};
pub use msi::{DeliveryMode, DestinationMode, Message, MessageSink, Trigger};
pub use pic::Pic;
pub use saved::RestoreError;
pub use synthetic::Synthetic;
pub use vectors::VectorSet;
