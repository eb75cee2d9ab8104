//! The bare-metal program of the SNP model.

#![no_std]
#![no_main]

use stockade_model as _;
