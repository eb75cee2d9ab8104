//! Guest exits decoded, instructions emulated.

#![no_std]
#![forbid(unsafe_code)]

pub mod emulate;
pub mod walk;
