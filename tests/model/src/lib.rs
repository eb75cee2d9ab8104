//! The SNP model: a bare-metal hypervisor that models SEV-SNP under QEMU TCG.

#![no_std]
