//! The devices a guest sees.

#![no_std]
