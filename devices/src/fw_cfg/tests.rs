use alloc::string::ToString;
use alloc::vec::Vec;

use proptest::prelude::*;
use stockade_bus::fake::FakeMemory;

use super::*;

const FACTS: Facts = Facts {
    cpu_count: 3,
    ram_bytes: 0x1_2345_6000,
};

fn file(name: &str, content: &[u8]) -> File {
    File::try_new(name, content.to_vec()).unwrap()
}

fn device(memory: &FakeMemory) -> FwCfg<&FakeMemory> {
    let files = [file("etc/second", b"two"), file("etc/first", b"one!")];
    FwCfg::try_new(memory, FACTS, files).unwrap()
}

fn select(device: &mut FwCfg<&FakeMemory>, key: u16) {
    device.port_write(SELECTOR, &key.to_le_bytes()).unwrap();
}

fn read(device: &mut FwCfg<&FakeMemory>, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    for byte in bytes.chunks_mut(1) {
        device.port_read(DATA, byte).unwrap();
    }
    bytes
}

fn command(control: u32, len: u32, address: u64) -> [u8; 16] {
    let mut command = [0; 16];
    command[..4].copy_from_slice(&control.to_be_bytes());
    command[4..8].copy_from_slice(&len.to_be_bytes());
    command[8..].copy_from_slice(&address.to_be_bytes());
    command
}

/// Runs a command at 0x1000 and returns its control word.
fn run(device: &mut FwCfg<&FakeMemory>, memory: &FakeMemory, command: [u8; 16]) -> u32 {
    memory.write(Gpa(0x1000), &command).unwrap();
    device.port_write(DMA_HIGH, &[0; 4]).unwrap();
    device
        .port_write(DMA_LOW, &0x1000_u32.to_be_bytes())
        .unwrap();
    let mut answer = [0; 4];
    memory.read(Gpa(0x1000), &mut answer).unwrap();
    u32::from_be_bytes(answer)
}

#[test]
fn signature_id_and_facts_are_under_their_keys() {
    let memory = FakeMemory::new(0x4000);
    let mut device = device(&memory);
    for (key, item) in [
        (0x00, b"QEMU".as_slice()),
        (0x01, &[3, 0, 0, 0]),
        (0x03, &0x1_2345_6000_u64.to_le_bytes()),
        (0x05, &[3, 0]),
        (0x0F, &[3, 0]),
        (0x02, &[0; 4]),
        (0x8000, &[0; 4]),
        (0xFFFF, &[0; 4]),
    ] {
        select(&mut device, key);
        assert_eq!(read(&mut device, item.len()), item, "{key:#x}");
        assert_eq!(read(&mut device, 2), [0, 0]);
    }
}

#[test]
fn directory_names_the_files_in_order() {
    let memory = FakeMemory::new(0x4000);
    let mut device = device(&memory);
    select(&mut device, 0x19);
    assert_eq!(read(&mut device, 4), 2_u32.to_be_bytes());
    for (size, key, name) in [(4_u32, 0x20_u16, "etc/first"), (3, 0x21, "etc/second")] {
        let entry = read(&mut device, 64);
        assert_eq!(entry[..4], size.to_be_bytes());
        assert_eq!(entry[4..8], [0, key.to_le_bytes()[0], 0, 0]);
        assert_eq!(&entry[8..8 + name.len()], name.as_bytes());
        assert!(entry[8 + name.len()..].iter().all(|byte| *byte == 0));
    }
    select(&mut device, 0x21);
    assert_eq!(read(&mut device, 5), b"two\0\0");
}

#[test]
fn selecting_again_begins_again() {
    let memory = FakeMemory::new(0x4000);
    let mut device = device(&memory);
    select(&mut device, 0x4000);
    assert_eq!(read(&mut device, 2), b"QE");
    select(&mut device, 0);
    assert_eq!(read(&mut device, 4), b"QEMU");
}

#[test]
fn dma_address_reads_as_the_signature() {
    let memory = FakeMemory::new(0x4000);
    let mut device = device(&memory);
    let (mut high, mut low) = ([0; 4], [0; 4]);
    device.port_read(DMA_HIGH, &mut high).unwrap();
    device.port_read(DMA_LOW, &mut low).unwrap();
    assert_eq!((&high, &low), (b"QEMU", b" CFG"));
    let across = device.port_read(10, &mut high);
    assert_eq!(across, Err(AccessError::Width));
}

#[test]
fn dma_selects_reads_and_skips() {
    let memory = FakeMemory::new(0x4000);
    let mut device = device(&memory);
    assert_eq!(
        run(&mut device, &memory, command(0x0020_000A, 2, 0x2000)),
        0
    );
    assert_eq!(run(&mut device, &memory, command(0x4, 1, 0)), 0);
    assert_eq!(run(&mut device, &memory, command(0x2, 3, 0x2002)), 0);
    let mut bytes = [0xEE; 6];
    memory.read(Gpa(0x2000), &mut bytes).unwrap();
    assert_eq!(&bytes, b"on!\0\0\0");
}

#[test]
fn dma_reads_long_items_whole() {
    let memory = FakeMemory::new(0x10000);
    let content: Vec<u8> = (0..=250).cycle().take(10_000).collect();
    let mut device = FwCfg::try_new(&memory, FACTS, [file("long", &content)]).unwrap();
    let answer = run(&mut device, &memory, command(0x0020_000A, 10_000, 0x2003));
    assert_eq!(answer, 0);
    let mut bytes = vec![0; 10_000];
    memory.read(Gpa(0x2003), &mut bytes).unwrap();
    assert_eq!(bytes, content);
}

/// A guest's address is an allegation: what is not its memory fails, and nothing else happens.
#[test]
fn dma_outside_memory_and_writes_fail() {
    let memory = FakeMemory::new(0x4000);
    let mut device = device(&memory);
    for command in [
        command(0x0020_000A, 4, 0x3FFD),
        command(0x0020_000A, 4, u64::MAX - 1),
        command(0x0020_000A, 4, u64::MAX - 3),
        command(0x0020_000A, MAX_TRANSFER_BYTES + 1, 0x2000),
        command(0x0020_0018, 4, 0x2000),
    ] {
        assert_eq!(run(&mut device, &memory, command), 1);
    }
    device.port_write(DMA_HIGH, &[0xFF; 4]).unwrap();
    device.port_write(DMA_LOW, &[0xFF; 4]).unwrap();
    device
        .port_write(DMA_LOW, &0x3FF8_u32.to_be_bytes())
        .unwrap();
}

#[test]
fn ports_take_their_widths_only() {
    let memory = FakeMemory::new(0x4000);
    let mut device = device(&memory);
    assert_eq!(device.port_write(SELECTOR, &[0]), Err(AccessError::Width));
    assert_eq!(device.port_read(DATA, &mut [0; 2]), Err(AccessError::Width));
    assert_eq!(device.port_write(DMA_LOW, &[0]), Err(AccessError::Width));
    assert_eq!(device.port_write(2, &[0]), Err(AccessError::NoRegister));
    assert_eq!(device.port_read(0, &mut [0]), Err(AccessError::NoRegister));
    assert_eq!(
        device.port_read(PORTS, &mut [0]),
        Err(AccessError::NoRegister)
    );
}

#[test]
fn names_that_do_not_fit_are_refused() {
    for name in ["", "with\0zero", &"x".repeat(56)] {
        let error = File::try_new(name, Vec::new()).unwrap_err();
        assert_eq!(error, FileError::Name(name.to_string()));
    }
    let memory = FakeMemory::new(0);
    let twice = [file("a", b""), file("a", b"")];
    let error = FwCfg::try_new(&memory, FACTS, twice).map(drop).unwrap_err();
    assert_eq!(error, FileError::Duplicate("a".to_string()));
}

proptest! {
    #[test]
    fn traffic_never_panics_and_restored_device_agrees(
        traffic in prop::collection::vec((0_u16..14, any::<[u8; 4]>(), 0_usize..4, any::<bool>()), 0..80),
        start in prop::collection::vec(any::<u8>(), 256),
    ) {
        let memory = FakeMemory::new(0x1000);
        memory.write(Gpa(0), &start).unwrap();
        let mut device = device(&memory);
        for (port, mut bytes, width, is_write) in traffic {
            let len = [1, 2, 4, 4][width];
            if is_write {
                let _ = device.port_write(port, &bytes[..len]);
            } else {
                let _ = device.port_read(port, &mut bytes[..len]);
            }
        }
        let mut restored = self::device(&memory);
        restored.restore(&device.save()).unwrap();
        prop_assert_eq!(read(&mut restored, 20), read(&mut device, 20));
    }
}

/// A guest writes one file and no other, whole or in part, and a reset makes it empty.
#[test]
fn writable_file_is_written_by_dma_and_empty_after_a_reset() {
    let memory = FakeMemory::new(0x4000);
    let files = [
        file("etc/first", b"one!"),
        File::try_writable("etc/ramfb", 8).unwrap(),
    ];
    let mut device = FwCfg::try_new(&memory, FACTS, files).unwrap();
    memory.write(Gpa(0x2000), b"ABCDEFGHIJ").unwrap();
    let write = |key: u32| (key << 16) | (Control::SELECT | Control::WRITE).bits();
    let refused = Control::ERROR.bits();
    assert_eq!(
        run(&mut device, &memory, command(write(0x20), 4, 0x2000)),
        refused
    );
    assert_eq!(
        run(&mut device, &memory, command(write(0x21), 9, 0x2000)),
        refused
    );
    assert_eq!(
        run(&mut device, &memory, command(write(0x21), 4, 0x9000)),
        refused
    );
    let _ = device.take_written();
    assert_eq!(
        run(&mut device, &memory, command(write(0x21), 4, 0x2000)),
        0
    );
    assert_eq!(device.take_written(), Some(b"ABCD\0\0\0\0".as_slice()));
    assert_eq!(device.take_written(), None);
    // Goes on where it ended.
    let more = Control::WRITE.bits();
    assert_eq!(run(&mut device, &memory, command(more, 4, 0x2004)), 0);
    let saved = device.save();
    assert_eq!(saved.writable, b"ABCDEFGH");

    device.reset();
    assert_eq!(device.take_written(), Some([0; 8].as_slice()));
    device.restore(&saved).unwrap();
    assert_eq!(device.save(), saved);
    assert_eq!(device.take_written(), Some(b"ABCDEFGH".as_slice()));
    let short = FwCfgState {
        writable: vec![0; 7],
        ..saved
    };
    assert!(device.restore(&short).is_err());
}
