//! The chip over records on a disk of a fake host.

use std::vec;
use std::vec::Vec;

use stockade_backend::fake::FakeHost;

use super::*;
use crate::records::tests::{empty, open};
use crate::virtio::{Bays, DEVICE_VECTORS, Moment};

const BASE: u64 = 0xFFC0_0000;
const LEN: usize = 3 * BLOCK;

struct Rig {
    bays: Bays,
    host: FakeHost,
    records: Records,
}

impl Rig {
    /// Starts a machine whose image has this template, on the host's file.
    fn start(file: Vec<u8>, template: &[u8]) -> Self {
        let mut bays = Bays::default();
        let (host, records) = open(file, &mut bays);
        let kept = read(&records, template.len()).unwrap();
        let content = kept.map_or_else(|| Content::Template(template.to_vec()), Content::Kept);
        let attention = bays.attention_of_variables();
        let keeper = Some(records.clone());
        let variables =
            Variables::try_new(Gpa(BASE), Box::new(()), content, keeper, attention).unwrap();
        bays.keep_variables(variables);
        Self {
            bays,
            host,
            records,
        }
    }

    fn variables(&self) -> &Variables {
        self.bays.variables().unwrap()
    }

    fn array(&self) -> Vec<u8> {
        let mut array = vec![0; LEN];
        self.variables().read(0, &mut array);
        array
    }

    /// One turn of paravisor and host; `false` when neither has anything left.
    fn step(&mut self) -> bool {
        let _ = self
            .bays
            .serve(&mut self.host, Moment::default(), |_, _| {});
        if self.host.serve_disk() != 0 {
            self.bays.signal(1 << (DEVICE_VECTORS - 1));
            return true;
        }
        self.bays.want_attention()
    }

    fn settle(&mut self) {
        while self.step() {}
    }
}

/// Programs bytes as edk2 does.
fn program(variables: &Variables, offset: u64, bytes: &[u8]) {
    for (offset, byte) in (offset..).zip(bytes) {
        variables.write(offset, &[0x10]);
        variables.write(offset, &[*byte]);
    }
    variables.write(offset, &[0xFF]);
}

fn erase(variables: &Variables, offset: u64) {
    variables.write(offset, &[0x20]);
    variables.write(offset, &[0xD0]);
}

fn template() -> Vec<u8> {
    let mut template = vec![0xFF; LEN];
    template[..4].copy_from_slice(b"_FVH");
    template
}

#[test]
fn variables_survive_a_power_cycle_and_the_template_comes_once() {
    let mut rig = Rig::start(empty(), &template());
    assert_eq!(rig.array(), template());
    assert!(!rig.variables().is_kept());
    rig.settle();
    assert!(rig.variables().is_kept());
    program(rig.variables(), 0x1008, b"BootOrder");
    assert!(!rig.variables().is_kept());
    rig.settle();
    assert!(rig.variables().is_kept());
    assert!(
        !rig.host
            .disk
            .windows(9)
            .any(|window| window == b"BootOrder")
    );

    let mut again = Rig::start(rig.host.disk, &[0; LEN]);
    assert!(again.variables().is_kept());
    let mut wanted = template();
    wanted[0x1008..0x1011].copy_from_slice(b"BootOrder");
    assert_eq!(again.array(), wanted);
    erase(again.variables(), 0x1000);
    again.settle();
    assert_eq!(Rig::start(again.host.disk, &[0; LEN]).array(), template());
}

/// Whatever the host had written when the power went, what is found is the chip between two operations, no older than what was durable.
#[test]
fn any_power_cut_leaves_the_chip_between_two_operations() {
    let mut rig = Rig::start(empty(), &template());
    rig.settle();
    let mut moments = vec![rig.array()];
    let mut oldest = 0;
    for round in 0..40_u8 {
        // A write of three blocks that belong together, in the order of a fault-tolerant write.
        for offset in [0x2000, 0x1000] {
            erase(rig.variables(), offset);
            moments.push(rig.array());
            program(rig.variables(), offset + u64::from(round), &[round; 60]);
            moments.push(rig.array());
        }
        for _ in 0..round % 5 {
            rig.step();
            let found = Rig::start(rig.host.disk.clone(), &[0; LEN]).array();
            let age = moments.iter().rposition(|moment| *moment == found);
            let age = age.expect("no state the chip ever had");
            assert!(age >= oldest);
            oldest = age;
        }
        if round % 8 == 7 {
            rig.settle();
            assert!(rig.variables().is_kept());
            oldest = moments.len() - 1;
        }
    }
}

/// A driver programs byte after byte: what is half done is not kept for itself.
#[test]
fn nothing_is_kept_in_the_midst_of_an_operation() {
    let mut rig = Rig::start(empty(), &template());
    rig.settle();
    let before = rig.host.disk.clone();
    for offset in 0x1000..0x1100 {
        rig.variables().write(offset, &[0x10]);
        rig.variables().write(offset, &[7]);
        rig.settle();
    }
    assert!(rig.host.disk == before);
    rig.variables().write(0x1000, &[0xFF]);
    rig.settle();
    assert!(rig.host.disk != before);
}

#[test]
fn variables_of_another_size_or_format_are_not_taken() {
    let mut rig = Rig::start(empty(), &template());
    rig.settle();
    let size = VariablesError::Size {
        found: 3 * 4096,
        wanted: 4096,
    };
    assert_eq!(read(&rig.records, 4096), Err(size));
    rig.records.write(b"vars/layout", &[9, 0, 0, 0]).unwrap();
    assert_eq!(read(&rig.records, LEN), Err(VariablesError::Format(9)));
}

#[test]
fn a_host_that_fails_leaves_variables_for_as_long_as_the_machine_lasts() {
    let mut rig = Rig::start(empty(), &template());
    rig.settle();
    rig.host.is_gone = true;
    program(rig.variables(), 0x1000, b"x");
    for _ in 0..300 {
        rig.bays.signal(1 << DEVICE_VECTORS);
        let _ = rig.bays.serve(&mut rig.host, Moment::default(), |_, _| {});
    }
    assert_eq!(rig.array()[0x1000], b'x');
    assert!(rig.variables().is_kept(), "as far as it can be");
    assert!(!rig.bays.want_attention());
}

/// A guest can write more than there is room for in this test's store; nothing of it is kept half.
#[test]
fn a_full_store_keeps_the_latest_that_fitted() {
    let mut rig = Rig::start(empty(), &template());
    rig.settle();
    for offset in [0_u64, 0x1000, 0x2000] {
        erase(rig.variables(), offset);
        program(rig.variables(), offset, &[0x55; BLOCK]);
    }
    rig.settle();
    let found = Rig::start(rig.host.disk.clone(), &[0; LEN]).array();
    assert!(found == rig.array() || found == template());
}

#[test]
fn without_records_variables_last_as_long_as_the_machine() {
    let mut bays = Bays::default();
    let attention = bays.attention_of_variables();
    let content = Content::Template(template());
    let variables = Variables::try_new(Gpa(BASE), Box::new(()), content, None, attention);
    bays.keep_variables(variables.unwrap());
    let variables = bays.variables().unwrap();
    program(variables, 0x1000, b"x");
    variables.reset();
    let mut byte = [0];
    variables.read(0x1000, &mut byte);
    assert_eq!(byte, *b"x");
    assert!(variables.is_kept() && !bays.want_attention());
    assert_eq!(variables.place(Gpa(BASE + LEN as u64)), None);
    assert_eq!(variables.place(Gpa(BASE + 1)), Some(1));
}
