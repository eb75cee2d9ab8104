//! The paravisor's only unsafe crate: GHCB, VMSA, RMP, paging, memory.

#![no_std]
