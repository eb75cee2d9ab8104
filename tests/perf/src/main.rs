//! Figures of a run, printed as tables in Markdown for `docs/performance.md`.
//!
//! `cargo run --release -p stockade-perf` measures everything, which takes some minutes on an idle machine; `--only` picks one
//! table. [`boots`] compares a boot with and without us, [`per_exit`] counts the instructions of its exits, [`operations`] those of single
//! operations, also on KVM, [`footprint`] memory and pages, [`disks`] and [`network`] what devices carry,
//! [`stock_disk`] a whole boot by firmware, [`tpm`] a TPM's commands, [`turns`] how long we keep a
//! vCPU.

#![forbid(unsafe_code)]

mod boots;
mod directly;
mod disks;
mod footprint;
mod nested;
mod network;
mod operations;
mod per_exit;
mod stock_disk;
mod tpm;
mod turns;

use clap::{Parser, ValueEnum};

/// Measures and prints tables.
#[derive(Debug, Parser)]
struct Arguments {
    /// The one table to make.
    #[arg(long)]
    only: Option<Table>,
    /// How often each boot is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The ways to measure disks by, one after another; all of them unless said.
    #[arg(long, value_delimiter = ',')]
    way: Vec<disks::Way>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Table {
    /// CPU seconds of a boot, without and with us.
    Boots,
    /// Instructions at VMPL0 for each kind of exit.
    PerExit,
    /// Instructions at VMPL0 for single operations.
    Operations,
    /// Instructions of single operations as the guest sees them, here and on KVM.
    Kvm,
    /// Memory, image, pages at launch.
    Footprint,
    /// Disks: directly, below us, and what a guest does for itself.
    Disks,
    /// A stock Debian disk by stock firmware: directly and below us.
    StockDisk,
    /// A network card: directly and below us.
    Network,
    /// A TPM: swtpm's directly, and ours.
    Tpm,
    /// From an exit to the next entry, at most.
    Turns,
}

fn main() {
    let arguments = Arguments::parse();
    let wants = |table| arguments.only.is_none_or(|only| only == table);
    if wants(Table::Footprint) {
        println!("{}", footprint::table());
    }
    if wants(Table::PerExit) {
        println!("{}", per_exit::table());
    }
    if wants(Table::Operations) {
        println!("{}", operations::table());
    }
    if wants(Table::Kvm) {
        println!("{}", operations::comparison());
    }
    if wants(Table::Boots) {
        println!("{}", boots::table(arguments.rounds));
    }
    if wants(Table::Disks) {
        let ways: &[disks::Way] = if arguments.way.is_empty() {
            &disks::Way::ALL
        } else {
            &arguments.way
        };
        println!("{}", disks::table(ways));
    }
    if wants(Table::StockDisk) {
        println!("{}", stock_disk::table());
    }
    if wants(Table::Network) {
        println!("{}", network::table());
    }
    if wants(Table::Tpm) {
        println!("{}", tpm::table());
    }
    if wants(Table::Turns) {
        println!("{}", turns::table());
    }
}
