use std::cell::RefCell;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use stockade_bus::fake::FakeMemory;
use stockade_bus::{Gpa, GuestMemory, Level, PciConfig};

use super::VirtioPci;
use crate::RestoreError;
use crate::pci::{Bar, MsiMessage, PciFunction};
use crate::virtio::{
    DeviceId, Features, FeaturesRefused, Interrupts, QueueConfig, VirtioDevice, Work,
};

/// What was asked of the device, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Negotiate(u64),
    Activate(Vec<Option<QueueConfig>>),
    Reset,
    Notify(u16),
    Work,
    WriteConfig(u32, Vec<u8>),
}

/// A device with two queues that answers each notification with a used buffer and touches memory at 0x100.
#[derive(Debug, Default)]
struct Recorder {
    calls: RefCell<Vec<Call>>,
    interrupts: Interrupts,
    is_broken: bool,
    is_slow: bool,
    generation: u8,
}

impl Recorder {
    fn log(&self, call: Call) {
        self.calls.borrow_mut().push(call);
    }
}

const OFFERED: u64 = 1 << 32 | 1 << 28 | 0b101;
const REFUSED_ALONE: u64 = 0b100;

impl VirtioDevice for Recorder {
    fn device_id(&self) -> DeviceId {
        DeviceId::ENTROPY
    }
    fn class_code(&self) -> u32 {
        0x00FF_0000
    }
    fn device_features(&self) -> Features {
        Features::from_bits_retain(OFFERED)
    }
    fn queue_count(&self) -> u16 {
        2
    }
    fn queue_max_size(&self, queue: u16) -> Option<u16> {
        (queue < 2).then_some(256)
    }
    fn read_config(&self, offset: u32, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = offset.to_le_bytes()[0].wrapping_add(index.to_le_bytes()[0]);
        }
    }
    fn write_config(&mut self, offset: u32, data: &[u8]) {
        self.log(Call::WriteConfig(offset, data.to_vec()));
    }
    fn config_generation(&self) -> u8 {
        self.generation
    }
    fn negotiate(&mut self, features: Features) -> Result<(), FeaturesRefused> {
        self.log(Call::Negotiate(features.bits()));
        if features.bits() & 0b101 == REFUSED_ALONE {
            return Err(FeaturesRefused(features));
        }
        Ok(())
    }
    fn activate(&mut self, queues: &[Option<QueueConfig>], _: &dyn GuestMemory) {
        self.log(Call::Activate(queues.to_vec()));
    }
    fn reset(&mut self) {
        self.log(Call::Reset);
        self.is_broken = false;
        self.interrupts = Interrupts::default();
    }
    fn notify(&mut self, queue: u16, memory: &dyn GuestMemory) -> Work {
        self.log(Call::Notify(queue));
        memory.write(Gpa(0x100), &[1]).unwrap();
        self.interrupts.queues |= 1_u64.checked_shl(queue.into()).unwrap_or(0);
        if self.is_slow { Work::More } else { Work::Done }
    }
    fn work(&mut self, _: &dyn GuestMemory) -> Work {
        self.log(Call::Work);
        Work::Done
    }
    fn take_interrupts(&mut self, memory: &dyn GuestMemory) -> Interrupts {
        memory.read(Gpa(0x100), &mut [0]).unwrap();
        core::mem::take(&mut self.interrupts)
    }
    fn needs_reset(&self) -> bool {
        self.is_broken
    }
}

type Function<'a> = VirtioPci<Recorder, &'a FakeMemory>;

const MSIX: Bar = super::MSIX_BAR;
const REGISTERS: Bar = super::REGISTER_BAR;

fn function(memory: &FakeMemory) -> Function<'_> {
    VirtioPci::new(Recorder::default(), memory)
}

fn read<const N: usize>(function: &mut Function<'_>, offset: u64) -> [u8; N] {
    let mut data = [0; N];
    function.bar_read(REGISTERS, offset, &mut data).unwrap();
    data
}

fn word(function: &mut Function<'_>, offset: u64) -> u16 {
    u16::from_le_bytes(read(function, offset))
}

fn dword(function: &mut Function<'_>, offset: u64) -> u32 {
    u32::from_le_bytes(read(function, offset))
}

fn status(function: &mut Function<'_>) -> u8 {
    read::<1>(function, 0x14)[0]
}

fn write(function: &mut Function<'_>, offset: u64, data: &[u8]) {
    function.bar_write(REGISTERS, offset, data).unwrap();
}

fn set_master(function: &mut Function<'_>, is_on: bool) {
    function.config_write(4, if is_on { 6 } else { 2 }, 0xFFFF);
}

fn calls(function: &mut Function<'_>) -> Vec<Call> {
    core::mem::take(&mut *function.device.calls.borrow_mut())
}

fn messages(function: &mut Function<'_>) -> Vec<MsiMessage> {
    let mut messages = Vec::new();
    function.take_messages(&mut |message| messages.push(message));
    messages
}

fn set_features(function: &mut Function<'_>, features: u64) {
    for (select, bits) in [(0_u32, features), (1, features >> 32)] {
        write(function, 0x08, &select.to_le_bytes());
        write(function, 0x0C, &bits.to_le_bytes()[..4]);
    }
}

const QUEUE_1: QueueConfig = QueueConfig {
    size: 128,
    descriptors: Gpa(0x1_2345_6000),
    driver: Gpa(0x7000),
    device: Gpa(0x8000),
};

/// Does what a driver does, with queue 1 alone (3.1.1).
fn start(function: &mut Function<'_>) {
    set_master(function, true);
    write(function, 0x14, &[0]);
    write(function, 0x14, &[1]);
    write(function, 0x14, &[3]);
    set_features(function, 1 << 32 | 1);
    write(function, 0x14, &[0xB]);
    assert_eq!(status(function), 0xB);
    write(function, 0x16, &[1, 0]);
    write(function, 0x18, &128_u16.to_le_bytes());
    write(function, 0x1A, &[1, 0]);
    write(function, 0x20, &0x2345_6000_u32.to_le_bytes());
    write(function, 0x24, &1_u32.to_le_bytes());
    write(function, 0x28, &0x7000_u64.to_le_bytes());
    write(function, 0x30, &0x8000_u32.to_le_bytes());
    write(function, 0x1C, &[1, 0]);
    write(function, 0x14, &[0xF]);
    assert_eq!(status(function), 0xF);
}

/// Gives vector `n` the data 0x40 + `n` and opens it.
fn open_vectors(function: &mut Function<'_>) {
    for vector in 0..3_u64 {
        let entry = [0xFEE0_0000, 0, 0x40 + u32::try_from(vector).unwrap(), 0];
        for (at, word) in (vector * 16..).step_by(4).zip(entry) {
            function.bar_write(MSIX, at, &word.to_le_bytes()).unwrap();
        }
    }
    function.config_write(0x40, 1 << 31, 0xFF00_0000);
}

#[test]
fn identity_is_a_modern_devices() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    assert_eq!(function.config_read(0x00), 0x1044_1AF4);
    assert_eq!(function.config_read(0x08), 0xFF00_0001);
    assert_eq!(function.config_read(0x2C), 0x1044_1AF4);
}

/// Walks the list as a driver does (4.1.4).
#[test]
fn capabilities_say_where_the_blocks_are() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    let mut byte = |at: u32| {
        let at = u16::try_from(at).unwrap();
        function.config_read(at & !3).to_le_bytes()[usize::from(at & 3)]
    };
    let mut found = Vec::new();
    let mut at = u32::from(byte(0x34));
    while at != 0 {
        if byte(at) == 9 {
            let field = |byte: &mut dyn FnMut(u32) -> u8, offset: u32| {
                u32::from_le_bytes([0, 1, 2, 3].map(|i| byte(at + offset + i)))
            };
            let (len, kind, bar) = (byte(at + 2), byte(at + 3), byte(at + 4));
            let (offset, length) = (field(&mut byte, 8), field(&mut byte, 12));
            if kind == 2 {
                assert_eq!(field(&mut byte, 16), 4, "notify multiplier");
            }
            found.push((kind, len, bar, offset, length));
        }
        at = u32::from(byte(at + 1));
    }
    assert_eq!(
        found,
        [
            (1, 16, 4, 0x0000, 0x38),
            (3, 16, 4, 0x1000, 4),
            (4, 16, 4, 0x2000, 0x1000),
            (2, 20, 4, 0x3000, 0x1000),
            (5, 20, 0, 0, 0),
        ]
    );
}

#[test]
fn driver_negotiates_sets_up_its_queue_and_starts_the_device() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    assert_eq!(
        calls(&mut function),
        [
            Call::Reset,
            Call::Negotiate(1 << 32 | 1),
            Call::Activate(vec![None, Some(QUEUE_1)]),
        ]
    );
    assert!(function.is_running());
}

#[test]
fn offered_features_show_in_two_halves() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    let halves = [0_u32, 1, 2].map(|select| {
        write(&mut function, 0x00, &select.to_le_bytes());
        dword(&mut function, 0x04)
    });
    assert_eq!(halves, [0x1000_0005, 1, 0]);
}

/// FEATURES_OK that does not stay set is how a device refuses (3.1.1).
#[test]
fn features_that_cannot_be_do_not_become_ok() {
    let memory = FakeMemory::new(0x1000);
    for features in [1, 1 << 32 | 1 << 33, 1 << 32 | REFUSED_ALONE] {
        let mut function = function(&memory);
        write(&mut function, 0x14, &[3]);
        set_features(&mut function, features);
        write(&mut function, 0x14, &[0xB]);
        assert_eq!(status(&mut function), 3, "{features:#x}");
        write(&mut function, 0x14, &[0xF]);
        assert_eq!(status(&mut function), 3, "no DRIVER_OK without FEATURES_OK");
        set_features(&mut function, 1 << 32);
        write(&mut function, 0x14, &[0xB]);
        assert_eq!(status(&mut function), 0xB, "the driver may try again");
    }
}

#[test]
fn what_is_agreed_on_stays() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    set_features(&mut function, 0);
    write(&mut function, 0x08, &[1, 0, 0, 0]);
    assert_eq!(dword(&mut function, 0x0C), 1, "features");
    write(&mut function, 0x18, &[64, 0]);
    write(&mut function, 0x20, &[0; 4]);
    write(&mut function, 0x1C, &[0, 0]);
    assert_eq!(word(&mut function, 0x18), 128, "size of an enabled queue");
    assert_eq!(dword(&mut function, 0x20), 0x2345_6000, "its address");
    assert_eq!(word(&mut function, 0x1C), 1, "a queue is not disabled");
    write(&mut function, 0x14, &[1]);
    assert_eq!(status(&mut function), 0xF, "status bits are not taken back");
}

#[test]
fn queue_registers_follow_the_selection() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    assert_eq!(word(&mut function, 0x12), 2);
    for (queue, size) in [(0_u16, 256), (1, 256), (2, 0), (0xFFFF, 0)] {
        write(&mut function, 0x16, &queue.to_le_bytes());
        assert_eq!(word(&mut function, 0x18), size, "queue {queue}");
        assert_eq!(word(&mut function, 0x1A), 0xFFFF);
    }
    write(&mut function, 0x16, &[1, 0]);
    assert_eq!(word(&mut function, 0x1E), 1, "notify offset");
    for size in [0_u16, 257] {
        write(&mut function, 0x18, &size.to_le_bytes());
        assert_eq!(word(&mut function, 0x18), 256);
    }
}

#[test]
fn vector_that_is_not_there_reads_back_as_none() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    for offset in [0x10, 0x1A] {
        write(&mut function, offset, &[2, 0]);
        assert_eq!(word(&mut function, offset), 2);
        write(&mut function, offset, &[3, 0]);
        assert_eq!(word(&mut function, offset), 0xFFFF);
    }
}

#[test]
fn notification_is_answered_by_the_queues_message() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    open_vectors(&mut function);
    write(&mut function, 0x3004, &[1, 0]);
    assert_eq!(calls(&mut function).last(), Some(&Call::Notify(1)));
    let data: Vec<_> = messages(&mut function).iter().map(|m| m.data).collect();
    assert_eq!(data, [0x41]);
    assert_eq!(function.interrupt(), Level::Low);
    assert_eq!(read::<1>(&mut function, 0x1000), [0], "no ISR with MSI-X");
}

#[test]
fn configuration_change_uses_its_own_vector() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    open_vectors(&mut function);
    write(&mut function, 0x10, &[2, 0]);
    function.with_device(|device, _| {
        device.interrupts.config = true;
        device.generation = 7;
    });
    assert_eq!(messages(&mut function)[0].data, 0x42);
    assert_eq!(read::<1>(&mut function, 0x15), [7]);
}

#[test]
fn queue_without_a_vector_is_silent() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    open_vectors(&mut function);
    write(&mut function, 0x1A, &[0xFF, 0xFF]);
    write(&mut function, 0x3004, &[1, 0]);
    assert_eq!(messages(&mut function), []);
}

#[test]
fn without_messages_the_isr_says_why_and_reading_it_lowers_the_wire() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    write(&mut function, 0x3004, &[1, 0]);
    assert_eq!(function.interrupt(), Level::High);
    function.with_device(|device, _| device.interrupts.config = true);
    assert_eq!(read::<1>(&mut function, 0x1000), [3]);
    assert_eq!(function.interrupt(), Level::Low);
    assert_eq!(read::<1>(&mut function, 0x1000), [0]);
}

#[test]
fn device_does_not_reach_memory_without_bus_mastering() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    set_master(&mut function, false);
    calls(&mut function);
    write(&mut function, 0x3004, &[1, 0]);
    assert_eq!(calls(&mut function), []);
    assert!(function.is_cut_off() && !function.is_running());
    let refused = function.with_device(|_, memory| memory.read(Gpa(0), &mut [0]).is_err());
    assert!(refused);
    set_master(&mut function, true);
    assert!(function.is_running() && !function.is_cut_off());
    let heard = calls(&mut function);
    assert!(heard.contains(&Call::Notify(1)), "made up for: {heard:?}");
}

#[test]
fn notification_before_the_driver_runs_the_device_is_nobodys() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    set_master(&mut function, true);
    write(&mut function, 0x3000, &[0, 0]);
    assert_eq!(calls(&mut function), []);
}

#[test]
fn work_left_over_is_done_when_asked_for() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    function.device.is_slow = true;
    write(&mut function, 0x3004, &[1, 0]);
    assert_eq!(function.pending_work(), Work::More);
    assert_eq!(function.work(), Work::Done);
    assert_eq!(calls(&mut function).last(), Some(&Call::Work));
    assert_eq!(function.work(), Work::Done);
    assert_eq!(calls(&mut function), []);
}

#[test]
fn broken_device_says_so_until_it_is_reset() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    function.device.is_broken = true;
    assert_eq!(status(&mut function), 0x4F);
    write(&mut function, 0x14, &[0]);
    assert_eq!(status(&mut function), 0);
}

#[test]
fn virtio_reset_keeps_configuration_space_and_function_reset_does_not() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    start(&mut function);
    open_vectors(&mut function);
    write(&mut function, 0x14, &[0]);
    assert_eq!(word(&mut function, 0x1A), 0xFFFF);
    assert_eq!(word(&mut function, 0x1C), 0);
    assert_eq!(function.config_read(4) & 6, 6);
    assert_ne!(function.config_read(0x40) >> 31, 0);
    start(&mut function);
    function.config_write(0x50, 1, 0xFF);
    assert_eq!(function.config_read(4) & 6, 0);
    assert_eq!(function.config_read(0x40) >> 31, 0);
    assert_eq!(status(&mut function), 0);
    assert_eq!(calls(&mut function).last(), Some(&Call::Reset));
}

#[test]
fn device_configuration_is_passed_through() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    assert_eq!(read::<4>(&mut function, 0x2010), [0x10, 0x11, 0x12, 0x13]);
    write(&mut function, 0x2020, &[1, 2]);
    let written = Call::WriteConfig(0x20, vec![1, 2]);
    assert_eq!(calls(&mut function), [written]);
}

/// 4.1.4.9: firmware without access to the BARs reaches the registers through configuration space.
#[test]
fn window_in_configuration_space_reaches_the_blocks() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    let window = u16::from(function.window);
    function.config_write(window + 4, 4, 0xFF);
    function.config_write(window + 8, 0x14, u32::MAX);
    function.config_write(window + 12, 1, u32::MAX);
    function.config_write(window + 16, 3, 0xFF);
    assert_eq!(status(&mut function), 3);
    assert_eq!(function.config_read(window + 16), 3);
    function.config_write(window + 8, 0x2010, u32::MAX);
    function.config_write(window + 12, 4, u32::MAX);
    assert_eq!(function.config_read(window + 16), 0x1312_1110);
    for (bar, offset, len) in [(4, 2, 4), (4, 0, 3), (6, 0, 4), (0, 0, 4), (4, 0x4000, 4)] {
        function.config_write(window + 4, bar, 0xFF);
        function.config_write(window + 8, offset, u32::MAX);
        function.config_write(window + 12, len, u32::MAX);
        let _ = function.config_read(window + 16);
        function.config_write(window + 16, u32::MAX, u32::MAX);
    }
    assert_eq!(status(&mut function), 3);
}

#[test]
fn impossible_states_are_refused() {
    let memory = FakeMemory::new(0x1000);
    let mut function = function(&memory);
    let state = function.save();
    let ok = |_: &mut Recorder| Ok::<(), RestoreError>(());
    assert!(function.restore(&state, ok).is_ok());
    let mut refused = |change: fn(&mut super::VirtioPciState)| {
        let mut state = state.clone();
        change(&mut state);
        function.restore(&state, ok).is_err()
    };
    assert!(refused(|state| state.version = 2));
    assert!(refused(|state| state.isr = 4));
    assert!(refused(|state| state.status = 0x40));
    assert!(refused(|state| state.config_vector = 3));
    assert!(refused(|state| state.queues[0].vector = 3));
    assert!(refused(|state| state.queues[1].size = 257));
    assert!(refused(|state| state.queues.clear()));
    let fails = |_: &mut Recorder| Err(RestoreError::Impossible("device"));
    assert!(function.restore(&state, fails).is_err());
}

proptest! {
    #[test]
    fn traffic_never_panics_and_a_restored_transport_is_the_saved_one(
        traffic in prop::collection::vec(
            (0_u8..6, 0_u64..0x4100, prop::collection::vec(any::<u8>(), 1..17)),
            0..80,
        ),
    ) {
        let memory = FakeMemory::new(0x1000);
        let mut function = self::function(&memory);
        start(&mut function);
        for (kind, offset, mut data) in traffic {
            let near = offset & 0x3F;
            match kind {
                0 => { let _ = function.bar_read(REGISTERS, offset, &mut data); }
                1 => { let _ = function.bar_write(REGISTERS, offset, &data); }
                2 => { let _ = function.bar_write(REGISTERS, near, &data[..data.len().min(4)]); }
                3 => { let _ = function.bar_write(MSIX, near, &data); }
                4 => function.config_write(
                    u16::from(offset.to_le_bytes()[0]) & !3,
                    u32::from(data[0]) << 24 | u32::from(data[0]),
                    u32::MAX,
                ),
                _ => { let _ = messages(&mut function); }
            }
            let _ = function.work();
        }
        let mut restored = self::function(&memory);
        restored.restore(&function.save(), |_| Ok::<(), RestoreError>(())).unwrap();
        prop_assert_eq!(restored.save(), function.save());
        prop_assert_eq!(restored.interrupt(), function.interrupt());
        prop_assert_eq!(messages(&mut restored), messages(&mut function));
    }
}
