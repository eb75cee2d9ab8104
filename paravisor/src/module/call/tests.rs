//! System calls one by one, and any numbers at all.

use super::*;
use crate::module::channel::Bell;
use crate::module::fake::{FakeOutside, FakeSpace};
use crate::module::memory::Place;
use crate::module::outside::NoReport;
use crate::module::records::VolatileRecords;
use crate::module::space::Access;
use crate::module::statement::report_data;
use alloc::vec::Vec;

/// Where the tests' module has a page of data.
const DATA: u64 = 0x30_0000_0000;

struct Fixture {
    space: FakeSpace,
    memory: Memory,
    channel: Channel,
    records: VolatileRecords,
    desk: Desk,
    output: Output,
    outside: FakeOutside,
    until_ns: Option<u64>,
    fs_base: u64,
}

impl Fixture {
    fn new() -> Self {
        let (mut space, mut memory) = (FakeSpace::default(), Memory::new(64));
        memory.set_heap(0x50_0000);
        let place = Place::Free(DATA);
        memory
            .map(&mut space, place, 0x3000, Access::Write)
            .unwrap();
        Self {
            space,
            memory,
            channel: Channel::new(Bell::default()),
            records: VolatileRecords::default(),
            desk: Desk::Empty,
            output: Output::default(),
            outside: FakeOutside::default(),
            until_ns: None,
            fs_base: 0,
        }
    }

    fn call(&mut self, number: Number, arguments: &[u64]) -> Outcome {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let [rdi, rsi, rdx, r10, r8, r9] = all;
        let registers = Registers {
            rax: number.0,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..Registers::default()
        };
        Context {
            name: "m",
            space: &mut self.space,
            memory: &mut self.memory,
            channel: &self.channel,
            records: &mut self.records,
            desk: &mut self.desk,
            output: &mut self.output,
            outside: &mut self.outside,
            until_ns: &mut self.until_ns,
            fs_base: &mut self.fs_base,
        }
        .perform(&registers)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.space.write(DATA, bytes).unwrap();
    }

    fn get(&self, len: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![0; len];
        self.space.read(DATA, &mut bytes).unwrap();
        bytes
    }
}

#[test]
fn a_request_is_read_and_answered_through_descriptor_3() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.call(Number::READ, &[3, DATA, 100]), Outcome::WAIT);
    fixture.channel.post(b"ping").unwrap();
    let read = fixture.call(Number::READ, &[3, DATA, 100]);
    assert_eq!((read, fixture.get(4)), (Outcome::Done(4), b"ping".to_vec()));
    let written = fixture.call(Number::WRITE, &[3, DATA, 3]);
    assert_eq!(written, Outcome::Done(3));
    let mut response = [0; 8];
    assert_eq!(fixture.channel.take(&mut response), Some(Ok(3)));
    assert_eq!(&response[..3], b"pin");
    let unasked = fixture.call(Number::WRITE, &[3, DATA, 3]);
    assert_eq!(unasked, Outcome::Failed(Errno::EPROTO));
}

/// A module that points into nothing must not swallow the request.
#[test]
fn a_request_survives_a_bad_address() {
    let mut fixture = Fixture::new();
    fixture.channel.post(b"ping").unwrap();
    for address in [0, DATA + 0x3000, u64::MAX, 0x80_0000_0000] {
        let read = fixture.call(Number::READ, &[3, address, 100]);
        assert_eq!(read, Outcome::Failed(Errno::EFAULT));
    }
    let read = fixture.call(Number::READ, &[3, DATA, 2]);
    assert_eq!(read, Outcome::Done(2));
}

#[test]
fn a_cancel_reads_as_one_byte_without_waiting() {
    let mut fixture = Fixture::new();
    fixture.channel.post(b"long work").unwrap();
    fixture.call(Number::READ, &[3, DATA, 100]);
    let none = fixture.call(Number::RECVFROM, &[3, DATA, 100, 0x40]);
    assert_eq!(none, Outcome::Failed(Errno::EAGAIN));
    fixture.channel.cancel();
    let cancelled = fixture.call(Number::RECVFROM, &[3, DATA, 100, 0x40]);
    assert_eq!(cancelled, Outcome::Done(1));
    assert_eq!(fixture.get(1), [0xFF]);
}

#[test]
fn records_are_asked_and_answered_through_descriptor_4() {
    let mut fixture = Fixture::new();
    fixture.put(&[2, 1, b'k', 7, 8]);
    assert_eq!(fixture.call(Number::WRITE, &[4, DATA, 5]), Outcome::Done(5));
    let early = fixture.call(Number::WRITE, &[4, DATA, 5]);
    assert_eq!(early, Outcome::Failed(Errno::EBUSY));
    assert_eq!(fixture.call(Number::READ, &[4, DATA, 9]), Outcome::Done(1));
    assert_eq!(fixture.get(1), [0]);
    fixture.put(&[1, 1, b'k']);
    fixture.call(Number::WRITE, &[4, DATA, 3]);
    assert_eq!(fixture.call(Number::READ, &[4, DATA, 9]), Outcome::Done(3));
    assert_eq!(fixture.get(3), [0, 7, 8]);
    fixture.put(&[9]);
    fixture.call(Number::WRITE, &[4, DATA, 1]);
    fixture.call(Number::READ, &[4, DATA, 9]);
    assert_eq!(fixture.get(1), [2]);
}

/// What is signed names the module and has a digest of ours, or a module could say anything as the paravisor.
#[test]
fn a_document_is_signed_by_its_digest_and_the_modules_name() {
    let mut fixture = Fixture::new();
    let none = fixture.call(Number::READ, &[5, DATA, 64]);
    assert_eq!(none, Outcome::Failed(Errno::EAGAIN));
    fixture.put(b"I am");
    assert_eq!(fixture.call(Number::WRITE, &[5, DATA, 4]), Outcome::Done(4));
    let busy = fixture.call(Number::WRITE, &[4, DATA, 4]);
    assert_eq!(busy, Outcome::Failed(Errno::EBUSY));
    assert_eq!(
        fixture.call(Number::READ, &[5, DATA, 99]),
        Outcome::Done(64)
    );
    assert_eq!(fixture.get(64), report_data("m", b"I am"));
    let long = fixture.call(Number::WRITE, &[5, DATA, 4097]);
    assert_eq!(long, Outcome::Failed(Errno::EMSGSIZE));
    fixture.outside.no_report = Some(NoReport::Refused);
    fixture.call(Number::WRITE, &[5, DATA, 4]);
    let refused = fixture.call(Number::READ, &[5, DATA, 64]);
    assert_eq!(refused, Outcome::Failed(Errno::EIO));
}

/// The module waits, not the processor it has, and not for ever.
#[test]
fn a_busy_host_is_asked_for_a_report_again_after_a_pause() {
    let mut fixture = Fixture::new();
    let read = |fixture: &mut Fixture| fixture.call(Number::READ, &[5, DATA, 99]);
    fixture.put(b"I am");
    fixture.call(Number::WRITE, &[5, DATA, 4]);
    fixture.outside.no_report = Some(NoReport::Busy);
    let Outcome::Wait(until) = read(&mut fixture) else {
        unreachable!("the host is busy");
    };
    fixture.outside.no_report = None;
    assert_eq!(read(&mut fixture), Outcome::Wait(until));
    fixture.outside.now_ns.set(until);
    assert_eq!(read(&mut fixture), Outcome::Done(64));
    assert_eq!(fixture.get(64), report_data("m", b"I am"));
    fixture.outside.no_report = Some(NoReport::Busy);
    fixture.put(b"I am");
    fixture.call(Number::WRITE, &[5, DATA, 4]);
    let began = fixture.outside.now_ns.get();
    while let Outcome::Wait(until) = read(&mut fixture) {
        fixture.outside.now_ns.set(until);
    }
    let waited = fixture.outside.now_ns.get() - began;
    assert!((1_500_000_000..1_600_000_000).contains(&waited), "{waited}");
    assert_eq!((fixture.desk, fixture.until_ns), (Desk::Empty, None));
    fixture.call(Number::WRITE, &[5, DATA, 4]);
    fixture.outside.no_report = None;
    assert_eq!(read(&mut fixture), Outcome::Done(64));
}

#[test]
fn output_is_logged_by_lines() {
    let mut fixture = Fixture::new();
    fixture.put(b"one\ntwo");
    assert_eq!(fixture.call(Number::WRITE, &[1, DATA, 7]), Outcome::Done(7));
    fixture.put(&[0; 16]);
    let [at, len] = [DATA + 4, 4_u64].map(u64::to_le_bytes);
    fixture.put(&[at, len].concat());
    let bad = fixture.call(Number::WRITEV, &[2, u64::MAX - 3, 1]);
    assert_eq!(bad, Outcome::Failed(Errno::EFAULT));
    assert_eq!(
        fixture.call(Number::WRITEV, &[2, DATA, 1]),
        Outcome::Done(4)
    );
    assert_eq!(fixture.outside.lines, ["one"]);
}

#[test]
fn nothing_becomes_executable() {
    let mut fixture = Fixture::new();
    for protection in [4, 5, 6, 7] {
        let mapped = fixture.call(Number::MMAP, &[0, 0x1000, protection, 0x22]);
        assert_eq!(mapped, Outcome::Failed(Errno::EACCES));
        let changed = fixture.call(Number::MPROTECT, &[DATA, 0x1000, protection]);
        assert_eq!(changed, Outcome::Failed(Errno::EACCES));
    }
    assert_eq!(fixture.space.access(DATA), Some(Access::Write));
}

#[test]
fn memory_ends_at_the_limit() {
    let mut fixture = Fixture::new();
    let mut given = 0;
    loop {
        match fixture.call(Number::MMAP, &[0, 0x1000, 3, 0x22]) {
            Outcome::Done(_) => given += 1,
            outcome => break assert_eq!(outcome, Outcome::Failed(Errno::ENOMEM)),
        }
    }
    assert_eq!(given, 61);
    let file = fixture.call(Number::MMAP, &[0, 0x1000, 3, 2, 3, 0]);
    assert_eq!(file, Outcome::Failed(Errno::ENODEV));
}

/// One call for all a module may have would hold a processor far beyond its slice.
#[test]
fn random_bytes_come_a_page_at_a_time() {
    let mut fixture = Fixture::new();
    let random = fixture.call(Number::GETRANDOM, &[DATA, 64 << 10]);
    assert_eq!(random, Outcome::Done(4096));
    let bytes = fixture.get(0x3000);
    assert!(bytes[..4096].iter().all(|byte| *byte == 4));
    assert!(bytes[4096..].iter().all(|byte| *byte == 0));
    let rest = fixture.call(Number::GETRANDOM, &[DATA + 4096, 300]);
    assert_eq!(rest, Outcome::Done(300));
}

#[test]
fn sleep_waits_for_the_time_it_first_saw() {
    let mut fixture = Fixture::new();
    fixture.put(&[0_u64, 5_000_000].map(u64::to_le_bytes).concat());
    let Outcome::Wait(until) = fixture.call(Number::NANOSLEEP, &[DATA]) else {
        unreachable!("it sleeps");
    };
    assert_eq!(
        fixture.call(Number::NANOSLEEP, &[DATA]),
        Outcome::Wait(until)
    );
    fixture.outside.now_ns.set(until);
    assert_eq!(fixture.call(Number::NANOSLEEP, &[DATA]), Outcome::Done(0));
    assert_eq!(fixture.until_ns, None);
}

#[test]
fn poll_finds_a_request_or_times_out() {
    let mut fixture = Fixture::new();
    fixture.put(&[3, 0, 0, 0, 1, 0, 0xFF, 0xFF]);
    let Outcome::Wait(until) = fixture.call(Number::POLL, &[DATA, 1, 20]) else {
        unreachable!("nothing is there");
    };
    fixture.outside.now_ns.set(until);
    let timed_out = fixture.call(Number::POLL, &[DATA, 1, 20]);
    assert_eq!(timed_out, Outcome::Done(0));
    fixture.channel.post(b"x").unwrap();
    let found = fixture.call(Number::POLL, &[DATA, 1, u64::MAX]);
    assert_eq!((found, fixture.get(8)[6]), (Outcome::Done(1), 1));
    fixture.put(&[9, 0, 0, 0, 1, 0, 0, 0]);
    let none = fixture.call(Number::POLL, &[DATA, 1, 0]);
    assert_eq!((none, fixture.get(8)[6]), (Outcome::Done(1), 0x20));
}

#[test]
fn thread_storage_stays_among_the_modules_addresses() {
    let mut fixture = Fixture::new();
    let set = 0x1002;
    assert_eq!(
        fixture.call(Number::ARCH_PRCTL, &[set, DATA]),
        Outcome::Done(0)
    );
    for address in [1 << 47, u64::MAX, 0x80_0000_0000] {
        let refused = fixture.call(Number::ARCH_PRCTL, &[set, address]);
        assert_eq!(refused, Outcome::Failed(Errno::EINVAL));
    }
    let gs = fixture.call(Number::ARCH_PRCTL, &[0x1001, DATA]);
    assert_eq!(
        (gs, fixture.fs_base),
        (Outcome::Failed(Errno::EINVAL), DATA)
    );
}

#[test]
fn unknown_calls_are_refused_and_named() {
    let mut fixture = Fixture::new();
    for number in [41, 56, 57, 59, 101, 165, 1000, u64::MAX] {
        let outcome = fixture.call(Number(number), &[]);
        assert_eq!(outcome, Outcome::Unknown(Number(number)));
        assert_eq!(outcome.value(), Some(38_u64.wrapping_neg()));
    }
}

#[test]
fn a_program_leaves_by_exit_or_by_a_signal_to_itself() {
    let mut fixture = Fixture::new();
    let left = fixture.call(Number::EXIT_GROUP, &[0x103]);
    assert_eq!(left, Outcome::Leave(Leave::Exit(3)));
    let aborted = fixture.call(Number::TGKILL, &[1, 1, 6]);
    assert_eq!(aborted, Outcome::Leave(Leave::Signal(6)));
}
