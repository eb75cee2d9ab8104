//! What libtpms calls: its persistent state is kept by our records, its locality is what the command said.
//!
//! There is one libtpms a process, and it runs on one thread; what its callbacks work on is this thread's.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uchar};
use std::ptr;

use super::bindings::{Callbacks, Code, FAIL, NO_DATA, SUCCESS, TPM_Malloc};
use crate::Records;
use crate::blob::Blob;

/// Everything that lasts, by the name libtpms has for it.
const PERMANENT: &str = "permall";
/// What [`crate::Engine::save`] returned.
const VOLATILE: &str = "volatilestate";

const TABLE_BYTES: c_int = 64;

/// What callbacks work on.
pub(super) struct Context {
    pub(super) records: Box<dyn Records>,
    permanent: Blob,
    /// What the next start goes on from.
    pub(super) resumed: Option<Vec<u8>>,
    pub(super) locality: u8,
    cancel: Box<dyn FnMut() -> bool>,
    is_cancelled: bool,
}

impl Context {
    fn load(&mut self, name: &str) -> Result<Option<Vec<u8>>, Code> {
        match name {
            PERMANENT => self.permanent.load(&mut *self.records).map_err(|error| {
                eprintln!("the TPM's state cannot be read: {error}");
                FAIL
            }),
            VOLATILE => Ok(self.resumed.take()),
            _ => Ok(None),
        }
    }

    fn store(&mut self, name: &str, value: &[u8]) -> Result<(), Code> {
        if name != PERMANENT {
            return Ok(());
        }
        self.permanent
            .store(&mut *self.records, value)
            .map_err(|error| {
                eprintln!("the TPM's state cannot be written: {error}");
                FAIL
            })
    }

    fn delete(&mut self, name: &str) -> Result<(), Code> {
        if name != PERMANENT {
            return Ok(());
        }
        self.permanent.delete(&mut *self.records).map_err(|_| FAIL)
    }
}

thread_local! {
    static CONTEXT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// Gives this thread's callbacks what they work on.
pub(super) fn install(records: Box<dyn Records>, cancel: Box<dyn FnMut() -> bool>) {
    let context = Context {
        records,
        permanent: Blob::new(PERMANENT),
        resumed: None,
        locality: 0,
        cancel,
        is_cancelled: false,
    };
    CONTEXT.set(Some(context));
}

/// Works on this thread's context; `None` if it has none, or is at work on it already.
pub(super) fn with<R>(work: impl FnOnce(&mut Context) -> R) -> Option<R> {
    CONTEXT.with(|cell| cell.try_borrow_mut().ok()?.as_mut().map(work))
}

/// Returns whether the command under way was cancelled.
pub(super) fn is_cancelled() -> bool {
    with(|context| {
        // Whoever cancels says so once.
        context.is_cancelled = context.is_cancelled || (context.cancel)();
        context.is_cancelled
    })
    .unwrap_or(false)
}

/// Returns whether the command just executed was found cancelled, and forgets it.
pub(super) fn take_cancelled() -> bool {
    with(|context| std::mem::take(&mut context.is_cancelled)).unwrap_or(false)
}

/// Returns the table libtpms is given.
pub(super) fn table() -> Callbacks {
    Callbacks {
        size: TABLE_BYTES,
        nvram_init: nothing,
        nvram_load,
        nvram_store,
        nvram_delete,
        io_init: nothing,
        io_locality,
        io_physical_presence,
    }
}

extern "C" fn nothing() -> Code {
    SUCCESS
}

/// # Safety
///
/// 1. `value` and `len` are valid for writes. 2. `name` is a string.
unsafe extern "C" fn nvram_load(
    value: *mut *mut c_uchar,
    len: *mut u32,
    _tpm: u32,
    name: *const c_char,
) -> Code {
    // SAFETY: 2.
    let name = unsafe { CStr::from_ptr(name) };
    let loaded = with(|context| context.load(&name.to_string_lossy()));
    let bytes = match loaded {
        Some(Ok(Some(bytes))) => bytes,
        Some(Ok(None)) => return NO_DATA,
        Some(Err(code)) => return code,
        None => return FAIL,
    };
    let Ok(bytes_len) = u32::try_from(bytes.len()) else {
        return FAIL;
    };
    let mut memory = ptr::null_mut();
    // SAFETY: `memory` is valid for writes.
    let code = unsafe { TPM_Malloc(&raw mut memory, bytes_len.max(1)) };
    if code != SUCCESS {
        return code;
    }
    // SAFETY: the library has just allocated so many bytes there.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len()) };
    // SAFETY: 1.
    unsafe { value.write(memory) };
    // SAFETY: 1.
    unsafe { len.write(bytes_len) };
    SUCCESS
}

/// # Safety
///
/// 1. `value` has `len` bytes. 2. `name` is a string.
unsafe extern "C" fn nvram_store(
    value: *const c_uchar,
    len: u32,
    _tpm: u32,
    name: *const c_char,
) -> Code {
    // SAFETY: 2.
    let name = unsafe { CStr::from_ptr(name) };
    let Ok(len) = usize::try_from(len) else {
        return FAIL;
    };
    let bytes = if len == 0 {
        &[]
    } else {
        // SAFETY: 1.
        unsafe { std::slice::from_raw_parts(value, len) }
    };
    code_of(with(|context| {
        context.store(&name.to_string_lossy(), bytes)
    }))
}

/// # Safety
///
/// `name` is a string.
unsafe extern "C" fn nvram_delete(_tpm: u32, name: *const c_char, _must_exist: c_uchar) -> Code {
    // SAFETY: the condition.
    let name = unsafe { CStr::from_ptr(name) };
    code_of(with(|context| context.delete(&name.to_string_lossy())))
}

/// # Safety
///
/// `locality` is valid for writes.
unsafe extern "C" fn io_locality(locality: *mut u32, _tpm: u32) -> Code {
    let number = with(|context| context.locality).unwrap_or(0);
    // SAFETY: the condition.
    unsafe { locality.write(number.into()) };
    SUCCESS
}

/// Nobody can prove to be at the machine; its owner does so by firmware's settings instead.
///
/// # Safety
///
/// `is_present` is valid for writes.
unsafe extern "C" fn io_physical_presence(is_present: *mut c_uchar, _tpm: u32) -> Code {
    // SAFETY: the condition.
    unsafe { is_present.write(0) };
    SUCCESS
}

fn code_of(outcome: Option<Result<(), Code>>) -> Code {
    match outcome {
        Some(Ok(())) => SUCCESS,
        Some(Err(code)) => code,
        None => FAIL,
    }
}
