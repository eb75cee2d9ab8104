//! Kernels by the Multiboot specification 0.6.96 ("multiboot1"), as ELF files of either class or as flat images.
//!
//! [`MultibootHeader`] is what the kernel asks for, `info` what it is told. A 64-bit ELF file, which the specification does not
//! know, is loaded by its physical addresses and started in 32-bit mode like any other.

mod header;
mod info;

pub use header::{ImageError, LOADER_MAGIC, MultibootError, MultibootHeader};
pub(crate) use info::hand_over;

#[cfg(test)]
pub(crate) use header::tests::header as test_header;
