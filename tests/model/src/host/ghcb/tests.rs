use super::page_state::{Change, Operation, PageSize, Refused, process};
use super::{
    ApCreation, Direction, DoorbellRequest, EventInjection, Ghcb, Request, Scratch, Width,
};
use proptest::prelude::*;
use stockade_abi::ghcb::{GhcbError, GhcbField, psc_error};

const GPA: u64 = 0x80_0012_3000;
const BUFFER: u64 = GPA + 0x800;

struct Page([u8; 4096]);

impl Page {
    fn new(code: u64, info1: u64, info2: u64) -> Self {
        let mut page = Self([0; 4096]);
        page.0[0xFFA] = 2;
        page.with(GhcbField::SW_EXIT_CODE, code)
            .with(GhcbField::SW_EXIT_INFO1, info1)
            .with(GhcbField::SW_EXIT_INFO2, info2)
    }

    fn with(mut self, field: GhcbField, value: u64) -> Self {
        self.0[field.offset()..field.offset() + 8].copy_from_slice(&value.to_le_bytes());
        self.0[0x3F0 + field.valid_bit() / 8] |= 1 << (field.valid_bit() % 8);
        self
    }

    fn copy(&self) -> Ghcb {
        Ghcb::copy_in(GPA, &self.0)
    }

    fn request(&self) -> Result<Request, GhcbError> {
        self.copy().request()
    }
}

#[test]
fn instructions_decode_with_their_registers() {
    use GhcbField as F;
    let cases = [
        (Page::new(0x6E, 0, 0), Request::Rdtsc),
        (Page::new(0x87, 0, 0), Request::Rdtscp),
        (
            Page::new(0x6F, 0, 0).with(F::RCX, 3),
            Request::Rdpmc { counter: 3 },
        ),
        (
            Page::new(0x72, 0, 0)
                .with(F::RAX, 0xD)
                .with(F::RCX, 1)
                .with(F::XCR0, 7),
            Request::Cpuid {
                leaf: 0xD,
                subleaf: 1,
                xcr0: Some(7),
                xss: None,
            },
        ),
        (Page::new(0x89, 0, 0), Request::Wbinvd),
        (Page::new(0x76, 0, 0), Request::Invd),
        (Page::new(0x8A, 0, 0), Request::Monitor),
        (Page::new(0x8B, 0, 0), Request::Mwait),
        (Page::new(0x27, 0, 0), Request::Dr7Read),
        (
            Page::new(0x37, 0, 0).with(F::RAX, 0x400),
            Request::Dr7Write(0x400),
        ),
        (
            Page::new(0x7C, 0, 0).with(F::RCX, 0x1B),
            Request::MsrRead { index: 0x1B },
        ),
        (
            Page::new(0x7C, 1, 0)
                .with(F::RCX, 0x6E0)
                .with(F::RAX, 0xFFFF_FFFF_0000_0002)
                .with(F::RDX, 1),
            Request::MsrWrite {
                index: 0x6E0,
                value: 0x1_0000_0002,
            },
        ),
        (
            Page::new(0x81, 0, 0).with(F::RAX, 9).with(F::CPL, 3 << 24),
            Request::Vmmcall { rax: 9, cpl: 3 },
        ),
        (Page::new(0x8000_0003, 0, 0), Request::NmiComplete),
        (Page::new(0x8000_0004, 0, 0), Request::ApResetHold),
        (Page::new(0x8000_FFFD, 0, 0), Request::HypervisorFeatures),
        (
            Page::new(0x8000_FFFE, 5, 17),
            Request::Terminate { set: 5, code: 17 },
        ),
        (
            Page::new(0x8000_FFFF, 0x400, 0),
            Request::UnsupportedEvent { code: 0x400 },
        ),
    ];
    for (page, expected) in cases {
        assert_eq!(page.request(), Ok(expected));
    }
}

#[test]
fn port_accesses_decode_port_width_and_direction() {
    let byte_in = Page::new(0x7B, 0x03FD_0011, 0).request();
    assert_eq!(
        byte_in,
        Ok(Request::PortIn {
            port: 0x3FD,
            width: Width::Byte
        })
    );
    let word_out = Page::new(0x7B, 0x0604_0020, 0)
        .with(GhcbField::RAX, 0xABCD_2000)
        .request();
    assert_eq!(
        word_out,
        Ok(Request::PortOut {
            port: 0x604,
            width: Width::Word,
            value: 0x2000
        })
    );
    assert_eq!(
        Page::new(0x7B, 0x0604_0030, 0).request(),
        Err(GhcbError::INVALID_INPUT)
    );
    assert_eq!(
        Page::new(0x7B, 0x0604_0020, 0).request(),
        Err(GhcbError::MISSING_INPUT)
    );
}

#[test]
fn string_port_access_finds_its_scratch_area() {
    let outs = |scratch: u64, count: u64| {
        Page::new(0x7B, 0x03F8_0018 | 4, count).with(GhcbField::SW_SCRATCH, scratch)
    };
    let expected = Request::PortString {
        port: 0x3F8,
        width: Width::Byte,
        direction: Direction::Out,
        count: 3,
        scratch: Scratch::InGhcb {
            offset: 0x800,
            len: 3,
        },
    };
    assert_eq!(outs(BUFFER, 3).request(), Ok(expected));
    let mut page = outs(BUFFER, 3);
    page.0[0x800..0x803].copy_from_slice(b"hi\n");
    let ghcb = page.copy();
    assert_eq!(
        ghcb.scratch(Scratch::InGhcb {
            offset: 0x800,
            len: 3
        }),
        Some(&b"hi\n"[..])
    );
    let Ok(Request::PortString { scratch, .. }) = outs(0x5000, 4096).request() else {
        unreachable!("a string in shared memory")
    };
    assert_eq!(
        scratch,
        Scratch::Shared {
            gpa: 0x5000,
            len: 4096
        }
    );
}

#[test]
fn scratch_area_outside_its_bounds_is_refused() {
    let outs = |scratch: u64, count: u64| {
        Page::new(0x7B, 0x03F8_001C, count)
            .with(GhcbField::SW_SCRATCH, scratch)
            .request()
    };
    let invalid = Err(GhcbError::INVALID_SCRATCH_AREA);
    assert_eq!(outs(BUFFER, 0x7F1), invalid, "past the buffer");
    assert_eq!(outs(GPA + 0x3F0, 16), invalid, "in the save area");
    assert_eq!(outs(GPA - 1, 2), invalid, "runs into the page");
    assert_eq!(outs(GPA - 8, 0x2000), invalid, "covers the page");
    assert_eq!(outs(0, 1), invalid, "nowhere");
    assert_eq!(outs(0x5000, 0), invalid, "empty");
    assert_eq!(outs(0x5000, 0x4001), invalid, "too long");
    assert_eq!(outs(u64::MAX, 2), invalid, "wraps");
}

#[test]
fn mmio_names_address_length_and_scratch() {
    let read = Page::new(0x8000_0001, 0xFEC0_0010, 4)
        .with(GhcbField::SW_SCRATCH, BUFFER)
        .request();
    let scratch = Scratch::InGhcb {
        offset: 0x800,
        len: 4,
    };
    assert_eq!(
        read,
        Ok(Request::MmioRead {
            gpa: 0xFEC0_0010,
            len: 4,
            scratch
        })
    );
    let write = Page::new(0x8000_0002, 0xFEC0_0000, 3)
        .with(GhcbField::SW_SCRATCH, BUFFER)
        .request();
    assert_eq!(write, Err(GhcbError::INVALID_INPUT));
}

#[test]
fn snp_events_decode() {
    let rax = |page: Page, value| page.with(GhcbField::RAX, value);
    let cases = [
        (
            Page::new(0x8000_0011, 0x1000, 0x2000),
            Request::GuestRequest {
                request: 0x1000,
                response: 0x2000,
            },
        ),
        (
            rax(Page::new(0x8000_0012, 0x1000, 0x2000), 0x3000).with(GhcbField::RBX, 4),
            Request::ExtendedGuestRequest {
                request: 0x1000,
                response: 0x2000,
                data: 0x3000,
                pages: 4,
            },
        ),
        (
            rax(Page::new(0x8000_0013, 7 << 32 | 2 << 16 | 1, 0x9000), 0x35),
            Request::ApCreation {
                action: ApCreation::Now,
                vmpl: 2,
                apic_id: 7,
                vmsa: 0x9000,
                sev_features: Some(0x35),
            },
        ),
        (
            Page::new(0x8000_0013, 7 << 32 | 2 << 16 | 2, 0x9001),
            Request::ApCreation {
                action: ApCreation::Destroy,
                vmpl: 2,
                apic_id: 7,
                vmsa: 0x9001,
                sev_features: None,
            },
        ),
        (
            Page::new(0x8000_0014, 1, 0x6000),
            Request::Doorbell(DoorbellRequest::Set(0x6000)),
        ),
        (
            Page::new(0x8000_0014, 0, 0),
            Request::Doorbell(DoorbellRequest::Preferred),
        ),
        (
            Page::new(0x8000_0014, 2, 0),
            Request::Doorbell(DoorbellRequest::Query),
        ),
        (
            Page::new(0x8000_0014, 3, 0),
            Request::Doorbell(DoorbellRequest::Clear),
        ),
        (
            Page::new(0x8000_0015, 0x1_0000_4040, 0),
            Request::HvIpi { icr: 0x1_0000_4040 },
        ),
        (
            Page::new(0x8000_0016, 1, 2),
            Request::HvTimer { info1: 1, info2: 2 },
        ),
        (
            rax(Page::new(0x8000_0017, 0x7000, 0), 1),
            Request::ApicIds {
                gpa: 0x7000,
                pages: 1,
            },
        ),
        (Page::new(0x8000_0018, 2, 0), Request::RunVmpl { vmpl: 2 }),
        (
            Page::new(0x8000_001B, 0xE2, 0),
            Request::ConfigureInterruptInjection { vector: 0xE2 },
        ),
        (
            Page::new(0x8000_001C, 2 << 16 | 0x50 << 8 | 3, 0),
            Request::DisableAlternateInjection {
                vmpl: 2,
                tpr: 0x50,
                in_shadow: true,
                interrupts_enabled: true,
            },
        ),
        (
            Page::new(0x8000_001D, 2 << 16 | 0x31, 0),
            Request::SpecificEoi {
                vector: 0x31,
                vmpl: 2,
            },
        ),
    ];
    for (page, expected) in cases {
        assert_eq!(page.request(), Ok(expected));
    }
}

#[test]
fn snp_events_with_impossible_values_are_refused() {
    let cases = [
        Page::new(0x8000_0011, 0x1000, 0x1000),
        Page::new(0x8000_0011, 0x1001, 0x2000),
        Page::new(0x8000_0013, 3, 0x9000).with(GhcbField::RAX, 0),
        Page::new(0x8000_0013, 4 << 16 | 1, 0x9000).with(GhcbField::RAX, 0),
        Page::new(0x8000_0013, 1, 0x9008).with(GhcbField::RAX, 0),
        Page::new(0x8000_0014, 1, 0x6001),
        Page::new(0x8000_0014, 4, 0),
        Page::new(0x8000_0018, 4, 0),
        Page::new(0x8000_001B, 0x100, 0),
    ];
    for page in cases {
        assert_eq!(page.request(), Err(GhcbError::INVALID_INPUT));
    }
}

#[test]
fn unknown_events_are_refused() {
    for code in [
        0,
        0x400,
        0x403,
        0x7FFF_FFFF,
        0x8000_0000,
        0x8000_0005,
        0x8000_001E,
        u64::MAX,
    ] {
        assert_eq!(
            Page::new(code, 0, 0).request(),
            Err(GhcbError::INVALID_EVENT),
            "{code:#x}"
        );
    }
}

#[test]
fn usage_version_and_valid_bits_are_checked_first() {
    let mut page = Page::new(0x6E, 0, 0);
    page.0[0xFFC] = 1;
    assert_eq!(page.request(), Err(GhcbError::INVALID_USAGE));
    let mut page = Page::new(0x6E, 0, 0);
    page.0[0xFFA] = 1;
    assert_eq!(page.request(), Err(GhcbError::INVALID_INPUT));
    let mut page = Page([0; 4096]);
    page.0[0xFFA] = 2;
    assert_eq!(page.request(), Err(GhcbError::MISSING_INPUT));
    assert_eq!(
        Page::new(0x72, 0, 0).with(GhcbField::RAX, 1).request(),
        Err(GhcbError::MISSING_INPUT)
    );
}

#[test]
fn answer_marks_exactly_what_it_returns() {
    let mut ghcb = Page::new(0x6E, 1, 2).with(GhcbField::RBX, 9).copy();
    ghcb.answer().edx_eax(0x1_0000_0002).done();
    assert_eq!(ghcb.field(GhcbField::RAX), Ok(2));
    assert_eq!(ghcb.field(GhcbField::RDX), Ok(1));
    assert_eq!(ghcb.field(GhcbField::SW_EXIT_INFO1), Ok(0));
    assert_eq!(ghcb.field(GhcbField::SW_EXIT_INFO2), Ok(0));
    assert!(!ghcb.is_valid(GhcbField::RBX) && !ghcb.is_valid(GhcbField::SW_EXIT_CODE));
}

#[test]
fn malformed_and_exception_answers_are_coded() {
    let mut ghcb = Page::new(0x6E, 0, 0).copy();
    ghcb.answer().malformed(GhcbError::INVALID_SCRATCH_AREA);
    assert_eq!(ghcb.field(GhcbField::SW_EXIT_INFO1), Ok(2));
    assert_eq!(ghcb.field(GhcbField::SW_EXIT_INFO2), Ok(3));
    ghcb.answer().exception(EventInjection::GeneralProtection);
    assert_eq!(ghcb.field(GhcbField::SW_EXIT_INFO1), Ok(1));
    assert_eq!(ghcb.field(GhcbField::SW_EXIT_INFO2), Ok(0x8000_0B0D));
    assert_eq!(
        EventInjection::InvalidOpcode.info().into_bits(),
        0x8000_0306
    );
}

#[test]
fn scratch_bytes_are_returned_in_place() {
    let mut ghcb = Page::new(0x6E, 0, 0).copy();
    let area = Scratch::InGhcb {
        offset: 0x810,
        len: 2,
    };
    ghcb.answer()
        .scratch(area, &[1, 2])
        .scratch(area, &[9])
        .done();
    assert_eq!(ghcb.bytes()[0x80F..0x813], [0, 1, 2, 0]);
}

fn list(current: u16, end: u16, entries: &[u64]) -> [u8; 0x7F0] {
    let mut buffer = [0; 0x7F0];
    buffer[..2].copy_from_slice(&current.to_le_bytes());
    buffer[2..4].copy_from_slice(&end.to_le_bytes());
    for (at, entry) in entries.iter().enumerate() {
        buffer[8 + at * 8..16 + at * 8].copy_from_slice(&entry.to_le_bytes());
    }
    buffer
}

#[test]
fn page_state_list_is_found_in_the_shared_buffer_only() {
    let psc = |scratch| {
        Page::new(0x8000_0010, 0, 0)
            .with(GhcbField::SW_SCRATCH, scratch)
            .request()
    };
    let scratch = Scratch::InGhcb {
        offset: 0x800,
        len: 0x7F0,
    };
    assert_eq!(psc(BUFFER), Ok(Request::PageStateChange { scratch }));
    assert_eq!(psc(0x5000), Err(GhcbError::INVALID_SCRATCH_AREA));
}

#[test]
fn page_state_list_is_worked_through_and_marked() {
    let mut buffer = list(0, 1, &[1 << 52 | 0x5000, 1 << 56 | 2 << 52 | 0x20_0000 | 3]);
    let mut seen = Vec::new();
    let status = process(&mut buffer, |change| {
        seen.push(change);
        Ok(())
    });
    assert_eq!(status, 0);
    let small = Change {
        gpa: 0x5000,
        size: PageSize::Small,
        first: 0,
        operation: Operation::Private,
    };
    let large = Change {
        gpa: 0x20_0000,
        size: PageSize::Large,
        first: 3,
        operation: Operation::Shared,
    };
    assert_eq!(seen, [small, large]);
    assert_eq!(
        buffer,
        list(2, 1, &[1 << 52 | 0x5001, 1 << 56 | 2 << 52 | 0x20_0200])
    );
}

#[test]
fn refused_change_stops_with_its_entry_current() {
    let mut buffer = list(0, 2, &[1 << 52, 1 << 52 | 0x1000, 1 << 52 | 0x2000]);
    let status = process(&mut buffer, |change| {
        if change.gpa == 0x1000 {
            Err(Refused)
        } else {
            Ok(())
        }
    });
    assert_eq!(status, psc_error::GENERIC);
    assert_eq!(buffer[..2], [1, 0]);
}

#[test]
fn page_state_nonsense_is_named() {
    let run = |mut buffer: [u8; 0x7F0]| process(&mut buffer, |_| Ok(()));
    assert_eq!(run(list(2, 1, &[])), psc_error::INVALID_HEADER);
    assert_eq!(run(list(0, 253, &[])), psc_error::INVALID_HEADER);
    assert_eq!(process(&mut [0; 7], |_| Ok(())), psc_error::INVALID_HEADER);
    assert_eq!(process(&mut [0; 8], |_| Ok(())), psc_error::INVALID_HEADER);
    for entry in [
        0,
        5 << 52,
        1 << 52 | 2,
        1 << 56 | 1 << 52 | 0x1000,
        1 << 57 | 1 << 52,
        1 << 56 | 1 << 52 | 513,
    ] {
        assert_eq!(
            run(list(0, 0, &[entry])),
            psc_error::INVALID_ENTRY,
            "{entry:#x}"
        );
    }
    assert_eq!(run(list(252, 252, &[1 << 52; 253])), 0);
}

proptest! {
    /// Whatever a guest writes, the host answers and does not fall over.
    #[test]
    fn any_page_is_some_request_or_error(bytes in proptest::collection::vec(any::<u8>(), 4096), gpa: u64) {
        let page: [u8; 4096] = bytes.try_into().unwrap();
        let _ = Ghcb::copy_in(gpa, &page).request();
    }

    #[test]
    fn any_exit_fields_decode_without_panic(code in 0x8000_0000_u64..0x8000_0020, info1: u64, info2: u64, rax: u64, scratch: u64) {
        let page = Page::new(code, info1, info2)
            .with(GhcbField::RAX, rax).with(GhcbField::RBX, rax).with(GhcbField::SW_SCRATCH, scratch);
        let _ = page.request();
    }

    #[test]
    fn any_page_state_list_ends(bytes in proptest::collection::vec(any::<u8>(), 0..0x7F1)) {
        let mut bytes = bytes;
        let mut calls = 0;
        process(&mut bytes, |_| { calls += 1; Ok(()) });
        prop_assert!(calls <= 253);
    }
}
