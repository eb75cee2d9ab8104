use proptest::prelude::*;
use stockade_bus::fake::FakeIrqLine;
use stockade_bus::{Level, PortIo};

use super::{FCR_ENABLE, IDLE_STATUS, INPUT_DEPTH, LINE_STATUS, OUTPUT_DEPTH, Serial};

fn read(serial: &mut Serial<&FakeIrqLine>, register: u16) -> u8 {
    let mut byte = [0];
    serial.port_read(register, &mut byte).unwrap();
    byte[0]
}

fn write(serial: &mut Serial<&FakeIrqLine>, register: u16, value: u8) {
    serial.port_write(register, &[value]).unwrap();
}

/// A driver that enables the transmit interrupt on an idle port waits for one to start sending.
#[test]
fn enabling_transmit_interrupt_on_idle_port_raises_line() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    write(&mut serial, 4, 0x08);
    write(&mut serial, 1, 0x02);
    assert_eq!(irq.level(), Level::High);
    assert_eq!(read(&mut serial, 2), 0x02);
    assert_eq!(irq.level(), Level::Low);
    assert_eq!(read(&mut serial, 2), 0x01);
}

#[test]
fn line_stays_low_without_out2() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    write(&mut serial, 1, 0x02);
    assert_eq!(irq.level(), Level::Low);
}

#[test]
fn sent_characters_come_out_in_order() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    for byte in *b"hello" {
        write(&mut serial, 0, byte);
    }
    let mut out = [0; 16];
    assert_eq!(serial.take_output(&mut out), 5);
    assert_eq!(&out[..5], b"hello");
}

/// The machine hands output over a line at a time.
#[test]
fn end_of_a_line_shows_until_it_is_taken() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    write(&mut serial, 0, b'a');
    assert!(!serial.has_line());
    write(&mut serial, 0, b'\n');
    assert!(serial.has_line());
    serial.take_output(&mut [0; 8]);
    assert!(!serial.has_line());
}

/// Back-pressure: the guest polls LSR and must not lose characters while the machine is behind.
#[test]
fn transmitter_is_busy_while_output_is_full() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    for _ in 0..OUTPUT_DEPTH {
        assert_eq!(read(&mut serial, 5) & 0x60, 0x60);
        write(&mut serial, 0, b'x');
    }
    assert_eq!(read(&mut serial, 5) & 0x60, 0);
    serial.take_output(&mut [0; 1]);
    assert_eq!(read(&mut serial, 5) & 0x60, 0x60);
}

#[test]
fn received_characters_raise_line_until_read() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    write(&mut serial, 4, 0x0A);
    write(&mut serial, 2, 0x81);
    write(&mut serial, 1, 0x01);
    assert_eq!(serial.push_input(b"ab"), 2);
    assert_eq!(irq.level(), Level::High);
    assert_eq!(read(&mut serial, 2), 0xCC);
    assert_eq!(read(&mut serial, 0), b'a');
    assert_eq!(irq.level(), Level::High);
    assert_eq!(read(&mut serial, 0), b'b');
    assert_eq!(irq.level(), Level::Low);
    assert_eq!(read(&mut serial, 5) & 1, 0);
}

#[test]
fn input_waits_behind_a_full_fifo() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    write(&mut serial, 4, 0x02);
    write(&mut serial, 2, FCR_ENABLE);
    let sent: std::vec::Vec<u8> = (0..100).collect();
    assert_eq!(serial.push_input(&sent), 100);
    let got: std::vec::Vec<u8> = (0..100).map(|_| read(&mut serial, 0)).collect();
    assert_eq!(got, sent);
    assert_eq!(serial.push_input(&[0; 2 * INPUT_DEPTH]), INPUT_DEPTH);
}

/// What is typed before the driver is up must survive its clearing of the FIFO.
#[test]
fn input_waits_for_rts() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    serial.push_input(b"typed");
    for fcr in [0x01, 0x07, 0x00, 0x07, 0x81] {
        write(&mut serial, 2, fcr);
    }
    write(&mut serial, 1, 0x05);
    write(&mut serial, 4, 0x0B);
    assert_eq!(irq.level(), Level::High);
    assert_eq!([(); 5].map(|()| read(&mut serial, 0)), *b"typed");
}

#[test]
fn polling_guest_gets_input_without_rts() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    serial.push_input(b"ab");
    assert_eq!(read(&mut serial, 5) & 1, 1);
    assert_eq!(read(&mut serial, 0), b'a');
    assert_eq!(read(&mut serial, 5) & 1, 1);
    assert_eq!(read(&mut serial, 0), b'b');
}

/// Linux' autoconfiguration sets loopback and expects the modem lines back (8250_port.c's loopback test).
#[test]
fn loopback_returns_modem_lines_and_characters() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    write(&mut serial, 4, 0x1A);
    assert_eq!(read(&mut serial, 6) & 0xF0, 0x90);
    write(&mut serial, 0, 0x5A);
    assert_eq!(read(&mut serial, 0), 0x5A);
    assert_eq!(serial.output_len(), 0);
}

#[test]
fn divisor_latch_hides_data_and_interrupt_enable() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    write(&mut serial, 3, 0x83);
    write(&mut serial, 0, 0x01);
    write(&mut serial, 1, 0x00);
    assert_eq!(read(&mut serial, 0), 0x01);
    write(&mut serial, 3, 0x03);
    assert_eq!(read(&mut serial, 0), 0);
    assert_eq!(serial.output_len(), 0);
}

#[test]
fn fifo_bits_identify_a_16550a() {
    let irq = FakeIrqLine::default();
    let mut serial = Serial::new(&irq);
    write(&mut serial, 2, 0x01);
    assert_eq!(read(&mut serial, 2) & 0xC0, 0xC0);
    write(&mut serial, 2, 0x00);
    assert_eq!(read(&mut serial, 2) & 0xC0, 0);
}

proptest! {
    /// Whoever answers for an idle port without asking it gives the chip's own answer, and misses nothing.
    #[test]
    fn status_of_an_idle_port_is_one_value_and_reading_it_changes_nothing(
        traffic in prop::collection::vec((0_u8..4, 0_u16..8, any::<u8>()), 0..60),
    ) {
        let line = FakeIrqLine::default();
        let mut serial = Serial::new(&line);
        for (kind, register, value) in traffic {
            match kind {
                0 => { read(&mut serial, register); }
                1 => { serial.push_input(&[value; 3]); }
                _ => write(&mut serial, register, value),
            }
            let (is_idle, before, level) = (serial.is_idle(), serial.save(), line.level());
            let status = read(&mut serial, LINE_STATUS);
            if is_idle {
                prop_assert_eq!(status, IDLE_STATUS);
                prop_assert_eq!(serial.save(), before);
                prop_assert_eq!(line.level(), level);
            }
        }
    }

    /// A restored port answers like the saved one.
    #[test]
    fn restored_port_behaves_as_the_saved_one(
        traffic in prop::collection::vec((any::<bool>(), 0_u16..8, any::<u8>()), 0..200),
        after in prop::collection::vec((any::<bool>(), 0_u16..8, any::<u8>()), 0..50),
    ) {
        let (line_a, line_b) = (FakeIrqLine::default(), FakeIrqLine::default());
        let (mut a, mut b) = (Serial::new(&line_a), Serial::new(&line_b));
        for (is_write, register, value) in traffic {
            if is_write { write(&mut a, register, value) } else { read(&mut a, register); }
        }
        a.take_output(&mut [0; OUTPUT_DEPTH]);
        b.restore(&a.save()).unwrap();
        for (is_write, register, value) in after {
            prop_assert_eq!(line_a.level(), line_b.level());
            if is_write {
                write(&mut a, register, value);
                write(&mut b, register, value);
            } else {
                prop_assert_eq!(read(&mut a, register), read(&mut b, register));
            }
        }
    }
}
