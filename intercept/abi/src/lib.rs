//! The words both sides of the SNP boundary speak; no logic.

#![no_std]
