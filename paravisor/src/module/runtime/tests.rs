//! A module's life: what is loaded, what ends it, how often it comes back.

use super::*;
use crate::module::channel::ChannelState;
use crate::module::elf_file::tests::{CODE, file};
use crate::module::fake::{Act, FakeOutside, FakeSpace, FakeStaging};
use crate::module::outside::{NoEntropy, NoReport};
use crate::module::records::VolatileRecords;
use crate::module::space::{Exception, Exit};
use sha2::{Digest, Sha384};
use spin::Mutex;
use std::vec;
use stockade_boot::layout::STAGING_BASE;
use stockade_boot::manifest::PayloadKind;

/// A world that others can look at.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<FakeOutside>>);

impl Outside for Shared {
    fn monotonic_ns(&self) -> u64 {
        self.0.lock().monotonic_ns()
    }

    fn realtime_ns(&self) -> u64 {
        self.0.lock().realtime_ns()
    }

    fn random(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        self.0.lock().random(buffer)
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.0.lock().cpuid(leaf, subleaf)
    }

    fn report(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, NoReport> {
        self.0.lock().report(report_data)
    }

    fn log(&mut self, module: &str, line: &str) {
        self.0.lock().log(module, line);
    }
}

fn runtime(acts: Vec<Act>) -> (Runtime<FakeSpace, FakeStaging>, Shared) {
    let mut bytes = file(2, 0x40_0100, &[(1, CODE, 0, 0x40_0000, 0x1000, 0x1000)]);
    bytes.resize(0x1000, 0x90);
    let digest = Sha384::digest(&bytes).into();
    let plan = Plan {
        file: Payload::new(PayloadKind::MODULE, STAGING_BASE, 0x1000, digest),
        arguments: vec![String::from("m")],
        limits: Limits {
            pages: 100,
            busy_ns: 10_000_000,
        },
    };
    let shared = Shared::default();
    let space = FakeSpace {
        acts: acts.into(),
        ..FakeSpace::default()
    };
    let runtime = Runtime::new(
        plan,
        FakeStaging(bytes),
        space,
        Bell::default(),
        Box::new(VolatileRecords::default()),
        Box::new(shared.clone()),
    );
    (runtime, shared)
}

fn fault() -> Act {
    Box::new(|_| {
        Exit::Exception(Exception {
            vector: 14,
            error: 4,
            address: 0xDEAD,
        })
    })
}

fn call(number: u64, descriptor: u64, address: u64) -> Act {
    Box::new(move |registers| {
        registers.rax = number;
        (registers.rdi, registers.rsi, registers.rdx) = (descriptor, address, 4);
        Exit::Call
    })
}

/// Gives turns until the module waits or is over.
fn settle<S: Space, P: PayloadSource + Send>(runtime: &mut Runtime<S, P>) -> Turn {
    (0..10_000)
        .map(|_| runtime.turn(0))
        .find(|turn| *turn != Turn::More)
        .expect("it never waits")
}

#[test]
fn a_module_that_fails_is_started_again_and_then_given_up() {
    let (mut runtime, shared) = runtime((0..5).map(|_| fault()).collect());
    assert_eq!(settle(&mut runtime), Turn::Over);
    let lines = shared.0.lock().lines.clone();
    assert_eq!(lines.len(), 5);
    assert!(lines[0].contains("page fault (error 0x4) for 0xdead at 0x400100"));
    assert!(lines[3].contains("(4 of 4)") && lines[4].contains("not started again"));
    assert_eq!(runtime.channel().state(), ChannelState::Closed);
    assert_eq!(runtime.space.pages(), 0);
}

#[test]
fn an_answered_request_clears_the_count_of_failures() {
    const STACK: u64 = 0x7F_FFFE_0000;
    let mut acts: Vec<Act> = Vec::new();
    for _ in 0..10 {
        acts.extend([call(0, 3, STACK), call(1, 3, STACK), fault()]);
    }
    let (mut runtime, shared) = runtime(acts);
    let channel = Arc::clone(runtime.channel());
    for _ in 0..10 {
        channel.post(b"ping").unwrap();
        while channel.state() == ChannelState::Busy {
            let _ = runtime.turn(0);
        }
        assert_eq!(channel.take(&mut [0; 4]), Some(Ok(4)));
        // The fault comes with its next turns.
        while shared.0.lock().lines.pop().is_none() {
            let _ = runtime.turn(0);
        }
    }
    assert_eq!(channel.state(), ChannelState::Idle);
}

#[test]
fn a_request_the_module_fails_on_is_lost() {
    let (mut runtime, _) = runtime(vec![call(0, 3, 0x7F_FFFE_0000), fault(), call(0, 3, 0)]);
    let channel = Arc::clone(runtime.channel());
    channel.post(b"kill").unwrap();
    assert_eq!(settle(&mut runtime), Turn::Wait(u64::MAX));
    assert_eq!(channel.state(), ChannelState::Lost);
}

#[test]
fn a_module_that_never_waits_is_ended_for_its_time() {
    let (mut runtime, shared) = runtime(Vec::new());
    let over = (0..200_000).find(|_| runtime.turn(0) == Turn::Over);
    assert!(over.is_some());
    let lines = &shared.0.lock().lines;
    assert!(lines[0].contains("more processor time than allowed"));
}

/// Waiting takes no processor time: only who waits for an answer can tell that there is none.
#[test]
fn a_module_that_waits_for_ever_is_started_again_when_it_is_dismissed() {
    const STACK: u64 = 0x7F_FFFE_0000;
    let it = |number| call(number, 3, STACK);
    // It receives the request, and then waits for another one.
    let acts = vec![it(0), it(0), it(0), it(1), it(0)];
    let (mut runtime, shared) = runtime(acts);
    let channel = Arc::clone(runtime.channel());
    channel.post(b"lost").unwrap();
    assert_eq!(settle(&mut runtime), Turn::Wait(u64::MAX));
    channel.abandon();
    channel.dismiss();
    let _ = runtime.turn(0);
    assert_eq!(channel.state(), ChannelState::Idle);
    channel.post(b"next").unwrap();
    assert_eq!(settle(&mut runtime), Turn::Wait(u64::MAX));
    assert_eq!(channel.take(&mut [0; 4]), Some(Ok(4)));
    let lines = &shared.0.lock().lines;
    assert_eq!(*lines, ["failed: no answer; starting it again (1 of 4)"]);
}

#[test]
fn exit_0_is_the_end_and_no_failure() {
    let exit: Act = Box::new(|registers| {
        registers.rax = 231;
        registers.rdi = 0;
        Exit::Call
    });
    let (mut runtime, shared) = runtime(vec![exit]);
    assert_eq!(settle(&mut runtime), Turn::Over);
    assert_eq!(shared.0.lock().lines, ["has ended"]);
}

#[test]
fn a_changed_file_is_not_started() {
    let (mut runtime, shared) = runtime(Vec::new());
    runtime.source.0[0x800] ^= 1;
    assert_eq!(settle(&mut runtime), Turn::Over);
    let line = "is not started: it does not have the digest in the manifest";
    assert_eq!(shared.0.lock().lines, [line]);
    let posted = runtime.channel().post(b"x");
    assert_eq!(posted, Err(ChannelError::NotLoaded));
}
