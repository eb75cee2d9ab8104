//! The TPM in AML: where it is, and what systems ask it about physical presence and about clearing memory.
//!
//! Where there is no firmware to ask a person at a console no physical presence operation is offered, in the words of the
//! interface: every request is answered "not supported". Firmware is asked by way of [`presence`]. The request to clear memory at the
//! next reset is kept in one byte, `MCRQ`, which whoever resets the guest reads: of memory
//! ([`crate::ram::RamMap::memory_clear_request`]), or beside the requests to firmware.

use alloc::boxed::Box;
use alloc::vec;

use acpi_tables::Aml;
use acpi_tables::aml::{
    Arg, BufferData, DeRefOf, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Index, Method, Name, ONE, OpRegion, OpRegionSpace, Package, Path, Return,
    Store, Uuid, ZERO,
};

use super::{Object, Presence, device, dword, encoded, memory_resource, presence};
use crate::layout::{PAGE_SIZE, TPM_CRB_BASE};

/// Localities, a page each.
const PAGES: u64 = 5;
/// Physical Presence Interface (TCG PPI 1.30, 8.1).
const PHYSICAL_PRESENCE: &str = "3DDDFAA6-361B-4EB4-A424-8D10089D1653";
/// Platform Reset Attack Mitigation (TCG PRAM 1.10, 6).
const MEMORY_CLEAR: &str = "376054ED-CC13-4675-901C-4756D7F2D45D";

/// Returns the device.
pub(super) fn tpm(presence: Presence) -> Object {
    let mut objects: vec::Vec<Object> = vec![
        Box::new(Name::new("_HID".into(), &"MSFT0101")),
        Box::new(Name::new("_STA".into(), &0x0F_u8)),
        memory_resource(TPM_CRB_BASE, PAGES * PAGE_SIZE),
    ];
    let functions = match presence {
        Presence::Absent {
            memory_clear_request,
        } => {
            objects.extend(request_byte(memory_clear_request));
            physical_presence()
        }
        Presence::Firmware => {
            objects.extend(presence::objects());
            presence::functions()
        }
    };
    objects.push(device_specific_method(&functions));
    device("TPM0", &objects)
}

fn request_byte(address: u64) -> [Object; 2] {
    let request = dword(address);
    let region = OpRegion::new("MCRG".into(), OpRegionSpace::SystemMemory, &request, &ONE);
    let field = Field::new(
        "MCRG".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        vec![FieldEntry::Named(*b"MCRQ", 8)],
    );
    [encoded(&region), encoded(&field)]
}

/// `_DSM` (ACPI 6.5, 9.1.1): what is not asked by a name known here has no functions.
fn device_specific_method(presence_functions: &[Object]) -> Object {
    let (presence, clear) = (Uuid::new(PHYSICAL_PRESENCE), Uuid::new(MEMORY_CLEAR));
    let clear_functions = memory_clear();
    let none = BufferData::new(vec![0]);
    let is_presence = Equal::new(&Arg(0), &presence);
    let is_clear = Equal::new(&Arg(0), &clear);
    let presence = If::new(&is_presence, super::borrow(presence_functions));
    let clear = If::new(&is_clear, super::borrow(&clear_functions));
    let rest = Return::new(&none);
    encoded(&Method::new(
        "_DSM".into(),
        4,
        true,
        vec![&presence, &clear, &rest],
    ))
}

/// Returns the answer to one function.
fn answer(function: u8, value: &dyn Aml) -> Object {
    encoded(&If::new(
        &Equal::new(&Arg(2), &function),
        vec![&Return::new(value)],
    ))
}

/// TCG PPI 1.30, 8.1 to 8.8.
fn physical_presence() -> vec::Vec<Object> {
    const NOT_SUPPORTED: u8 = 1;
    let functions = BufferData::new(vec![0xFF, 0x01]);
    vec![
        answer(0, &functions),
        answer(1, &"1.3"),
        // Requests to the firmware.
        answer(2, &NOT_SUPPORTED),
        // What is requested: nothing.
        answer(3, &Package::new(vec![&ZERO, &ZERO])),
        // How the system gets to the firmware: by a reboot.
        answer(4, &2_u8),
        // What became of the last request: there was none.
        answer(5, &Package::new(vec![&ZERO, &ZERO, &ZERO])),
        // The language of what nobody displays.
        answer(6, &3_u8),
        answer(7, &NOT_SUPPORTED),
        // Whether a request needs a person: none is implemented.
        answer(8, &ZERO),
        answer_rest(),
    ]
}

/// TCG PRAM 1.10, 6.
fn memory_clear() -> vec::Vec<Object> {
    let functions = BufferData::new(vec![0x03]);
    let request = Path::new("MCRQ");
    let asked = Index::new(&ZERO, &Arg(3), &ZERO);
    let asked = DeRefOf::new(&asked);
    let keep = Store::new(&request, &asked);
    vec![
        answer(0, &functions),
        encoded(&If::new(
            &Equal::new(&Arg(2), &ONE),
            vec![&keep, &Return::new(&ZERO)],
        )),
        answer_rest(),
    ]
}

/// A function that there is not.
fn answer_rest() -> Object {
    encoded(&Return::new(&BufferData::new(vec![0])))
}
