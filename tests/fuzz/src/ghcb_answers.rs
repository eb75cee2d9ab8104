//! What a host leaves on the GHCB page and in the doorbell.

use std::cell::RefCell;
use std::rc::Rc;

use stockade_platform::SharedPage;
use stockade_platform::doorbell::Doorbell;
use stockade_platform::ghcb::{Gate, Ghcb, IoWidth};

use crate::Input;
use crate::pages::leak_page;

thread_local! {
    static PAGES: [SharedPage; 2] = [leak_page(), leak_page()];
}

const GPA: u64 = 0x80_001E_0000;
/// Offsets of what the paravisor looks at: the bitmap, RAX, RDX, RCX, exit information, the buffer.
const FIELDS: [usize; 8] = [0x3F0, 0x3F8, 0x1F8, 0x310, 0x308, 0x390, 0x398, 0x800];

/// A host that answers with the input.
#[derive(Clone)]
pub(crate) struct FuzzedHost {
    page: SharedPage,
    input: Rc<RefCell<Vec<u8>>>,
    exits: Rc<RefCell<usize>>,
}

impl FuzzedHost {
    pub(crate) fn new(page: SharedPage, input: &[u8]) -> Self {
        Self {
            page,
            input: Rc::new(RefCell::new(input.to_vec())),
            exits: Rc::default(),
        }
    }

    pub(crate) fn ghcb(&self) -> Ghcb<Self> {
        Ghcb::new(self.page, GPA, self.clone())
    }

    pub(crate) fn exits(&self) -> usize {
        *self.exits.borrow()
    }
}

impl Gate for FuzzedHost {
    fn exit(&self) {
        *self.exits.borrow_mut() += 1;
        let mut bytes = self.input.borrow_mut();
        let mut input = Input::new(&bytes);
        let kind = input.u8();
        if kind & 1 == 0 {
            // Done, all valid: what an honest host says, before the input changes it.
            self.page.write_u64(0x3F0, u64::MAX);
            self.page.write_u64(0x3F8, u64::MAX);
            self.page.write_u64(0x398, 0);
            self.page.write_u64(0x3A0, 0);
        }
        for _ in 0..kind >> 1 & 7 {
            let choice = input.u8();
            let offset = FIELDS.get(usize::from(choice & 0xF)).copied();
            let offset = offset.unwrap_or(usize::from(input.u8()) * 8);
            let value = if choice & 0x80 == 0 {
                u64::from(input.u8())
            } else {
                input.u64()
            };
            self.page.write_u64(offset, value);
        }
        let rest = input.rest().to_vec();
        *bytes = rest;
    }

    fn exit_unless_signalled(&self, _: &Doorbell) -> bool {
        self.exit();
        true
    }
}

/// Makes each call there is. An answer is in its range, or an error.
pub fn run(data: &[u8]) {
    let [page, bell] = PAGES.with(|pages| *pages);
    page.zero();
    let mut input = Input::new(data);
    let doorbell_bytes = input.bytes(64);
    let host = FuzzedHost::new(page, input.rest());
    let ghcb = host.ghcb();
    for (width, limit) in [
        (IoWidth::Byte, 0xFF),
        (IoWidth::Word, 0xFFFF),
        (IoWidth::Double, u32::MAX),
    ] {
        let read = ghcb.io_in(0x3FD, width);
        assert!(read.is_err() || read.is_ok_and(|value| value <= limit));
        let _ = ghcb.io_out(0x3F8, width, u32::MAX);
    }
    let _ = ghcb.io_out_string(0x2F8, &[0x41; 5000]);
    let _ = ghcb.rdmsr(0x10);
    let _ = ghcb.wrmsr(0x6E0, u64::MAX);
    for len in [0, 1, 4, 8, 9] {
        let mut bytes = vec![0; len];
        let _ = ghcb.mmio_read(0xFEC0_0000, &mut bytes);
        let _ = ghcb.mmio_write(0xFEC0_0000, &bytes);
    }
    let _ = ghcb.arm_timer(0);
    let _ = ghcb.disarm_timer();
    let _ = ghcb.kick(1);
    let _ = ghcb.route_console_interrupt(0);
    let _ = ghcb.power_off();
    drain(bell, doorbell_bytes, &ghcb);
}

/// Whatever the host rings, no exception vector comes out.
fn drain(page: SharedPage, bytes: &[u8], ghcb: &Ghcb<FuzzedHost>) {
    page.zero();
    page.write(0, bytes);
    let doorbell = Doorbell::new(page);
    for _ in 0..4 {
        if let Ok(pending) = doorbell.drain(ghcb) {
            assert!((0..32).all(|vector| !pending.contains(vector)));
        }
        let _ = doorbell.is_signalled();
    }
}

/// An honest host and an empty doorbell; one that rings; one that refuses.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let honest = vec![0; 200];
    let mut rings = honest.clone();
    rings[..4].copy_from_slice(&[0xE0, 0x83, 1, 7]);
    let mut refuses = honest.clone();
    for chunk in refuses[64..].chunks_exact_mut(3) {
        chunk.copy_from_slice(&[2, 6, 2]);
    }
    vec![honest, rings, refuses]
}
