//! The paravisor: run loop, dispatch, machine wiring.

#![no_std]
