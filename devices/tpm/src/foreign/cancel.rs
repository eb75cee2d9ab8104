//! How a command that takes long learns that it was cancelled.
//!
//! libtpms looks at a flag of its own between candidates for a prime, and not at all while OpenSSL makes a key for it. Both functions
//! are ours here by the linker's `--wrap`, and look where our cancellations come from.

use std::ffi::{c_int, c_void};
use std::ptr;

use super::bindings::{
    __real__plat__IsCanceled, __real_RSA_generate_key_ex, BN_GENCB_free, BN_GENCB_new,
    BN_GENCB_set, Progress,
};
use super::callbacks;

/// Takes the place of libtpms's function.
#[unsafe(no_mangle)]
extern "C" fn __wrap__plat__IsCanceled() -> c_int {
    if callbacks::is_cancelled() {
        return 1;
    }
    // SAFETY: it reads a flag.
    unsafe { __real__plat__IsCanceled() }
}

/// Takes the place of OpenSSL's function, and has it report its progress.
///
/// # Safety
///
/// The conditions of the function it stands for.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_RSA_generate_key_ex(
    key: *mut c_void,
    bits: c_int,
    exponent: *mut c_void,
    _progress: *mut Progress,
) -> c_int {
    // SAFETY: no conditions.
    let progress = unsafe { BN_GENCB_new() };
    if progress.is_null() {
        return 0;
    }
    // SAFETY: it was just made.
    unsafe { BN_GENCB_set(progress, go_on, ptr::null_mut()) };
    // SAFETY: the caller's conditions, and a progress that lives until after the call.
    let made = unsafe { __real_RSA_generate_key_ex(key, bits, exponent, progress) };
    // SAFETY: it was made here, and nobody has it any more.
    unsafe { BN_GENCB_free(progress) };
    made
}

extern "C" fn go_on(_stage: c_int, _count: c_int, _progress: *mut Progress) -> c_int {
    c_int::from(!callbacks::is_cancelled())
}
