//! Guest messages: SNP_GUEST_REQUEST as the firmware serves it (SNP ABI 7 and 8.26).
//!
//! A request page is decrypted with the VMPCK it names, checked, served, and the response encrypted with the same key. The
//! firmware keeps one counter a key: a request must carry the counter plus one, its response carries plus two, and only a
//! served request moves the counter. So a host that replays, reorders or changes a page gets a [`Status`] and no bytes.

use super::Status;
use super::chip::{Chip, GuestKeys, guest_fields, tcb};
use super::cpuid::{self, CpuidSource};
use super::launch::Launched;
use super::report::{Asked, Version, attest};
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use alloc::boxed::Box;
use alloc::vec::Vec;
use stockade_abi::guest_message::{
    AAD_OFFSET, ALGO_AES_256_GCM, CpuidRequest, GuestFieldSelect, HEADER_SIZE, HEADER_VERSION,
    KeyRequest, MESSAGE_VERSION, MessageHeader, MessageType, PAYLOAD_MAX_SIZE, ReportRequest,
    TAG_SIZE, TscInfoRequest, status,
};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a request or response page.
pub const PAGE_BYTES: usize = 4096;

/// Secure TSC parameters the firmware tells a guest (SNP ABI 7.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// GUEST_TSC_SCALE: guest ticks per host tick, 8.32 fixed point.
    pub scale: u64,
    /// GUEST_TSC_OFFSET.
    pub offset: u64,
    /// How far the mean frequency is below the nominal one, in parts of 100,000.
    pub factor: u32,
}

impl TscInfo {
    /// The guest's TSC is the host's.
    pub const SAME: Self = Self {
        scale: 1 << 32,
        offset: 0,
        factor: 0,
    };
}

/// What the firmware knows of a launched guest.
#[derive(Clone)]
pub struct GuestContext {
    /// From launch finish.
    pub launched: Launched,
    /// From [`Chip::launch_keys`].
    pub keys: GuestKeys,
    /// Secure TSC parameters.
    pub tsc: TscInfo,
    /// Layout of its reports.
    pub report_version: Version,
    /// What CPUID answers are checked against.
    pub cpuid: cpuid::Options,
    counters: [u64; 4],
}

impl GuestContext {
    /// Returns the context of a guest just launched.
    #[must_use]
    pub fn new(launched: Launched, keys: GuestKeys, cpuid: cpuid::Options) -> Self {
        Self {
            launched,
            keys,
            tsc: TscInfo::SAME,
            report_version: Version::default(),
            cpuid,
            counters: [0; 4],
        }
    }
}

/// Serves one request: returns the response page, or the firmware's status for `SW_EXITINFO2`.
pub fn guest_request(
    chip: &Chip,
    guest: &mut GuestContext,
    source: &impl CpuidSource,
    request: &[u8; PAGE_BYTES],
) -> Result<Box<[u8; PAGE_BYTES]>, Status> {
    let request = open(guest, request)?;
    let (response_type, payload) = serve(chip, guest, source, &request)?;
    let response = seal(guest, &request, response_type, &payload)?;
    guest.counters[request.key] = request.sequence + 1;
    Ok(response)
}

/// A request that was authentic and in order.
struct Request {
    key: usize,
    sequence: u64,
    message_type: MessageType,
    payload: Vec<u8>,
}

/// Checks the header (SNP ABI 8.26), then the counter, then the tag.
fn open(guest: &GuestContext, page: &[u8; PAGE_BYTES]) -> Result<Request, Status> {
    let (header, body) =
        MessageHeader::read_from_prefix(page).map_err(|_| Status::InvalidLength)?;
    let well_formed = header.algo == ALGO_AES_256_GCM
        && header.header_version == HEADER_VERSION
        && usize::from(header.header_size) == HEADER_SIZE
        && header.message_version == MESSAGE_VERSION;
    if !well_formed {
        return Err(Status::InvalidParam);
    }
    let key = usize::from(header.message_vmpck);
    let counter = *guest.counters.get(key).ok_or(Status::InvalidParam)?;
    let size = usize::from(header.message_size);
    if size > PAYLOAD_MAX_SIZE {
        return Err(Status::InvalidLength);
    }
    if counter >= u64::MAX - 1 {
        return Err(Status::AeadOverflow);
    }
    if header.sequence != counter + 1 {
        return Err(Status::InvalidParam);
    }
    let mut payload = body[..size].to_vec();
    let mut tag = [0; TAG_SIZE];
    tag.copy_from_slice(&header.auth_tag[..TAG_SIZE]);
    Aes256Gcm::new(&guest.keys.vmpck[key].into())
        .decrypt_inout_detached(
            &nonce(header.sequence).into(),
            &page[AAD_OFFSET..HEADER_SIZE],
            payload.as_mut_slice().into(),
            &tag.into(),
        )
        .map_err(|_| Status::BadMeasurement)?;
    Ok(Request {
        key,
        sequence: header.sequence,
        message_type: header.message_type,
        payload,
    })
}

fn seal(
    guest: &GuestContext,
    request: &Request,
    message_type: MessageType,
    payload: &[u8],
) -> Result<Box<[u8; PAGE_BYTES]>, Status> {
    let mut header = MessageHeader::zeroed();
    header.sequence = request.sequence + 1;
    header.algo = ALGO_AES_256_GCM;
    header.header_version = HEADER_VERSION;
    header.header_size = u16::try_from(HEADER_SIZE).map_err(|_| Status::InvalidLength)?;
    header.message_type = message_type;
    header.message_version = MESSAGE_VERSION;
    header.message_size = u16::try_from(payload.len()).map_err(|_| Status::InvalidLength)?;
    header.message_vmpck = u8::try_from(request.key).map_err(|_| Status::InvalidParam)?;
    let mut page = Box::new([0; PAGE_BYTES]);
    let body = page
        .get_mut(HEADER_SIZE..HEADER_SIZE + payload.len())
        .ok_or(Status::InvalidLength)?;
    body.copy_from_slice(payload);
    let tag = Aes256Gcm::new(&guest.keys.vmpck[request.key].into())
        .encrypt_inout_detached(
            &nonce(header.sequence).into(),
            &header.as_bytes()[AAD_OFFSET..],
            body.into(),
        )
        .map_err(|_| Status::InvalidLength)?;
    header.auth_tag[..TAG_SIZE].copy_from_slice(&tag);
    page[..HEADER_SIZE].copy_from_slice(header.as_bytes());
    Ok(page)
}

/// The sequence number in the first eight of twelve bytes.
fn nonce(sequence: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&sequence.to_le_bytes());
    nonce
}

fn serve(
    chip: &Chip,
    guest: &GuestContext,
    source: &impl CpuidSource,
    request: &Request,
) -> Result<(MessageType, Vec<u8>), Status> {
    let vmpl = u32::try_from(request.key).map_err(|_| Status::InvalidParam)?;
    let bytes = request.payload.as_slice();
    match request.message_type {
        MessageType::CPUID_REQUEST => {
            let payload = check_cpuid(guest, source, &parse::<CpuidRequest>(bytes)?);
            Ok((MessageType::CPUID_RESPONSE, payload))
        }
        MessageType::KEY_REQUEST => {
            let payload = derive_key(chip, guest, vmpl, &parse(bytes)?);
            Ok((MessageType::KEY_RESPONSE, payload))
        }
        MessageType::REPORT_REQUEST => {
            let payload = make_report(chip, guest, source, vmpl, &parse(bytes)?);
            Ok((MessageType::REPORT_RESPONSE, payload))
        }
        MessageType::TSC_INFO_REQUEST => {
            parse::<TscInfoRequest>(bytes)?;
            Ok((MessageType::TSC_INFO_RESPONSE, tsc_info(guest.tsc)))
        }
        // Without a migration agent there is nothing to export to or import from.
        MessageType::EXPORT_REQUEST | MessageType::IMPORT_REQUEST => Err(Status::Unsupported),
        _ => Err(Status::InvalidParam),
    }
}

/// A payload has exactly the size of its type.
fn parse<T: FromBytes>(payload: &[u8]) -> Result<T, Status> {
    T::read_from_bytes(payload).map_err(|_| Status::InvalidLength)
}

/// A response that only has a status, of the size a whole one has.
fn refusal(status: u32, size: usize) -> Vec<u8> {
    let mut payload = status.to_le_bytes().to_vec();
    payload.resize(size, 0);
    payload
}

fn tsc_info(tsc: TscInfo) -> Vec<u8> {
    let mut payload = refusal(status::SUCCESS, 128);
    payload[0x08..0x10].copy_from_slice(&tsc.scale.to_le_bytes());
    payload[0x10..0x18].copy_from_slice(&tsc.offset.to_le_bytes());
    payload[0x18..0x1C].copy_from_slice(&tsc.factor.to_le_bytes());
    payload
}

const REPORT_RESPONSE_BYTES: usize = 0x4C0;
const KEY_RESPONSE_BYTES: usize = 0x40;
/// Where a response's data begin.
const DATA: usize = 0x20;
/// KEY_SEL: VLEK, which is not installed here.
const KEY_SELECT_VLEK: u32 = 2;

/// A VMPL may attest itself and those below it (SNP ABI 7.3).
fn make_report(
    chip: &Chip,
    guest: &GuestContext,
    source: &impl CpuidSource,
    vmpl: u32,
    request: &ReportRequest,
) -> Vec<u8> {
    if !(vmpl..4).contains(&request.vmpl) || request.key_select > KEY_SELECT_VLEK {
        return refusal(status::INVALID_PARAMETERS, REPORT_RESPONSE_BYTES);
    }
    if request.key_select == KEY_SELECT_VLEK {
        return refusal(status::INVALID_KEY_SELECTION, REPORT_RESPONSE_BYTES);
    }
    let asked = Asked {
        report_data: request.report_data,
        vmpl: request.vmpl,
    };
    let signature = source.cpuid(1, 0).eax;
    let report = attest(
        chip,
        &guest.launched,
        &guest.keys,
        &asked,
        guest.report_version,
        signature,
    );
    let mut payload = refusal(status::SUCCESS, REPORT_RESPONSE_BYTES);
    payload[4..8].copy_from_slice(&0x4A0_u32.to_le_bytes());
    payload[DATA..].copy_from_slice(report.as_bytes());
    payload
}

fn derive_key(chip: &Chip, guest: &GuestContext, vmpl: u32, request: &KeyRequest) -> Vec<u8> {
    match try_derive_key(chip, guest, vmpl, request) {
        Ok(key) => {
            let mut payload = refusal(status::SUCCESS, KEY_RESPONSE_BYTES);
            payload[DATA..].copy_from_slice(&key);
            payload
        }
        Err(status) => refusal(status, KEY_RESPONSE_BYTES),
    }
}

/// Mixes the root, the selection itself, the VMPL and each selected field.
fn try_derive_key(
    chip: &Chip,
    guest: &GuestContext,
    vmpl: u32,
    request: &KeyRequest,
) -> Result<[u8; 32], u32> {
    let root = check_key_request(guest, vmpl, request)?;
    let fields = GuestFieldSelect::from_bits_retain(request.guest_field_select);
    let mut mixed: Vec<Vec<u8>> = [
        fields.bits().to_le_bytes().to_vec(),
        request.vmpl.to_le_bytes().to_vec(),
    ]
    .into();
    for (bit, field) in guest_fields(&guest.launched).into_iter().enumerate() {
        if fields.bits() & 1 << bit != 0 {
            mixed.push(field);
        }
    }
    if fields.contains(GuestFieldSelect::GUEST_SVN) {
        mixed.push(request.guest_svn.to_le_bytes().to_vec());
    }
    if fields.contains(GuestFieldSelect::TCB_VERSION) {
        mixed.push(request.tcb_version.to_le_bytes().to_vec());
    }
    let parts: Vec<&[u8]> = mixed.iter().map(Vec::as_slice).collect();
    Ok(chip.derived_key(root, &parts))
}

/// Checks what is asked for (SNP ABI 7.2) and returns the root: 0 the versioned chip key, 1 the VM root key.
fn check_key_request(guest: &GuestContext, vmpl: u32, request: &KeyRequest) -> Result<u8, u32> {
    let [selection, rest @ ..] = request.root_key_select.to_le_bytes();
    let (root, key_select) = (selection & 1, selection >> 1 & 3);
    let known = GuestFieldSelect::LAUNCH_MIT_VECTOR.bits() - 1;
    let acceptable = rest == [0; 3]
        && selection >> 3 == 0
        && key_select < 3
        && request.guest_field_select & !known == 0
        && (vmpl..4).contains(&request.vmpl)
        && request.guest_svn <= guest.launched.identity.guest_svn
        && is_tcb_available(request.tcb_version);
    if !acceptable {
        return Err(status::INVALID_PARAMETERS);
    }
    if u32::from(key_select) == KEY_SELECT_VLEK {
        return Err(status::INVALID_KEY_SELECTION);
    }
    Ok(root)
}

/// No part may be newer than what is committed.
fn is_tcb_available(version: u64) -> bool {
    let committed = tcb().into_bits().to_le_bytes();
    version
        .to_le_bytes()
        .iter()
        .zip(committed)
        .all(|(asked, have)| *asked <= have)
}

/// The response has the leaves as allowed, and says whether they were as proposed (SNP ABI 7.1).
fn check_cpuid(guest: &GuestContext, source: &impl CpuidSource, request: &CpuidRequest) -> Vec<u8> {
    let count = usize::try_from(request.count).unwrap_or(usize::MAX);
    let Some(proposed) = request.entries.get(..count) else {
        return refusal(status::INVALID_PARAMETERS, size_of::<CpuidRequest>());
    };
    let mut payload = Vec::new();
    let mut verdict = status::SUCCESS;
    for entry in proposed {
        let allowed = cpuid::answer(entry, source, &guest.cpuid);
        if allowed != *entry {
            verdict = status::INVALID_PARAMETERS;
        }
        payload.extend_from_slice(allowed.as_bytes());
    }
    let mut response = verdict.to_le_bytes().to_vec();
    response.extend_from_slice(&request.count.to_le_bytes());
    response.extend_from_slice(&[0; 8]);
    response.extend_from_slice(&payload);
    response.resize(size_of::<CpuidRequest>(), 0);
    response
}

#[cfg(test)]
mod tests;
