//! Each target for a while, with the same inputs every time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use stockade_fuzz::mutate::Mutator;
use stockade_fuzz::{TARGETS, Target, corpus};

/// Runs a target on its inputs; a failure prints the input that was the cause.
fn run(name: &str) {
    let found = TARGETS.iter().find(|target| target.name == name);
    let Some(Target {
        run, seeds, rounds, ..
    }) = found
    else {
        unreachable!("{name} is a target");
    };
    let mut seeds = seeds();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    seeds.extend(corpus::kept(name));
    let mut mutator = Mutator::new(name, seeds.clone());
    let mutated = (0..*rounds).map(|_| mutator.input());
    for input in seeds.into_iter().chain(mutated) {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&input)));
        assert!(outcome.is_ok(), "{name} fails on {}", hex::encode(&input));
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_a_test_and_a_program() {
            let tested = [$(stringify!($name)),*];
            let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/libfuzzer/fuzz_targets");
            for target in TARGETS {
                assert!(tested.contains(&target.name), "{} has no test", target.name);
                let program = format!("{programs}/{}.rs", target.name);
                assert!(std::path::Path::new(&program).exists(), "{program} is missing");
            }
        }
    };
}

tests! {
    exits
    flash_traffic
    instructions
    page_walks
    kernels
    key_release
    manifests
    module_calls
    host_parameters
    igvm_files
    ghcb_answers
    guest_messages
    apic_traffic
    chip_traffic
    pci_traffic
    saved_states
    sealed_disks
    sealed_stores
    tpm_registers
    used_rings
    virtio_chains
    virtio_states
}
