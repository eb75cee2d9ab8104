//! Physical presence where firmware takes requests: the methods put them into memory that keeps them over a reset, at
//! [`TPM_PPI_BASE`] (QEMU `docs/specs/tpm.rst`, "ACPI PPI Interface"). Firmware says there, too, which operations it knows.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{
    Add, And, Arg, BufferData, DeRefOf, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Index, Local, Method, MethodCall, Name, ONE, OpRegion, OpRegionSpace,
    Package, Path, Return, Store, ZERO,
};

use super::{Object, dword, encoded};
use crate::layout::TPM_PPI_BASE;

/// Offset of the requests, behind a byte an operation.
const REQUESTS: u64 = 0x100;
const REQUESTS_BYTES: u8 = 0x5B;
/// Bytes between the last of the named requests and the one for memory to be cleared.
const UNNAMED_BYTES: usize = 0x45;
/// How an operation may be asked for: the lowest bits of its byte.
const HOW: u8 = 7;
/// The answer of a request that there is not, and of one that the firmware's set-up forbids (TCG PPI 1.30, table 5).
const NOT_IMPLEMENTED: u8 = 1;
const BLOCKED_ANSWER: u8 = 3;
/// What an operation's byte says of one that is forbidden.
const BLOCKED: u8 = 2;

/// Returns what the methods need: the memory, a package of two and one of three, and who reads an operation's byte.
pub(super) fn objects() -> Vec<Object> {
    let place = dword(TPM_PPI_BASE + REQUESTS);
    let memory = OpRegion::new(
        "PPRG".into(),
        OpRegionSpace::SystemMemory,
        &place,
        &REQUESTS_BYTES,
    );
    let named = |name: &[u8; 4], bits| FieldEntry::Named(*name, bits);
    let fields = field(
        "PPRG",
        vec![
            // Whether firmware has made sense of it, and its own word.
            FieldEntry::Reserved(8 + 32),
            named(b"PPRP", 32),
            named(b"PPRQ", 32),
            named(b"PPRM", 32),
            named(b"LPPR", 32),
            FieldEntry::Reserved(8 * UNNAMED_BYTES),
            named(b"MCRQ", 8),
        ],
    );
    vec![
        encoded(&memory),
        encoded(&fields),
        Box::new(Name::new("PPK2".into(), &Package::new(vec![&ZERO, &ZERO]))),
        Box::new(Name::new(
            "PPK3".into(),
            &Package::new(vec![&ZERO, &ZERO, &ZERO]),
        )),
        operation(),
    ]
}

fn field(region: &str, entries: Vec<FieldEntry>) -> Field {
    Field::new(
        region.into(),
        FieldAccessType::Any,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        entries,
    )
}

/// `PPOP`: how the operation may be asked for, 0 if there is no such.
fn operation() -> Object {
    const OPERATIONS: u16 = 0x100;
    let number = Arg(0);
    let is_known = acpi_tables::aml::LessThan::new(&number, &OPERATIONS);
    let base = dword(TPM_PPI_BASE);
    let place = Add::new(&ZERO, &base, &number);
    let region = OpRegion::new("PPBR".into(), OpRegionSpace::SystemMemory, &place, &ONE);
    let fields = field("PPBR", vec![FieldEntry::Named(*b"PPBY", 8)]);
    let byte = Path::new("PPBY");
    let how = And::new(&ZERO, &byte, &HOW);
    let answer = Return::new(&how);
    encoded(&Method::new(
        "PPOP".into(),
        1,
        true,
        vec![
            &If::new(&is_known, vec![&region, &fields, &answer]),
            &Return::new(&ZERO),
        ],
    ))
}

/// The functions of `_DSM` (TCG PPI 1.30, 8.1 to 8.8).
pub(super) fn functions() -> Vec<Object> {
    let known = BufferData::new(vec![0xFF, 0x01]);
    vec![
        function(0, vec![&Return::new(&known)]),
        function(1, vec![&Return::new(&"1.3")]),
        request(2),
        pending(),
        // How the system gets to the firmware: by a reboot.
        function(4, vec![&Return::new(&2_u8)]),
        outcome(),
        // The language is the firmware's.
        function(6, vec![&Return::new(&3_u8)]),
        request(7),
        confirmation(),
        encoded(&Return::new(&BufferData::new(vec![0]))),
    ]
}

fn function(number: u8, body: Vec<&dyn Aml>) -> Object {
    encoded(&If::new(&Equal::new(&Arg(2), &number), body))
}

/// A request, with what belongs to it from revision 2 on.
fn request(number: u8) -> Object {
    let (operation, how) = (Local(0), Local(1));
    let (first, second) = (
        Index::new(&ZERO, &Arg(3), &ZERO),
        Index::new(&ZERO, &Arg(3), &ONE),
    );
    let (first, second) = (DeRefOf::new(&first), DeRefOf::new(&second));
    let (asked, parameter) = (Path::new("PPRQ"), Path::new("PPRM"));
    let call = MethodCall::new("PPOP".into(), vec![&operation]);
    let (is_unknown, is_blocked) = (Equal::new(&how, &ZERO), Equal::new(&how, &BLOCKED));
    let (unknown, blocked) = (Return::new(&NOT_IMPLEMENTED), Return::new(&BLOCKED_ANSWER));
    let has_parameter = Equal::new(&Arg(1), &2_u8);
    let keep_parameter = Store::new(&parameter, &second);
    function(
        number,
        vec![
            &Store::new(&operation, &first),
            &Store::new(&how, &call),
            &If::new(&is_unknown, vec![&unknown]),
            &If::new(&is_blocked, vec![&blocked]),
            &Store::new(&parameter, &ZERO),
            &If::new(&has_parameter, vec![&keep_parameter]),
            &Store::new(&asked, &operation),
            &Return::new(&ZERO),
        ],
    )
}

/// What is requested.
fn pending() -> Object {
    let (two, three) = (Path::new("PPK2"), Path::new("PPK3"));
    let (asked, parameter) = (Path::new("PPRQ"), Path::new("PPRM"));
    let with_parameter = Equal::new(&Arg(1), &2_u8);
    let (third, success) = (2_u8, &ZERO);
    let three_0 = Index::new(&ZERO, &three, &ZERO);
    let three_1 = Index::new(&ZERO, &three, &ONE);
    let three_2 = Index::new(&ZERO, &three, &third);
    let keep: [&dyn Aml; 4] = [
        &Store::new(&three_0, success),
        &Store::new(&three_1, &asked),
        &Store::new(&three_2, &parameter),
        &Return::new(&three),
    ];
    let two_1 = Index::new(&ZERO, &two, &ONE);
    function(
        3,
        vec![
            &If::new(&with_parameter, keep.to_vec()),
            &Store::new(&two_1, &asked),
            &Return::new(&two),
        ],
    )
}

/// What became of the last request.
fn outcome() -> Object {
    let three = Path::new("PPK3");
    let (last, answer) = (Path::new("LPPR"), Path::new("PPRP"));
    let third = 2_u8;
    let places = [
        Index::new(&ZERO, &three, &ZERO),
        Index::new(&ZERO, &three, &ONE),
        Index::new(&ZERO, &three, &third),
    ];
    function(
        5,
        vec![
            &Store::new(&places[0], &ZERO),
            &Store::new(&places[1], &last),
            &Store::new(&places[2], &answer),
            &Return::new(&three),
        ],
    )
}

/// Whether a request needs a person at the console.
fn confirmation() -> Object {
    let first = Index::new(&ZERO, &Arg(3), &ZERO);
    let first = DeRefOf::new(&first);
    let call = MethodCall::new("PPOP".into(), vec![&first]);
    function(8, vec![&Return::new(&call)])
}
