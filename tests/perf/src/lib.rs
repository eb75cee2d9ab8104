//! Runs of the bench guest, for the tables and for the test that keeps their figures.

#![forbid(unsafe_code)]

pub mod bench;
