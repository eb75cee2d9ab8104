//! Exceptions of the paravisor itself. Three are expected; any other ends the machine.
//!
//! A fault in one of the copies that carry a fix-up continues there. #VC for CPUID is answered from the CPUID page. #HV has
//! its own stub and never comes here. Everything else is printed and stops the machine: there is no code path that takes it.

pub(crate) mod descriptors;

use stockade_abi::exit::ExitCode;
use stockade_abi::terminate::StopReason;
use stockade_entry::copy;
use stockade_entry::exception::ExceptionFrame;

use crate::boot::image;
use crate::{console, cpuid, panic, stop};

/// General protection.
const GP: u64 = 13;
/// Page fault.
const PF: u64 = 14;
/// VMM communication.
const VC: u64 = 29;
/// What CPUID looks like.
const CPUID_BYTES: [u8; 2] = [0x0F, 0xA2];

#[expect(unsafe_code, reason = "the stub calls it by name")]
#[unsafe(no_mangle)]
extern "C" fn stockade_exception(frame: &mut ExceptionFrame) {
    if matches!(frame.vector, GP | PF | VC)
        && let Some(landing) = copy::landing(frame.rip)
    {
        frame.rip = landing;
        return;
    }
    let is_cpuid = frame.vector == VC && frame.error_code == ExitCode::CPUID.0;
    if !(is_cpuid && answer_cpuid(frame)) {
        report(frame)
    }
}

/// Answers CPUID from the CPUID page; `false` if the instruction is another, or there is no page yet.
fn answer_cpuid(frame: &mut ExceptionFrame) -> bool {
    // The error code comes from hardware, but a look at the instruction costs nothing.
    let (Some(table), Some(CPUID_BYTES)) = (cpuid::installed(), image::code_at(frame.rip)) else {
        return false;
    };
    let leaf = u64::to_le_bytes(frame.rax);
    let subleaf = u64::to_le_bytes(frame.rcx);
    let low = |bytes: [u8; 8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let [eax, ebx, ecx, edx] = table.own_answer(low(leaf), low(subleaf)).map(u64::from);
    (frame.rax, frame.rbx, frame.rcx, frame.rdx) = (eax, ebx, ecx, edx);
    frame.rip += CPUID_BYTES.len() as u64;
    true
}

fn report(frame: &ExceptionFrame) -> ! {
    // SAFETY: reading CR2 changes nothing.
    let cr2 = unsafe { x86::controlregs::cr2() };
    console::print_line(format_args!(
        "exception {} (error {:#x}) at {:#x}: rsp {:#x}, cr2 {cr2:#x}, rax {:#x}, rcx {:#x}, rdx {:#x}",
        frame.vector, frame.error_code, frame.rip, frame.rsp, frame.rax, frame.rcx, frame.rdx,
    ));
    console::print_line(format_args!("backtrace: {:#x}", frame.rip));
    panic::print_backtrace(frame.rsp);
    stop(StopReason::UNEXPECTED_EXCEPTION)
}
