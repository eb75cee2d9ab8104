//! The words both sides of the SNP boundary speak: layouts, numbers and bit packing, no logic.
//!
//! The paravisor, the SNP model and the image builder share this crate and nothing else, so that a misunderstanding
//! on one side is noticed by the other. Every number is here once, with the section it comes from:
//! *APM* is the AMD64 Architecture Programmer's Manual volume 2 (24593), *GHCB* the GHCB specification (56421),
//! *SVSM* the Secure VM Service Module specification (58019), *SNP ABI* the SEV-SNP firmware ABI (56860).
//!
//! What runs: [`vmsa`], [`exit`](mod@exit). What is said to the host: [`ghcb`], [`ghcb_msr`], [`doorbell`], [`terminate`].
//! Who owns a page: [`rmp`]. What the PSP leaves at launch: [`cpuid_page`], [`secrets`]. What it answers later:
//! [`guest_message`], [`report`]. What an enlightened guest may ask of us: [`svsm`].

#![no_std]
#![forbid(unsafe_code)]

pub mod cpuid_page;
pub mod doorbell;
pub mod exit;
pub mod ghcb;
pub mod ghcb_msr;
pub mod guest_message;
pub mod report;
pub mod rmp;
pub mod secrets;
pub mod svsm;
pub mod terminate;
pub mod vmsa;
