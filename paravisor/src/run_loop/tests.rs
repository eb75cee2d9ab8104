//! One test a step of the loop: each fails when its step is taken out.
//!
//! [`FakeProcessor`] keeps the hardware's side of the contract (APM vol. 2, 15.36.15): it takes a virtual interrupt only through an open
//! gate, delivers and clears `event_inj` at the entry, and leaves what the script says behind as the exit.

use alloc::vec::Vec;

use stockade_abi::cpuid_page::{CpuidEntry, CpuidPage};
use stockade_abi::exit::{ExitCode, NpfInfo};
use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::{EventInfo, EventType, Vmsa};
use stockade_apic::{Features, Time};
use stockade_boot::ram::RamMap;
use stockade_bus::fake::{FakeClock, FakeMemory};
use stockade_bus::{Clock, Gpa, GuestMemory};
use stockade_intercept::cpuid::{CpuidInputs, CpuidPolicy, HypervisorIdentity, TscAdjust, X2Apic};
use zerocopy::FromZeros;

mod several;
mod sharing;
mod vigils;
mod virtual_nmi;

use super::{End, Visit, run, turn, visit};
use crate::host::{Entered, Host, Processor, Signals, Timekeeper};
use crate::machine::Machine;
use crate::vcpu::{Activity, Vcpu};

const RFLAGS_IF: u64 = 1 << 9;
const EFER_LONG: u64 = 0x1500;

/// A clock whose TSC counts nanoseconds.
impl Timekeeper for &FakeClock {
    fn now(&self) -> Time {
        Time {
            ns: self.now_ns(),
            tsc: self.now_ns(),
        }
    }

    fn tsc(&self) -> u64 {
        self.now_ns()
    }

    fn tsc_at(&self, ns: u64) -> u64 {
        ns
    }
}

/// What the guest does during one entry.
pub(crate) type Scene = fn(&mut Vmsa);

pub(crate) struct FakeProcessor {
    pub(crate) vmsa: Vmsa,
    script: Vec<Scene>,
    /// Events and interrupts that reached the guest, as vectors.
    pub(crate) delivered: Vec<u8>,
    barriers: u64,
}

impl FakeProcessor {
    pub(crate) fn new(script: &[Scene]) -> Self {
        let mut vmsa = Vmsa::zeroed();
        vmsa.efer = EFER_LONG;
        vmsa.cr0 = 0x8000_0011;
        vmsa.rflags = 2 | RFLAGS_IF;
        vmsa.rip = 0x1000;
        Self {
            vmsa,
            script: script.to_vec(),
            delivered: Vec::new(),
            barriers: 0,
        }
    }
}

impl Processor for FakeProcessor {
    fn vmsa(&self) -> &Vmsa {
        &self.vmsa
    }

    fn vmsa_mut(&mut self) -> &mut Vmsa {
        &mut self.vmsa
    }

    fn enter(&mut self) -> Result<Entered, StopReason> {
        let event = core::mem::take(&mut self.vmsa.event_inj);
        if event.valid() {
            self.delivered.push(event.vector());
        }
        let control = self.vmsa.vintr_ctrl;
        let is_open = control.v_gif() && self.vmsa.rflags & RFLAGS_IF != 0;
        if control.v_irq()
            && is_open
            && (control.ignore_tpr() || control.priority() > control.v_tpr())
        {
            self.delivered.push(control.vector());
            self.vmsa.vintr_ctrl.set_v_irq(false);
        }
        if self.script.is_empty() {
            return Err(StopReason::UNSUPPORTED_EXIT);
        }
        self.script.remove(0)(&mut self.vmsa);
        Ok(Entered::Ran)
    }

    fn reset(&mut self) {
        self.vmsa = Vmsa::zeroed();
    }

    fn prediction_barrier(&mut self, bits: u64) {
        self.barriers |= bits;
    }
}

#[derive(Default)]
pub(crate) struct FakeHost {
    signals: Vec<Signals>,
    pub(crate) armed: Vec<u64>,
    output: Vec<u8>,
    input: Vec<u8>,
    pub(crate) waits: usize,
    pub(crate) kicked: Vec<usize>,
}

stockade_backend::no_devices!(FakeHost);

impl Host for FakeHost {
    fn drain(&mut self) -> Result<Signals, StopReason> {
        Ok(self.signals.pop().unwrap_or_default())
    }

    fn is_signalled(&self) -> bool {
        !self.signals.is_empty()
    }

    fn wait(&mut self) -> Result<(), StopReason> {
        self.waits += 1;
        Ok(())
    }

    fn arm_timer(&mut self, tsc: u64) -> Result<(), StopReason> {
        self.armed.push(tsc);
        Ok(())
    }

    fn kick(&mut self, vcpu: usize) -> Result<(), StopReason> {
        self.kicked.push(vcpu);
        Ok(())
    }

    fn console_write(&mut self, bytes: &[u8]) -> Result<(), StopReason> {
        self.output.extend_from_slice(bytes);
        Ok(())
    }

    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, StopReason> {
        let len = buffer.len().min(self.input.len());
        for (slot, byte) in buffer.iter_mut().zip(self.input.drain(..len)) {
            *slot = byte;
        }
        Ok(len)
    }
}

/// What CPUID answers, with or without x2APIC.
pub(crate) fn cpuid(x2apic: X2Apic) -> CpuidPolicy {
    cpuid_of(x2apic, HypervisorIdentity::default())
}

/// The same of this hypervisor.
pub(crate) fn cpuid_of(x2apic: X2Apic, identity: HypervisorIdentity) -> CpuidPolicy {
    let mut page = CpuidPage::new_zeroed();
    let leaves = [
        [0, 0, 0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65],
        [1, 0, 0x00A0_0F11, 0, 0x00D8_3203, 0x178B_FBFF],
        [
            0x8000_0000,
            0,
            0x8000_0021,
            0x6874_7541,
            0x444D_4163,
            0x6974_6E65,
        ],
        [0x8000_0001, 0, 0x00A0_0F11, 0, 0x100, 0x2C10_0800],
        [0x8000_0008, 0, 0x3030, 0x1000, 0, 0],
    ];
    for (entry, [leaf, subleaf, eax, ebx, ecx, edx]) in page.entries.iter_mut().zip(leaves) {
        *entry = CpuidEntry {
            eax_in: leaf,
            ecx_in: subleaf,
            eax,
            ebx,
            ecx,
            edx,
            ..CpuidEntry::new_zeroed()
        };
    }
    page.count = 5;
    let inputs = CpuidInputs {
        vcpus: 4,
        tsc_hz: 1_000_000_000,
        apic_timer_hz: 1_000_000_000,
        identity,
        x2apic,
        tsc_adjust: TscAdjust::default(),
    };
    CpuidPolicy::try_new(&page, inputs).unwrap()
}

fn vcpu(machine: &Machine<&FakeClock>, index: usize) -> Vcpu {
    let features = Features {
        x2apic: true,
        tsc_deadline: true,
        eoi_suppression: false,
    };
    let vcpu = Vcpu::new(
        index,
        cpuid(X2Apic::Offered),
        features,
        &RamMap::of_size(64 << 20).unwrap(),
    );
    vcpu.apic.publish(&machine.mailboxes()[index]);
    vcpu
}

/// A vCPU on a machine, with a script for its guest.
pub(crate) struct Rig<'a> {
    pub(crate) machine: Machine<&'a FakeClock>,
    pub(crate) vcpu: Vcpu,
    pub(crate) processor: FakeProcessor,
    pub(crate) host: FakeHost,
    pub(crate) memory: FakeMemory,
}

impl<'a> Rig<'a> {
    pub(crate) fn new(clock: &'a FakeClock, script: &[Scene]) -> Self {
        let machine = Machine::new(1, clock, 0);
        Self {
            vcpu: vcpu(&machine, 0),
            machine,
            processor: FakeProcessor::new(script),
            host: FakeHost::default(),
            memory: FakeMemory::new(0x10_0000),
        }
    }

    pub(crate) fn turn(&mut self) -> Result<(), End> {
        turn(
            &mut self.vcpu,
            &self.machine,
            &mut self.processor,
            &mut self.host,
            &self.memory,
        )
    }

    pub(crate) fn request(&self, vector: u8) {
        let _ = self.machine.mailboxes()[0].post_vector(vector, stockade_apic::Trigger::Edge);
    }

    fn is_in_service(&mut self, vector: u8) -> bool {
        let offset = 0x100 + u16::from(vector / 32) * 0x10;
        let mut word = [0; 4];
        self.vcpu
            .apic
            .read_mmio(offset, &mut word, Time::default())
            .unwrap();
        u32::from_le_bytes(word) & (1 << (vector % 32)) != 0
    }
}

pub(crate) fn exit(vmsa: &mut Vmsa, code: ExitCode) {
    vmsa.guest_exit_code = code;
    vmsa.guest_nrip = vmsa.rip + 2;
}

/// An exit that is always answered by the whole loop.
fn wbinvd_exit(vmsa: &mut Vmsa) {
    exit(vmsa, ExitCode::WBINVD);
}

pub(crate) fn cpuid_exit(vmsa: &mut Vmsa) {
    exit(vmsa, ExitCode::CPUID);
}

pub(crate) fn host_interrupt(vmsa: &mut Vmsa) {
    exit(vmsa, ExitCode::INTR);
}

/// Step 1: without vGIF hardware never takes what is queued.
#[test]
fn queued_interrupt_is_taken_because_the_gate_is_open() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[host_interrupt]);
    rig.processor.vmsa.vintr_ctrl.set_v_gif(false);
    rig.request(0x55);
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0x55]);
}

/// Step 3: the host cannot inject again under alternate injection; what is not carried over is lost.
#[test]
fn event_whose_delivery_was_cut_short_is_delivered_again() {
    let clock = FakeClock::default();
    let cut_short: Scene = |vmsa| {
        host_interrupt(vmsa);
        vmsa.guest_exit_int_info = EventInfo::new().with_vector(0x41).with_valid(true);
    };
    let mut rig = Rig::new(&clock, &[cut_short, host_interrupt, host_interrupt]);
    for _ in 0..3 {
        rig.turn().unwrap();
    }
    assert_eq!(rig.processor.delivered, [0x41]);
}

/// Step 3: INT n, INT3 and INTO execute again; delivered as well, they would come twice.
#[test]
fn software_interrupt_cut_short_is_left_to_its_instruction() {
    let clock = FakeClock::default();
    let int_n: Scene = |vmsa| {
        host_interrupt(vmsa);
        vmsa.guest_exit_int_info = EventInfo::new()
            .with_vector(0x80)
            .with_event_type(EventType::SOFTWARE)
            .with_valid(true);
    };
    let int3: Scene = |vmsa| {
        host_interrupt(vmsa);
        vmsa.guest_exit_int_info = EventInfo::new()
            .with_vector(3)
            .with_event_type(EventType::EXCEPTION)
            .with_valid(true);
    };
    let mut rig = Rig::new(&clock, &[int_n, int3, host_interrupt]);
    for _ in 0..3 {
        rig.turn().unwrap();
    }
    assert_eq!(rig.processor.delivered, [0_u8; 0]);
}

/// Step 4: a vector that stays in IRR would be delivered a second time.
#[test]
fn vector_taken_moves_to_in_service_and_comes_once() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[host_interrupt, host_interrupt]);
    rig.request(0x55);
    rig.turn().unwrap();
    assert!(rig.is_in_service(0x55));
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0x55]);
}

/// Step 4, the other way round: a vector not taken stays requested.
#[test]
fn vector_not_taken_is_offered_again() {
    let clock = FakeClock::default();
    let closed: Scene = |vmsa| {
        host_interrupt(vmsa);
        vmsa.rflags |= RFLAGS_IF;
    };
    let mut rig = Rig::new(&clock, &[closed, host_interrupt]);
    rig.processor.vmsa.rflags &= !RFLAGS_IF;
    rig.request(0x55);
    rig.turn().unwrap();
    assert!(rig.processor.delivered.is_empty() && !rig.is_in_service(0x55));
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0x55]);
}

/// A higher vector that comes while a lower one is queued goes first.
#[test]
fn queued_vector_gives_way_to_a_higher_one() {
    let clock = FakeClock::default();
    let open: Scene = |vmsa| {
        host_interrupt(vmsa);
        vmsa.rflags |= RFLAGS_IF;
    };
    let mut rig = Rig::new(&clock, &[open, host_interrupt]);
    rig.processor.vmsa.rflags &= !RFLAGS_IF;
    rig.request(0x31);
    rig.turn().unwrap();
    rig.request(0xE1);
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0xE1]);
}

/// Step 5: a host that returns without running the guest shows the same exit again; it must not be served twice.
#[test]
fn replayed_exit_is_not_served_twice() {
    let clock = FakeClock::default();
    let replay: Scene = |_| {};
    let mut rig = Rig::new(&clock, &[wbinvd_exit, replay, replay]);
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    rig.turn().unwrap();
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    assert_eq!(rig.vcpu.stats.empty_returns, 2);
}

/// Step 6: RIP goes on where hardware says, and the interrupt shadow ends.
#[test]
fn answered_instruction_is_left_behind_with_its_shadow() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[wbinvd_exit]);
    rig.processor.vmsa.vintr_ctrl.set_int_shadow(true);
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    assert!(!rig.processor.vmsa.vintr_ctrl.int_shadow());
}

/// Step 6: HLT has retired already; advancing it would skip an instruction.
#[test]
fn hlt_is_not_advanced_twice_and_waits() {
    let clock = FakeClock::default();
    let hlt: Scene = |vmsa| exit(vmsa, ExitCode::HLT);
    let mut rig = Rig::new(&clock, &[hlt, host_interrupt]);
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.rip, 0x1000);
    assert_eq!(rig.vcpu.activity, Activity::Halted);
    rig.turn().unwrap();
    assert_eq!(rig.host.waits, 1);
    rig.request(0x40);
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0x40]);
}

/// Step 6: after a nested page fault the next RIP in the save area means nothing; the emulator moves RIP.
#[test]
fn emulated_instruction_ignores_the_next_rip() {
    let clock = FakeClock::default();
    let npf: Scene = |vmsa| {
        vmsa.guest_exit_code = ExitCode::NPF;
        vmsa.guest_exit_info1 = (NpfInfo::FINAL_GPA | NpfInfo::WRITE).0;
        vmsa.guest_exit_info2 = 0xFEE0_0080;
        vmsa.guest_nrip = 0xDEAD;
    };
    let mut rig = Rig::new(&clock, &[npf]);
    // 32-bit flat protected mode without paging: MOV [EDI], EAX.
    let vmsa = &mut rig.processor.vmsa;
    (vmsa.cr0, vmsa.efer) = (0x11, 0x1000);
    vmsa.cs.attributes = stockade_abi::vmsa::SegmentAttributes::from_bits(0xC9B);
    vmsa.cs.limit = u32::MAX;
    vmsa.ds.attributes = stockade_abi::vmsa::SegmentAttributes::from_bits(0xC93);
    vmsa.ds.limit = u32::MAX;
    vmsa.rdi = 0xFEE0_0080;
    vmsa.rax = 0x20;
    rig.memory.write(Gpa(0x1000), &[0x89, 0x07]).unwrap();
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    assert_eq!(rig.vcpu.apic.task_priority(), 0x20);
}

/// Decisions rest on our own map: a fault the host makes up in guest RAM changes nothing, and many of them end it.
#[test]
fn faults_in_guest_ram_are_spurious_until_they_do_not_stop() {
    let clock = FakeClock::default();
    let lie: Scene = |vmsa| {
        vmsa.guest_exit_code = ExitCode::NPF;
        vmsa.guest_exit_info1 = NpfInfo::FINAL_GPA.0;
        vmsa.guest_exit_info2 = 0x2000;
    };
    let mut rig = Rig::new(&clock, &[lie; 100]);
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.rip, 0x1000);
    let end = run(
        &mut rig.vcpu,
        &rig.machine,
        &mut rig.processor,
        &mut rig.host,
        &rig.memory,
    );
    assert_eq!(end, End::Stop(StopReason::HOST_WITHDREW_MEMORY));
}

/// A write to firmware is lost, as to a ROM; any other fault there is the host's doing.
#[test]
fn writes_to_firmware_are_lost_and_other_faults_spurious() {
    const ROM: u64 = 0x10_0000;
    let clock = FakeClock::default();
    let write: Scene = |vmsa| {
        vmsa.guest_exit_code = ExitCode::NPF;
        vmsa.guest_exit_info1 = (NpfInfo::FINAL_GPA | NpfInfo::WRITE).0;
        vmsa.guest_exit_info2 = ROM;
    };
    let fetch: Scene = |vmsa| {
        vmsa.guest_exit_code = ExitCode::NPF;
        vmsa.guest_exit_info1 = (NpfInfo::FINAL_GPA | NpfInfo::FETCH).0;
        vmsa.guest_exit_info2 = ROM;
    };
    let mut rig = Rig::new(&clock, &[write, fetch]);
    rig.memory = FakeMemory::with_rom(0x10_0000, &[0x5A; 0x1000]);
    // 32-bit flat protected mode without paging: MOV [EDI], EAX.
    rig.memory.write(Gpa(0x1000), &[0x89, 0x07]).unwrap();
    let vmsa = &mut rig.processor.vmsa;
    (vmsa.cr0, vmsa.efer) = (0x11, 0x1000);
    vmsa.cs.attributes = stockade_abi::vmsa::SegmentAttributes::from_bits(0xC9B);
    vmsa.cs.limit = u32::MAX;
    vmsa.ds.attributes = stockade_abi::vmsa::SegmentAttributes::from_bits(0xC93);
    vmsa.ds.limit = u32::MAX;
    vmsa.rdi = ROM;
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    let mut bytes = [0; 4];
    rig.memory.read(Gpa(ROM), &mut bytes).unwrap();
    assert_eq!(bytes, [0x5A; 4]);
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    assert_eq!(rig.vcpu.stats.spurious_faults, 1);
}

#[test]
fn unknown_msr_faults_as_on_hardware_and_is_counted() {
    let clock = FakeClock::default();
    let rdmsr: Scene = |vmsa| {
        vmsa.rcx = 0xC001_0131;
        vmsa.guest_exit_info1 = 0;
        exit(vmsa, ExitCode::MSR);
    };
    let mut rig = Rig::new(&clock, &[rdmsr, host_interrupt]);
    rig.turn().unwrap();
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [13]);
    assert_eq!(rig.processor.vmsa.rip, 0x1000);
    assert_eq!(rig.vcpu.stats.last_unknown_msr, 0xC001_0131);
}

#[test]
fn triple_fault_and_refused_state_stop_with_their_reasons() {
    for (code, reason) in [
        (ExitCode::SHUTDOWN, StopReason::GUEST_TRIPLE_FAULT),
        (ExitCode::INVALID, StopReason::VMSA_INVALID),
        (ExitCode::BUSY, StopReason::HOST_LIED),
        (ExitCode(0x777), StopReason::UNSUPPORTED_EXIT),
    ] {
        let clock = FakeClock::default();
        let mut rig = Rig::new(&clock, &[]);
        rig.processor.script = alloc::vec![host_interrupt];
        rig.turn().unwrap();
        rig.processor.vmsa.guest_exit_code = code;
        rig.processor.script = alloc::vec![|_| {}];
        assert_eq!(rig.turn(), Err(End::Stop(reason)), "{code}");
    }
}

/// No exit code the guest or the host can leave makes the loop panic.
#[test]
fn every_exit_code_is_answered() {
    let clock = FakeClock::default();
    for code in (0..0x500).chain([0x7FFF_FFFF, u64::MAX, u64::MAX - 1]) {
        let mut rig = Rig::new(&clock, &[]);
        rig.processor.script = alloc::vec![|_| {}];
        rig.processor.vmsa.guest_exit_code = ExitCode(code);
        rig.processor.vmsa.guest_exit_info1 = u64::MAX;
        rig.processor.vmsa.guest_exit_info2 = u64::MAX;
        let _ = rig.turn();
    }
}

/// COM1 and the console: a line goes out at its end, input comes in and raises the interrupt.
#[test]
fn console_output_goes_out_by_lines_and_input_comes_in() {
    let clock = FakeClock::default();
    fn out(vmsa: &mut Vmsa, byte: u8) {
        vmsa.rax = u64::from(byte);
        vmsa.guest_exit_info1 = 0x3F8 << 16 | 1 << 4;
        exit(vmsa, ExitCode::IOIO);
    }
    let mut rig = Rig::new(&clock, &[|vmsa| out(vmsa, b'o'), |vmsa| out(vmsa, b'\n')]);
    rig.turn().unwrap();
    assert!(rig.host.output.is_empty());
    rig.turn().unwrap();
    assert_eq!(rig.host.output, b"o\n");
    // The guest is ready to take input: RTS.
    rig.machine.port_write(0x3FC, &[0x02]);
    rig.host.input = b"hi".to_vec();
    rig.host.signals = alloc::vec![Signals {
        console: true,
        ..Signals::default()
    }];
    rig.processor.script = alloc::vec![host_interrupt];
    rig.turn().unwrap();
    let mut byte = [0];
    rig.machine.port_read(0x3F8, &mut byte);
    assert_eq!(byte, *b"h");
}

/// The host's timer is set when something is due earlier than it would fire, and only then.
#[test]
fn timer_is_armed_for_the_earliest_deadline_once() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[host_interrupt as Scene; 3]);
    let write = |rig: &mut Rig<'_>, offset: u16, value: u32| {
        let now = rig.machine.clock().now();
        let _ = rig.vcpu.apic.write_mmio(offset, &value.to_le_bytes(), now);
    };
    write(&mut rig, 0x320, 0x20);
    write(&mut rig, 0x3E0, 0xB);
    write(&mut rig, 0x380, 5000);
    rig.turn().unwrap();
    rig.turn().unwrap();
    assert_eq!(rig.host.armed, [5000]);
    clock.advance(5000);
    rig.host.signals = alloc::vec![Signals {
        timer: true,
        ..Signals::default()
    }];
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0x20]);
}

/// A host that signals what nobody asked for gets it counted and dropped.
#[test]
fn unasked_signals_are_counted_and_reach_nobody() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[host_interrupt]);
    rig.host.signals = alloc::vec![Signals {
        dropped: 3,
        ..Signals::default()
    }];
    rig.turn().unwrap();
    assert_eq!(rig.vcpu.stats.dropped_vectors, 3);
    assert!(rig.processor.delivered.is_empty());
}

/// ExtINT: a vector of the 8259 pair is acknowledged when the guest took it, not before.
#[test]
fn interrupt_of_the_8259_is_acknowledged_when_taken() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[host_interrupt, host_interrupt]);
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xEF),
    ] {
        rig.machine.port_write(port, &[value]);
    }
    rig.machine.port_write(0x3FC, &[0x08]);
    rig.machine.port_write(0x3F9, &[0x02]);
    rig.turn().unwrap();
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0x34]);
    let mut isr = [0];
    rig.machine.port_write(0x20, &[0x0B]);
    rig.machine.port_read(0x20, &mut isr);
    assert_eq!(isr, [0x10]);
}

/// After an EOI or CPUID the host and the clock are not asked again, but what came meanwhile is not passed over.
#[test]
fn turn_after_a_cheap_exit_is_short_and_misses_nothing() {
    let clock = FakeClock::default();
    // With its trap flag set CPUID is answered by the whole loop.
    let step: Scene = |vmsa| {
        vmsa.rflags |= 1 << 8;
        cpuid_exit(vmsa);
    };
    let mut rig = Rig::new(&clock, &[step, host_interrupt, host_interrupt]);
    rig.turn().unwrap();
    assert!(rig.vcpu.is_settled);
    (rig.vcpu.exception, rig.processor.vmsa.rflags) = (None, 2 | RFLAGS_IF);
    rig.request(0x55);
    rig.turn().unwrap();
    assert_eq!(rig.processor.script.len(), 2, "mail keeps the vCPU here");
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [0x55]);
    let _ = rig.machine.crew().end_with(End::PowerOff);
    rig.vcpu.is_settled = true;
    assert_eq!(rig.turn(), Ok(()), "nor does an end");
    assert_eq!(rig.turn(), Err(End::PowerOff));
}

/// A guest that executes CPUID for ever, while another vCPU posts an interrupt for it.
struct Pestered<'a> {
    inner: FakeProcessor,
    mailbox: &'a stockade_apic::Mailbox,
}

impl Processor for Pestered<'_> {
    fn vmsa(&self) -> &Vmsa {
        self.inner.vmsa()
    }

    fn vmsa_mut(&mut self) -> &mut Vmsa {
        self.inner.vmsa_mut()
    }

    fn enter(&mut self) -> Result<Entered, StopReason> {
        if self.inner.script.len() == 2 {
            let _ = self.mailbox.post_vector(0x55, stockade_apic::Trigger::Edge);
        }
        self.inner.enter()
    }

    fn reset(&mut self) {}

    fn prediction_barrier(&mut self, _: u64) {}
}

/// A sender that finds the vCPU away kicks it; should the host keep that back, the next exit sees the mail all the same.
#[test]
fn mail_ends_a_visit_of_quick_exits() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[]);
    rig.vcpu.is_calm = true;
    let mut processor = Pestered {
        inner: FakeProcessor::new(&[cpuid_exit as Scene; 4]),
        mailbox: &rig.machine.mailboxes()[0],
    };
    let ended = visit(&mut rig.vcpu, &rig.machine, &mut processor, &rig.memory);
    assert_eq!(ended, Ok(Visit::Answered));
    assert_eq!(processor.inner.script.len(), 1);
}

/// No hardware window lets an NMI in: without an exit soon it would wait for the guest's next one.
#[test]
fn nmi_behind_a_shadow_brings_the_guest_back_soon() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[host_interrupt as Scene; 2]);
    rig.processor.vmsa.vintr_ctrl.set_int_shadow(true);
    rig.vcpu.nmi.raise();
    rig.turn().unwrap();
    assert!(rig.processor.delivered.is_empty());
    assert_eq!(rig.host.armed, [200_000]);
    rig.processor.vmsa.vintr_ctrl.set_int_shadow(false);
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [2]);
}

/// TPR written through the APIC's page must reach CR8, where hardware compares; and CR8 the page.
#[test]
fn task_priority_and_cr8_are_one_register() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(
        &clock,
        &[host_interrupt, |vmsa| {
            host_interrupt(vmsa);
            vmsa.vintr_ctrl.set_v_tpr(3);
        }],
    );
    let tpr = 0x5A_u32.to_le_bytes();
    let _ = rig.vcpu.apic.write_mmio(0x80, &tpr, Time::default());
    rig.request(0x55);
    rig.turn().unwrap();
    assert_eq!(rig.processor.vmsa.vintr_ctrl.v_tpr(), 5);
    assert!(rig.processor.delivered.is_empty(), "class 5 is masked");
    assert_eq!(rig.vcpu.apic.task_priority(), 0x5A);
    rig.turn().unwrap();
    assert_eq!(rig.vcpu.apic.task_priority(), 0x30);
}

/// The trap flag of an instruction that is answered here: hardware never got to its end.
#[test]
fn single_step_over_an_answered_instruction_traps_behind_it() {
    let clock = FakeClock::default();
    let mut rig = Rig::new(&clock, &[cpuid_exit, host_interrupt]);
    rig.processor.vmsa.rflags |= 1 << 8;
    rig.turn().unwrap();
    rig.turn().unwrap();
    assert_eq!(rig.processor.delivered, [1]);
    assert_eq!(rig.processor.vmsa.rip, 0x1002);
    assert_ne!(rig.processor.vmsa.dr6 & 1 << 14, 0);
}
