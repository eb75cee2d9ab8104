use super::*;
use crate::psp::cpuid::Registers;
use crate::psp::launch::{Launch, PageType};
use stockade_abi::cpuid_page::CpuidEntry;
use stockade_abi::guest_message::{CpuidResponse, KeyResponse, ReportResponse, TscInfoResponse};

struct Processor;

impl CpuidSource for Processor {
    fn cpuid(&self, leaf: u32, _: u32) -> Registers {
        Registers {
            eax: if leaf == 1 { 0x00A0_0F11 } else { 0xD },
            ..Registers::default()
        }
    }
}

fn guest() -> (Chip, GuestContext) {
    let mut chip = Chip::new(1);
    let keys = chip.launch_keys();
    let mut launch = Launch::start(0x3_0000).unwrap();
    launch.update(PageType::Normal, 0x1000, &[3; 4096]).unwrap();
    let launched = launch.finish(None, [0; 32]).unwrap();
    let context = GuestContext::new(launched, keys, cpuid::Options::paravisor(1));
    (chip, context)
}

/// The guest's half, written from the specification's tables with byte offsets, not from the code above.
fn request(guest: &GuestContext, vmpck: u8, sequence: u64, kind: u8, payload: &[u8]) -> [u8; 4096] {
    let mut page = [0; 4096];
    page[0x20..0x28].copy_from_slice(&sequence.to_le_bytes());
    page[0x30] = 1;
    page[0x31] = 1;
    page[0x32] = 0x60;
    page[0x34] = kind;
    page[0x35] = 1;
    page[0x36..0x38].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
    page[0x3C] = vmpck;
    reseal(guest, &mut page, payload);
    page
}

/// Encrypts and authenticates with the header as it stands.
fn reseal(guest: &GuestContext, page: &mut [u8; 4096], payload: &[u8]) {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&page[0x20..0x28]);
    let mut body = payload.to_vec();
    let tag = Aes256Gcm::new(&guest.keys.vmpck[usize::from(page[0x3C] & 3)].into())
        .encrypt_inout_detached(&nonce.into(), &page[0x30..0x60], body.as_mut_slice().into())
        .unwrap();
    page[..16].copy_from_slice(&tag);
    page[0x60..0x60 + body.len()].copy_from_slice(&body);
}

fn open_response(guest: &GuestContext, page: &[u8; 4096]) -> (u64, u8, Vec<u8>) {
    let sequence = u64::from_le_bytes(page[0x20..0x28].try_into().unwrap());
    let size = usize::from(u16::from_le_bytes([page[0x36], page[0x37]]));
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&page[0x20..0x28]);
    let mut body = page[0x60..0x60 + size].to_vec();
    let tag: [u8; 16] = page[..16].try_into().unwrap();
    Aes256Gcm::new(&guest.keys.vmpck[usize::from(page[0x3C])].into())
        .decrypt_inout_detached(
            &nonce.into(),
            &page[0x30..0x60],
            body.as_mut_slice().into(),
            &tag.into(),
        )
        .unwrap();
    (sequence, page[0x34], body)
}

fn exchange(
    chip: &Chip,
    guest: &mut GuestContext,
    vmpck: u8,
    sequence: u64,
    kind: u8,
    payload: &[u8],
) -> (u64, u8, Vec<u8>) {
    let page = request(guest, vmpck, sequence, kind, payload);
    let response = guest_request(chip, guest, &Processor, &page).unwrap();
    open_response(guest, &response)
}

fn key_request(fields: u64, vmpl: u32) -> Vec<u8> {
    let mut payload = vec![0; 0x20];
    payload[8..16].copy_from_slice(&fields.to_le_bytes());
    payload[0x10..0x14].copy_from_slice(&vmpl.to_le_bytes());
    payload
}

fn derived(
    chip: &Chip,
    guest: &mut GuestContext,
    sequence: u64,
    payload: &[u8],
) -> Result<[u8; 32], u32> {
    let (_, kind, body) = exchange(chip, guest, 0, sequence, 3, payload);
    let response = KeyResponse::read_from_bytes(&body).unwrap();
    assert_eq!(kind, 4);
    if response.status == 0 {
        Ok(response.derived_key)
    } else {
        Err(response.status)
    }
}

#[test]
fn sequence_goes_up_by_two_and_each_key_counts_for_itself() {
    let (chip, mut guest) = guest();
    let (sequence, kind, _) = exchange(&chip, &mut guest, 0, 1, 17, &[0; 128]);
    assert_eq!((sequence, kind), (2, 18));
    assert_eq!(exchange(&chip, &mut guest, 0, 3, 17, &[0; 128]).0, 4);
    assert_eq!(exchange(&chip, &mut guest, 2, 1, 17, &[0; 128]).0, 2);
}

#[test]
fn replayed_skipped_or_reordered_request_is_refused() {
    let (chip, mut guest) = guest();
    let first = request(&guest, 0, 1, 17, &[0; 128]);
    assert!(guest_request(&chip, &mut guest, &Processor, &first).is_ok());
    for sequence in [0, 1, 2, 4, 5, u64::MAX] {
        let page = request(&guest, 0, sequence, 17, &[0; 128]);
        let refused = guest_request(&chip, &mut guest, &Processor, &page).err();
        assert_eq!(refused, Some(Status::InvalidParam), "{sequence}");
    }
    assert_eq!(
        exchange(&chip, &mut guest, 0, 3, 17, &[0; 128]).0,
        4,
        "the counter did not move"
    );
}

/// The host sees and may change the page: each bit of what counts is authenticated.
#[test]
fn changed_page_is_refused_and_moves_no_counter() {
    let (chip, mut guest) = guest();
    let good = request(&guest, 0, 1, 17, &[0; 128]);
    for at in (0..16)
        .chain(0x20..0x28)
        .chain(0x30..0x60)
        .chain(0x60..0xE0)
    {
        let mut page = good;
        page[at] ^= 1;
        assert!(
            guest_request(&chip, &mut guest, &Processor, &page).is_err(),
            "{at:#x}"
        );
    }
    let mut page = good;
    page[0x70] ^= 1;
    assert_eq!(
        guest_request(&chip, &mut guest, &Processor, &page).err(),
        Some(Status::BadMeasurement)
    );
    assert!(guest_request(&chip, &mut guest, &Processor, &good).is_ok());
}

#[test]
fn malformed_headers_have_their_status() {
    let (chip, mut guest) = guest();
    let cases: [(usize, u8, Status); 8] = [
        (0x30, 2, Status::InvalidParam),
        (0x31, 2, Status::InvalidParam),
        (0x32, 0x61, Status::InvalidParam),
        (0x34, 2, Status::InvalidParam),
        (0x35, 2, Status::InvalidParam),
        (0x37, 0x20, Status::InvalidLength),
        (0x3C, 4, Status::InvalidParam),
        (0x36, 127, Status::InvalidLength),
    ];
    for (at, value, expected) in cases {
        let mut page = request(&guest, 0, 1, 17, &[0; 128]);
        page[at] = value;
        let len = usize::from(page[0x36]).min(128);
        reseal(&guest, &mut page, &[0; 128][..len]);
        assert_eq!(
            guest_request(&chip, &mut guest, &Processor, &page).err(),
            Some(expected),
            "{at:#x}"
        );
    }
}

#[test]
fn export_import_and_responses_are_refused() {
    let (chip, mut guest) = guest();
    for kind in [0, 2, 4, 6, 8, 10, 11, 12, 13, 16, 18, 255] {
        let page = request(&guest, 0, 1, kind, &[0; 128]);
        let refused = guest_request(&chip, &mut guest, &Processor, &page).err();
        assert_eq!(refused, Some(Status::InvalidParam), "{kind}");
    }
    for kind in [7, 9] {
        let page = request(&guest, 0, 1, kind, &[0; 128]);
        let refused = guest_request(&chip, &mut guest, &Processor, &page).err();
        assert_eq!(refused, Some(Status::Unsupported), "{kind}");
    }
}

#[test]
fn counter_at_its_end_is_never_used_again() {
    let (chip, mut guest) = guest();
    guest.counters[0] = u64::MAX - 1;
    let page = request(&guest, 0, u64::MAX, 17, &[0; 128]);
    assert_eq!(
        guest_request(&chip, &mut guest, &Processor, &page).err(),
        Some(Status::AeadOverflow)
    );
}

#[test]
fn tsc_info_tells_scale_offset_and_factor() {
    let (chip, mut guest) = guest();
    guest.tsc = TscInfo {
        scale: 3 << 32,
        offset: 5,
        factor: 7,
    };
    let (_, _, body) = exchange(&chip, &mut guest, 0, 1, 17, &[0; 128]);
    let response = TscInfoResponse::read_from_bytes(&body).unwrap();
    assert_eq!(response.status, 0);
    assert_eq!(
        (
            response.guest_tsc_scale,
            response.guest_tsc_offset,
            response.tsc_factor
        ),
        (3 << 32, 5, 7)
    );
}

#[test]
fn report_is_for_the_asked_vmpl_and_data() {
    let (chip, mut guest) = guest();
    let mut payload = vec![0; 0x60];
    payload[..64].fill(0x5A);
    payload[0x40] = 2;
    let (_, kind, body) = exchange(&chip, &mut guest, 0, 1, 5, &payload);
    let response = ReportResponse::read_from_bytes(&body).unwrap();
    assert_eq!((kind, response.status, response.report_size), (6, 0, 0x4A0));
    assert_eq!(
        (response.report.vmpl, response.report.report_data),
        (2, [0x5A; 64])
    );
    assert_eq!(response.report.measurement, guest.launched.measurement);
    assert_eq!(
        (
            response.report.cpuid_family,
            response.report.cpuid_model,
            response.report.cpuid_stepping
        ),
        (0x19, 1, 1)
    );
}

#[test]
fn lower_vmpl_cannot_attest_or_derive_for_a_higher_one() {
    let (chip, mut guest) = guest();
    let mut payload = vec![0; 0x60];
    payload[0x40] = 1;
    let (_, _, body) = exchange(&chip, &mut guest, 2, 1, 5, &payload);
    assert_eq!(body[0], 0x16);
    assert_eq!(body.len(), 0x4C0);
    assert!(body[0x20..].iter().all(|byte| *byte == 0));
    let (_, _, body) = exchange(&chip, &mut guest, 2, 3, 3, &key_request(0, 1));
    assert_eq!(body[0], 0x16);
    payload[0x40] = 4;
    assert_eq!(exchange(&chip, &mut guest, 0, 1, 5, &payload).2[0], 0x16);
    payload[0x40] = 0;
    payload[0x44] = 2;
    assert_eq!(
        exchange(&chip, &mut guest, 0, 3, 5, &payload).2[0],
        0x27,
        "no VLEK"
    );
}

#[test]
fn derived_key_depends_on_exactly_what_is_selected() {
    let (chip, mut first) = guest();
    let mut second = first.clone();
    second.launched.measurement = [9; 48];
    let policy = derived(&chip, &mut first, 1, &key_request(1, 0)).unwrap();
    assert_eq!(
        derived(&chip, &mut second, 1, &key_request(1, 0)),
        Ok(policy),
        "not the measurement"
    );
    let measured = derived(&chip, &mut first, 3, &key_request(1 << 3, 0)).unwrap();
    assert_ne!(
        derived(&chip, &mut second, 3, &key_request(1 << 3, 0)),
        Ok(measured)
    );
    assert_ne!(
        derived(&chip, &mut first, 5, &key_request(1, 1)),
        Ok(policy),
        "the VMPL"
    );
    let mut other_root = key_request(1, 0);
    other_root[0] = 1;
    assert_ne!(
        derived(&chip, &mut first, 7, &other_root),
        Ok(policy),
        "the root"
    );
    assert_ne!(
        derived(&Chip::new(2), &mut first, 9, &key_request(1, 0)),
        Ok(policy),
        "the chip"
    );
    assert_eq!(
        derived(&chip, &mut first, 11, &key_request(1, 0)),
        Ok(policy),
        "stable"
    );
}

/// Sealed state must survive a restart: a new launch of the same image on the same chip derives the same key.
#[test]
fn derived_key_is_the_same_in_the_next_launch() {
    let (mut chip, mut guest) = guest();
    let before = derived(&chip, &mut guest, 1, &key_request(0x3F, 0)).unwrap();
    let mut relaunched = GuestContext::new(
        guest.launched.clone(),
        chip.launch_keys(),
        guest.cpuid.clone(),
    );
    assert_ne!(relaunched.keys.vmpck, guest.keys.vmpck);
    assert_eq!(
        derived(&chip, &mut relaunched, 1, &key_request(0x3F, 0)),
        Ok(before)
    );
}

#[test]
fn key_requests_beyond_what_is_there_are_refused() {
    let (chip, mut guest) = guest();
    let mut svn = key_request(1 << 4, 0);
    svn[0x14] = 1;
    let mut tcb = key_request(1 << 5, 0);
    tcb[0x18] = 5;
    let mut vlek = key_request(0, 0);
    vlek[0] = 2 << 1;
    let mut reserved = key_request(0, 0);
    reserved[0] = 8;
    let cases = [
        (svn, 0x16),
        (tcb, 0x16),
        (vlek, 0x27),
        (reserved, 0x16),
        (key_request(1 << 6, 0), 0x16),
        (key_request(1 << 63, 0), 0x16),
        (key_request(0, 4), 0x16),
    ];
    for ((payload, expected), sequence) in cases.iter().zip((1..).step_by(2)) {
        assert_eq!(
            derived(&chip, &mut guest, sequence, payload),
            Err(*expected)
        );
    }
}

#[test]
fn cpuid_request_is_corrected_and_judged() {
    let (chip, mut guest) = guest();
    let mut ask: CpuidRequest = zerocopy::FromZeros::new_zeroed();
    ask.count = 1;
    ask.entries[0] = cpuid::answer(
        &CpuidEntry {
            eax_in: 0x8000_001F,
            ..CpuidEntry::default()
        },
        &Processor,
        &guest.cpuid,
    );
    let (_, kind, body) = exchange(&chip, &mut guest, 0, 1, 1, ask.as_bytes());
    let good = CpuidResponse::read_from_bytes(&body).unwrap();
    assert_eq!((kind, good.status, good.count), (2, 0, 1));
    assert_eq!(good.entries[0], ask.entries[0]);
    ask.entries[0].eax ^= 1 << 30;
    let (_, _, body) = exchange(&chip, &mut guest, 0, 3, 1, ask.as_bytes());
    let corrected = CpuidResponse::read_from_bytes(&body).unwrap();
    assert_eq!(
        (corrected.status, corrected.entries[0]),
        (0x16, good.entries[0])
    );
    ask.count = 65;
    let (_, _, body) = exchange(&chip, &mut guest, 0, 5, 1, ask.as_bytes());
    assert_eq!(body[0], 0x16);
}
