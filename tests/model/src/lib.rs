//! The SNP model: a bare-metal hypervisor that models SEV-SNP under QEMU TCG.
//!
//! [`machine`] is the computer under us: boot, memory, interrupts, processors, console. [`svm`] runs a guest on it for
//! one exit. Everything that makes it SEV-SNP is built on these two.

#![cfg_attr(not(test), no_std)]
#![expect(
    unsafe_code,
    reason = "a bare-metal hypervisor: boot, page tables, VMRUN"
)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

extern crate alloc;

pub mod host;
pub mod hostile;
pub mod igvm_file;
pub mod machine;
pub mod psp;
mod selftest;
pub mod snp;
pub mod svm;
pub mod tap;

/// Goes on where [`machine::init()`] ends.
pub fn start(boot: &machine::Boot) -> ! {
    if boot.options.selftest {
        selftest::run()
    }
    if boot.options.probe {
        snp::probe::start(boot)
    }
    snp::launch::start(boot)
}
