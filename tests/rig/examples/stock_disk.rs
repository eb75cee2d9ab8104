//! Makes the Debian disk of the tests, if it is not there yet, and prints where it is: `cargo run -p stockade-rig --example stock_disk`.

use stockade_rig::stock_disk::{KernelFlavour, StockDisk};

fn main() {
    let flavour = match std::env::args().nth(1).as_deref() {
        Some("generic") => KernelFlavour::Generic,
        _ => KernelFlavour::Cloud,
    };
    println!("{}", StockDisk::of(flavour).image.display());
}
