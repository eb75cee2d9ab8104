//! The paravisor's first instructions and its exception stubs.

#![no_std]
