//! The panic handler: say where, then stop.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use stockade_abi::terminate::StopReason;

use crate::boot::{image, stacks};
use crate::{console, stop};

/// Most lines of one backtrace.
const BACKTRACE_LINES: usize = 48;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICKED: AtomicBool = AtomicBool::new(false);
    if !PANICKED.swap(true, Ordering::Relaxed) {
        console::print_line(format_args!("{info}"));
        let here = 0_u64;
        print_backtrace((&raw const here).addr() as u64);
    }
    stop(StopReason::INTERNAL_PANIC)
}

/// Prints what looks like return addresses on the stack from `stack_pointer` up, innermost first.
///
/// The precompiled crates keep no frame pointers, so the stack is searched: a word that points behind a call instruction.
/// Some lines may be left-overs of earlier calls; the host's tool names the functions.
pub(crate) fn print_backtrace(stack_pointer: u64) {
    stacks::words_above(stack_pointer)
        .filter(|word| image::is_return_address(*word))
        .take(BACKTRACE_LINES)
        .for_each(|address| console::print_line(format_args!("backtrace: {address:#x}")));
}
