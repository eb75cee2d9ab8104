//! The GHCB seen from the other side: an honest host, then each way to lie.

use core::cell::RefCell;
use core::sync::atomic::{AtomicU8, Ordering};
use std::boxed::Box;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::shared::tests::page;

type Handler = Box<dyn FnMut(&SharedPage)>;

/// A host on the other side of a page: records each call, answers "done" and then does what the test wants.
#[derive(Clone)]
pub(crate) struct FakeHost {
    page: SharedPage,
    handler: Rc<RefCell<Handler>>,
    events: Rc<RefCell<Vec<u64>>>,
    result: u64,
}

const GPA: u64 = 0x80_001E_0000;
const ALL_VALID: usize = BITMAP_OFFSET;

impl FakeHost {
    /// Returns a host that agrees to everything.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// Returns a host that refuses everything.
    pub(crate) fn refusing() -> Self {
        Self {
            result: 2,
            ..Self::new()
        }
    }

    /// Returns a host that runs `handler` on the page after it has answered.
    pub(crate) fn with(handler: impl FnMut(&SharedPage) + 'static) -> Self {
        Self {
            page: page(),
            handler: Rc::new(RefCell::new(Box::new(handler))),
            events: Rc::default(),
            result: 0,
        }
    }

    /// Returns the GHCB it listens to.
    pub(crate) fn ghcb(&self) -> Ghcb<Self> {
        Ghcb::new(self.page, GPA, self.clone())
    }

    /// Returns the exit codes it was called with.
    pub(crate) fn events(&self) -> Vec<u64> {
        self.events.borrow().clone()
    }

    pub(crate) fn page(&self) -> SharedPage {
        self.page
    }
}

impl Gate for FakeHost {
    fn exit(&self) {
        let code = self.page.read_u64(GhcbField::SW_EXIT_CODE.offset());
        self.events.borrow_mut().push(code);
        let asked = [GhcbField::SW_EXIT_INFO1, GhcbField::SW_EXIT_INFO2]
            .map(|field| self.page.read_u64(field.offset()));
        self.page.write_u64(0x10, asked[0]);
        self.page.write_u64(0x18, asked[1]);
        self.page
            .write_u64(GhcbField::SW_EXIT_INFO1.offset(), self.result);
        self.page.write_u64(GhcbField::SW_EXIT_INFO2.offset(), 0);
        self.page.write_u64(ALL_VALID, u64::MAX);
        self.page.write_u64(ALL_VALID + 8, u64::MAX);
        (self.handler.borrow_mut())(&self.page);
    }

    fn exit_unless_signalled(&self, doorbell: &Doorbell) -> bool {
        // SAFETY: the flags lie in the doorbell page.
        let flags = unsafe { AtomicU8::from_ptr(doorbell.start().cast_mut().wrapping_add(1)) };
        if flags.load(Ordering::Relaxed) & 0x80 != 0 {
            return false;
        }
        self.exit();
        true
    }
}

fn set(page: &SharedPage, field: GhcbField, value: u64) {
    page.write_u64(field.offset(), value);
}

fn invalidate(page: &SharedPage, field: GhcbField) {
    let (word, mask) = field.valid_mask();
    page.write_u64(BITMAP_OFFSET + 8 * word, !mask);
}

#[test]
fn a_port_read_asks_for_port_width_and_direction() {
    let host = FakeHost::with(|page| {
        assert_eq!(page.read_u64(0x10), 0x3F8 << 16 | 1 << 4 | 1);
        set(page, GhcbField::RAX, 0xFFFF_FF42);
    });
    assert_eq!(host.ghcb().io_in(0x3F8, IoWidth::Byte), Ok(0x42));
    assert_eq!(host.events(), [0x7B]);
}

#[test]
fn only_the_fields_of_the_request_are_marked_valid() {
    let valid = Rc::new(RefCell::new([0; 2]));
    let seen = valid.clone();
    #[derive(Clone)]
    struct Recorder(SharedPage, Rc<RefCell<[u64; 2]>>);
    impl Gate for Recorder {
        fn exit(&self) {
            *self.1.borrow_mut() = [
                self.0.read_u64(BITMAP_OFFSET),
                self.0.read_u64(BITMAP_OFFSET + 8),
            ];
        }
        fn exit_unless_signalled(&self, _: &Doorbell) -> bool {
            true
        }
    }
    let shared = page();
    let ghcb = Ghcb::new(shared, GPA, Recorder(shared, seen));
    // The answer is our own request, so it is refused; the bitmap is what counts here.
    assert!(ghcb.wrmsr(0x6E0, 0x1_0000_0002).is_err());
    let expected = [
        GhcbField::SW_EXIT_CODE,
        GhcbField::SW_EXIT_INFO1,
        GhcbField::SW_EXIT_INFO2,
        GhcbField::RAX,
        GhcbField::RCX,
        GhcbField::RDX,
    ];
    let mut bitmap = [0; 2];
    for field in expected {
        let (word, mask) = field.valid_mask();
        bitmap[word] |= mask;
    }
    assert_eq!(*valid.borrow(), bitmap);
    assert_eq!(shared.read_u64(GhcbField::RAX.offset()), 2);
    assert_eq!(shared.read_u64(GhcbField::RDX.offset()), 1);
}

#[test]
fn an_answer_without_its_valid_bit_is_a_lie() {
    let host = FakeHost::with(|page| invalidate(page, GhcbField::RAX));
    let outcome = host.ghcb().io_in(0x3F8, IoWidth::Byte);
    assert!(matches!(outcome, Err(HostError::Lied { .. })));
    let host = FakeHost::with(|page| invalidate(page, GhcbField::SW_EXIT_INFO1));
    let outcome = host.ghcb().io_out(0x3F8, IoWidth::Byte, 0);
    assert!(matches!(outcome, Err(HostError::Lied { .. })));
    let host = FakeHost::with(|page| invalidate(page, GhcbField::RDX));
    let outcome = host.ghcb().rdmsr(0x1B);
    assert!(matches!(outcome, Err(HostError::Lied { .. })));
}

#[test]
fn a_result_that_is_none_is_a_lie_and_a_refusal_is_reported() {
    for result in [3, 0xFFFF_FFFF, 1 << 32, u64::MAX] {
        let host = FakeHost::with(move |page| set(page, GhcbField::SW_EXIT_INFO1, result));
        let outcome = host.ghcb().wrmsr(0x6E0, 1);
        assert!(
            matches!(outcome, Err(HostError::Lied { .. })),
            "{result:#x}"
        );
    }
    for result in [1, 2] {
        let host = FakeHost::with(move |page| set(page, GhcbField::SW_EXIT_INFO1, result));
        let outcome = host.ghcb().wrmsr(0x6E0, 1);
        assert!(matches!(outcome, Err(HostError::Refused { .. })));
    }
}

#[test]
fn an_msr_is_joined_from_its_halves() {
    let host = FakeHost::with(|page| {
        assert_eq!(page.read_u64(GhcbField::RCX.offset()), 0x1B);
        set(page, GhcbField::RAX, 0xAAAA_AAAA_0000_0900);
        set(page, GhcbField::RDX, 0xBBBB_BBBB_0000_0001);
    });
    assert_eq!(host.ghcb().rdmsr(0x1B), Ok(0x1_0000_0900));
}

#[test]
fn a_long_string_goes_out_in_buffers() {
    let sent = Rc::new(RefCell::new(Vec::new()));
    let seen = sent.clone();
    let host = FakeHost::with(move |page| {
        let scratch = page.read_u64(GhcbField::SW_SCRATCH.offset());
        assert_eq!(scratch, GPA + 0x800);
        let len = usize::try_from(page.read_u64(0x18)).unwrap();
        let mut bytes = vec![0; len];
        assert!(page.read(0x800, &mut bytes));
        seen.borrow_mut().push(bytes);
    });
    let text: Vec<u8> = (0..5000_u32).map(|i| i.to_le_bytes()[0]).collect();
    host.ghcb().io_out_string(0x2F8, &text).unwrap();
    let lengths: Vec<_> = sent.borrow().iter().map(Vec::len).collect();
    assert_eq!(lengths, [2032, 2032, 936]);
    assert_eq!(sent.borrow().concat(), text);
}

#[test]
fn registers_in_memory_are_read_and_written_through_the_buffer() {
    let host = FakeHost::with(|page| {
        page.write(0x800, &[1, 2, 3, 4]);
    });
    let mut value = [0; 4];
    host.ghcb().mmio_read(0xFEC0_0010, &mut value).unwrap();
    assert_eq!(value, [1, 2, 3, 4]);
    assert_eq!(host.page().read_u64(0x10), 0xFEC0_0010);
    assert!(host.ghcb().mmio_write(0xFEC0_0000, &[0; 9]).is_err());
    assert!(host.ghcb().mmio_read(0xFEC0_0000, &mut []).is_err());
}

#[test]
fn the_console_interrupt_is_routed_by_two_register_pairs() {
    let writes = Rc::new(RefCell::new(Vec::new()));
    let seen = writes.clone();
    let host = FakeHost::with(move |page| {
        let mut value = [0; 4];
        page.read(0x800, &mut value);
        seen.borrow_mut()
            .push((page.read_u64(0x10), u32::from_le_bytes(value)));
    });
    host.ghcb().route_console_interrupt(3).unwrap();
    let expected = [
        (0xFEC0_0000, 0x19),
        (0xFEC0_0010, 3 << 24),
        (0xFEC0_0000, 0x18),
        (0xFEC0_0010, 0xE1),
    ];
    assert_eq!(*writes.borrow(), expected);
}

#[test]
fn a_kick_is_a_fixed_interrupt_to_one_processor() {
    let host = FakeHost::new();
    host.ghcb().kick(5).unwrap();
    assert_eq!(host.page().read_u64(0x10), 5 << 32 | 0xE2);
    assert_eq!(host.events(), [0x8000_0015]);
}

mod page_state {
    use super::*;
    use stockade_abi::ghcb::{PscEntry, PscOperation};

    fn entries(count: u64) -> Vec<PscEntry> {
        (0..count)
            .map(|gfn| {
                PscEntry::new()
                    .with_gfn(gfn)
                    .with_operation(PscOperation::SHARED)
            })
            .collect()
    }

    fn progress(page: &SharedPage, next: u16) {
        page.write(0x800, &next.to_le_bytes());
    }

    #[test]
    fn a_host_that_works_in_steps_is_called_until_it_is_done() {
        let mut next = 0;
        let host = FakeHost::with(move |page| {
            next += 1;
            progress(page, next);
        });
        host.ghcb().change_page_state(&entries(3)).unwrap();
        assert_eq!(host.events().len(), 3);
    }

    #[test]
    fn more_entries_than_fit_go_in_several_calls() {
        let host = FakeHost::with(|page| {
            let mut head = [0; 4];
            page.read(0x800, &mut head);
            progress(page, u16::from_le_bytes([head[2], head[3]]) + 1);
        });
        host.ghcb().change_page_state(&entries(300)).unwrap();
        assert_eq!(host.events().len(), 2);
        host.ghcb().change_page_state(&[]).unwrap();
        assert_eq!(host.events().len(), 2);
    }

    #[test]
    fn backward_overlong_and_missing_progress_are_lies() {
        for answers in [[1, 0], [4, 4], [0, 0]] {
            let mut turn = 0;
            let host = FakeHost::with(move |page| {
                progress(page, answers[turn.min(1)]);
                turn += 1;
            });
            let outcome = host.ghcb().change_page_state(&entries(3));
            assert!(matches!(outcome, Err(HostError::Lied { .. })));
        }
    }

    #[test]
    fn an_error_in_the_second_word_is_a_refusal() {
        let host = FakeHost::with(|page| set(page, GhcbField::SW_EXIT_INFO2, 0x100 << 32));
        let outcome = host.ghcb().change_page_state(&entries(1));
        assert!(matches!(outcome, Err(HostError::Refused { .. })));
    }
}
