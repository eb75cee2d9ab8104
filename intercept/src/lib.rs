//! Guest exits decoded, instructions emulated.

#![no_std]
