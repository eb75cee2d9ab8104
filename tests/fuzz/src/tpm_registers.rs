//! Accesses to the TPM's command-response buffer, and an engine that answers whatever it likes, whenever.

use stockade_bus::Mmio;
use stockade_devices::tpm::command::{HEADER_BYTES, Header, Locality, MAX_BYTES, startup_clear};
use stockade_devices::tpm_crb::{Progress, Reach, TpmCrb, TpmPort};

use crate::Input;

const REGISTERS: [u64; 8] = [0x00, 0x08, 0x0C, 0x40, 0x44, 0x48, 0x4C, 0x80];

/// An engine that keeps the rules of the port, and sees that they are kept.
#[derive(Debug, Default)]
struct Engine {
    is_busy: bool,
    answer: Option<Vec<u8>>,
    is_gone: bool,
}

impl TpmPort for Engine {
    fn begin(&mut self, _locality: Locality, command: &[u8]) {
        assert!(!self.is_busy, "two commands at a time");
        let header = Header::read(command);
        assert!(header.is_some_and(|it| it.size as usize == command.len()));
        self.is_busy = true;
    }

    fn cancel(&mut self) {
        assert!(self.is_busy, "nothing to cancel");
    }

    fn poll(&mut self, response: &mut [u8; MAX_BYTES]) -> Progress {
        assert!(self.is_busy, "nothing to look for");
        if core::mem::take(&mut self.is_gone) {
            self.is_busy = false;
            return Progress::Failed;
        }
        let Some(answer) = self.answer.take() else {
            return Progress::Running;
        };
        self.is_busy = false;
        let len = answer.len().min(MAX_BYTES);
        response[..len].copy_from_slice(&answer[..len]);
        // An engine may even say that it wrote more than there is room for.
        Progress::Done(answer.len())
    }

    fn is_established(&self) -> bool {
        false
    }

    fn reset_established(&mut self, locality: Locality) {
        assert!(locality.number() >= 3);
    }
}

/// Drives the interface.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut crb = TpmCrb::new(Engine::default(), Reach::All);
    while !input.is_empty() {
        let kind = input.u8();
        let place = input.u8();
        let at = REGISTERS[usize::from(place & 7)] + u64::from(place >> 4 & 1) * u64::from(kind);
        let offset = u64::from(place >> 5) % 5 * 0x1000 + at;
        match kind & 7 {
            0..=2 => {
                let len = usize::from(input.u8() & 15) + 1;
                let _ = crb.mmio_write(offset, input.bytes(len));
            }
            3 => {
                let _ = crb.mmio_write(offset, &startup_clear());
            }
            4 => {
                let mut bytes = vec![0; usize::from(input.u8()) + 1];
                let _ = crb.mmio_read(offset, &mut bytes);
            }
            5 => {
                let len = usize::from(input.u16() & 0x1FFF);
                let engine = crb.port_mut();
                engine.answer = engine.is_busy.then(|| input.bytes(len).to_vec());
            }
            6 if kind == 0xFE => crb.reset(),
            6 => {
                let engine = crb.port_mut();
                engine.is_gone = engine.is_busy && kind & 8 != 0;
            }
            _ => again(&mut crb),
        }
        check_buffer(&mut crb);
    }
}

/// A restored interface is the saved one.
fn again(crb: &mut TpmCrb<Engine>) {
    let Some(saved) = crb.save() else {
        assert!(crb.port_mut().is_busy);
        return;
    };
    crb.restore(&saved).expect("it was just saved");
    assert_eq!(crb.save(), Some(saved));
}

/// At most one locality sees the buffer.
fn check_buffer(crb: &mut TpmCrb<Engine>) {
    let mut seen = 0;
    for locality in 0..5 {
        let mut bytes = [0; HEADER_BYTES];
        let mut status = [0; 4];
        let read = crb.mmio_read(locality * 0x1000 + 0x80, &mut bytes);
        assert_eq!(read, Ok(()));
        let read = crb.mmio_read(locality * 0x1000 + 0x0C, &mut status);
        assert_eq!(read, Ok(()));
        assert!(bytes == [0xFF; HEADER_BYTES] || status[0] & 1 != 0);
        seen += status[0] & 1;
    }
    assert!(seen <= 1, "{seen} localities have the TPM");
}

/// A command from start to end; one cancelled; one whose locality is taken away.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let write = |place: u8, value: u8| vec![0, place, 3, value, 0, 0, 0];
    let begin = [write(1, 1), write(3, 1), vec![3, 7], write(6, 1)].concat();
    let response = [0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0];
    let finish = [vec![5, 0, 10, 0], response.to_vec(), vec![4, 7, 9]].concat();
    vec![
        [
            begin.clone(),
            finish.clone(),
            write(3, 1),
            write(3, 2),
            vec![7, 0],
        ]
        .concat(),
        [begin.clone(), write(5, 1), finish.clone()].concat(),
        [
            begin.clone(),
            write(0x21, 4),
            write(0x23, 1),
            finish,
            vec![0x0E, 0],
        ]
        .concat(),
        [begin, vec![0x0E, 0], vec![4, 4, 3], vec![0xFE, 0]].concat(),
    ]
}
