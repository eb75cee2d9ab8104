//! Builds, measures, inspects and runs unmodified guests as confidential VMs.
//!
//! In the order of use: [`image`] packs an image, [`measure`] and [`inspect`] tell what is in it, [`setup`] finds what a run
//! needs, [`run`] runs it. [`attest`] judges from elsewhere what a running guest says of itself, and [`keys`]
//! gives those of its disks to one that was judged right. [`input`] reads the files all of them are given.

#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

pub mod attest;
pub mod disk;
pub mod image;
pub mod input;
pub mod inspect;
pub mod keys;
pub mod measure;
pub mod output;
pub mod run;
pub mod setup;
