//! Several vCPUs on threads, as on processors: they start together, end together, and a reset brings all of them back.

use std::boxed::Box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::vec::Vec;

use stockade_abi::exit::ExitCode;
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::Vmsa;
use stockade_apic::{Features, Time};
use stockade_boot::manifest::Start;
use stockade_boot::ram::RamMap;
use stockade_bus::Clock;
use stockade_bus::fake::FakeMemory;
use stockade_intercept::cpuid::X2Apic;

use super::{Post, RESET_LOOP_LIMIT, ResetWatch, follow, lead};
use crate::crew::End;
use crate::host::{Entered, Host, Processor, Signals, Timekeeper};
use crate::machine::{Fittings, Machine};
use crate::run_loop::tests::cpuid;
use crate::stats::Stats;
use crate::vcpu::Vcpu;

/// Time that passes with every look.
#[derive(Clone, Copy)]
struct Ticks(&'static AtomicU64);

impl Clock for Ticks {
    fn now_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Timekeeper for Ticks {
    fn now(&self) -> Time {
        let ns = self.now_ns();
        Time { ns, tsc: ns }
    }

    fn tsc(&self) -> u64 {
        self.now_ns()
    }

    fn tsc_at(&self, ns: u64) -> u64 {
        ns
    }
}

/// A doorbell each.
#[derive(Default)]
struct Bell {
    is_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.is_rung.lock().unwrap() = true;
        self.rings.notify_all();
    }

    fn wait(&self) {
        let mut is_rung = self.is_rung.lock().unwrap();
        while !*is_rung {
            is_rung = self.rings.wait(is_rung).unwrap();
        }
    }
}

struct ThreadHost {
    bells: &'static [Bell],
    own: usize,
}

stockade_backend::no_devices!(ThreadHost);

impl Host for ThreadHost {
    fn drain(&mut self) -> Result<Signals, StopReason> {
        *self.bells[self.own].is_rung.lock().unwrap() = false;
        Ok(Signals::default())
    }

    fn is_signalled(&self) -> bool {
        *self.bells[self.own].is_rung.lock().unwrap()
    }

    fn wait(&mut self) -> Result<(), StopReason> {
        self.bells[self.own].wait();
        Ok(())
    }

    fn arm_timer(&mut self, _: u64) -> Result<(), StopReason> {
        Ok(())
    }

    fn kick(&mut self, vcpu: usize) -> Result<(), StopReason> {
        self.bells[vcpu].ring();
        Ok(())
    }

    fn console_write(&mut self, _: &[u8]) -> Result<(), StopReason> {
        Ok(())
    }

    fn console_read(&mut self, _: &mut [u8]) -> Result<usize, StopReason> {
        Ok(0)
    }
}

/// A guest whose processors all run `scene`, which leaves an exit behind; `None` stays until somebody rings.
struct ThreadProcessor {
    vmsa: Box<Vmsa>,
    bell: &'static Bell,
    scene: Scene,
}

impl Processor for ThreadProcessor {
    fn vmsa(&self) -> &Vmsa {
        &self.vmsa
    }

    fn vmsa_mut(&mut self) -> &mut Vmsa {
        &mut self.vmsa
    }

    fn enter(&mut self) -> Result<Entered, StopReason> {
        match (self.scene)(&mut self.vmsa) {
            Some(code) => self.vmsa.guest_exit_code = code,
            None => {
                self.bell.wait();
                self.vmsa.guest_exit_code = ExitCode::INTR;
            }
        }
        Ok(Entered::Ran)
    }

    fn reset(&mut self) {
        *self.vmsa = Vmsa::zeroed();
    }

    fn prediction_barrier(&mut self, _: u64) {}
}

type Scene = Box<dyn FnMut(&mut Vmsa) -> Option<ExitCode> + Send>;

/// OUT to a port of one byte, or two where the value has them.
fn out(vmsa: &mut Vmsa, port: u64, value: u16) -> Option<ExitCode> {
    vmsa.rax = u64::from(value);
    let width = if value > 0xFF { 2 } else { 1 };
    vmsa.guest_exit_info1 = port << 16 | width << 4;
    Some(ExitCode::IOIO)
}

fn power_off(vmsa: &mut Vmsa) -> Option<ExitCode> {
    out(vmsa, 0x604, 0x2001)
}

fn wrmsr(vmsa: &mut Vmsa, msr: u64, value: u64) -> Option<ExitCode> {
    (vmsa.rcx, vmsa.rax, vmsa.rdx) = (msr, value, 0);
    vmsa.guest_exit_info1 = 1;
    Some(ExitCode::MSR)
}

/// What the first vCPU does to start all others at page 9Ah; then it does `work`.
fn starts_others(mut work: impl FnMut(&mut Vmsa) -> Option<ExitCode> + Send + 'static) -> Scene {
    let mut step = 0;
    Box::new(move |vmsa| {
        step += 1;
        match step {
            1 => wrmsr(vmsa, 0x1B, 0xFEE0_0D00),
            2 => wrmsr(vmsa, 0x830, 0xC_4500),
            3 => wrmsr(vmsa, 0x830, 0xC_469A),
            _ => work(vmsa),
        }
    })
}

/// What every other vCPU does: `work`, and nothing before it was started.
fn started(mut work: impl FnMut(&mut Vmsa) -> Option<ExitCode> + Send + 'static) -> Scene {
    Box::new(move |vmsa| match vmsa.cs.base {
        0x9_A000 => work(vmsa),
        // An exit nobody expects: the test sees the stop.
        _ => Some(ExitCode(0x777)),
    })
}

fn vcpu(index: usize) -> Box<Vcpu> {
    let features = Features {
        x2apic: true,
        tsc_deadline: true,
        eoi_suppression: false,
    };
    let ram = RamMap::of_size(64 << 20).unwrap();
    Box::new(Vcpu::new(index, cpuid(X2Apic::Offered), features, &ram))
}

/// Runs a guest; `scene` makes what each vCPU does. Returns how it ended and what was counted.
fn run(vcpus: usize, scene: impl Fn(usize) -> Scene) -> (End, Stats) {
    run_started_by(Start::Kernel, vcpus, scene)
}

fn run_started_by(start: Start, vcpus: usize, scene: impl Fn(usize) -> Scene) -> (End, Stats) {
    let ticks = Ticks(Box::leak(Box::default()));
    let fittings = Fittings {
        start,
        ..Fittings::default()
    };
    let machine = Machine::with_fittings(vcpus, ticks, 0, fittings);
    let machine: &'static _ = Box::leak(Box::new(machine));
    let bells: &'static [Bell] = (0..vcpus)
        .map(|_| Bell::default())
        .collect::<Vec<_>>()
        .leak();
    let processor = |index: usize| ThreadProcessor {
        vmsa: Box::new(Vmsa::zeroed()),
        bell: &bells[index],
        scene: scene(index),
    };
    for own in 1..vcpus {
        let mut processor = processor(own);
        thread::spawn(move || {
            follow(Post {
                vcpu: &mut vcpu(own),
                machine,
                processor: &mut processor,
                host: &mut ThreadHost { bells, own },
                memory: &FakeMemory::new(0x1000),
            })
        });
    }
    let (mut vcpu, mut processor) = (vcpu(0), processor(0));
    let post = Post {
        vcpu: &mut vcpu,
        machine,
        processor: &mut processor,
        host: &mut ThreadHost { bells, own: 0 },
        memory: &FakeMemory::new(0x1000),
    };
    let end = lead(post, &mut |_| Ok(()));
    (end, vcpu.stats)
}

/// Until then the others are in the guest, which nothing but a kick ends.
#[test]
fn power_off_by_one_ends_all() {
    let (end, stats) = run(4, |index| match index {
        0 => starts_others(|_| None),
        2 => started(power_off),
        _ => started(|_| None),
    });
    assert_eq!(end, End::PowerOff);
    assert!(stats.to_json().contains("\"ioio\":1"), "from another vCPU");
}

#[test]
fn stop_by_one_stops_all_with_its_reason() {
    let (end, _) = run(2, |index| match index {
        0 => starts_others(|_| None),
        _ => started(|_| Some(ExitCode::SHUTDOWN)),
    });
    assert_eq!(end, End::Stop(StopReason::GUEST_TRIPLE_FAULT));
}

/// As on a PC; every life begins with the processor's signature in EDX.
#[test]
fn triple_fault_resets_a_guest_with_firmware() {
    let mut lives = 0;
    let scene = |_| -> Scene {
        Box::new(move |vmsa| {
            assert_ne!(vmsa.rdx, 0);
            lives += 1;
            match lives {
                1 => Some(ExitCode::SHUTDOWN),
                _ => Some(ExitCode::INVALID),
            }
        })
    };
    let (end, stats) = run_started_by(Start::Firmware, 1, scene);
    let expected = (End::Stop(StopReason::VMSA_INVALID), 1);
    assert_eq!((end, stats.resets), expected);
}

/// After a reset the others wait for their start again, whatever they were at.
#[test]
fn reset_by_one_brings_all_back_to_their_start() {
    static LIVES: AtomicUsize = AtomicUsize::new(0);
    let (end, stats) = run(3, |index| match index {
        0 => {
            let mut first_life = starts_others(|_| None);
            Box::new(move |vmsa| match LIVES.load(Ordering::SeqCst) {
                0 => first_life(vmsa),
                _ => power_off(vmsa),
            })
        }
        1 => started(|vmsa| {
            LIVES.fetch_add(1, Ordering::SeqCst);
            out(vmsa, 0xCF9, 0x06)
        }),
        _ => started(|_| None),
    });
    assert_eq!(end, End::PowerOff);
    assert_eq!((LIVES.load(Ordering::SeqCst), stats.resets), (1, 1));
}

#[test]
fn quick_resets_are_a_loop_and_slow_ones_are_none() {
    let mut watch = ResetWatch::new(Start::Kernel);
    let quick = u64::from(RESET_LOOP_LIMIT);
    assert!((1..=quick).all(|second| !watch.is_loop_after(second * 1_000_000_000)));
    assert!(watch.is_loop_after(quick * 1_000_000_000 + 1));
    let mut watch = ResetWatch::new(Start::Kernel);
    assert!((1..=50).all(|turn| !watch.is_loop_after(turn * 10_000_000_000)));
}
