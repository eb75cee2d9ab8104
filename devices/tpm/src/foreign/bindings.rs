//! What we call of libtpms (`libtpms/tpm_library.h`, `tpm_memory.h`, `tpm_tis.h`) and OpenSSL (`openssl/bn.h`, `crypto.h`).

use std::ffi::{c_char, c_int, c_uchar, c_void};

/// `TPM_RESULT`.
pub(super) type Code = u32;
/// Done.
pub(super) const SUCCESS: Code = 0;
/// What a callback returns that cannot do as asked.
pub(super) const FAIL: Code = 9;
/// What a callback returns that has no such data.
pub(super) const NO_DATA: Code = 0x800;

/// `TPMLIB_TPM_VERSION_2`.
pub(super) const VERSION_2: c_int = 1;
/// `TPMLIB_STATE_VOLATILE`.
pub(super) const STATE_VOLATILE: c_int = 1 << 1;
/// `OPENSSL_INIT_NO_LOAD_CONFIG`: a configuration file would be somebody else's word.
pub(super) const NO_LOAD_CONFIG: u64 = 0x80;

/// `struct libtpms_callbacks`.
#[repr(C)]
pub(super) struct Callbacks {
    pub(super) size: c_int,
    pub(super) nvram_init: extern "C" fn() -> Code,
    pub(super) nvram_load:
        unsafe extern "C" fn(*mut *mut c_uchar, *mut u32, u32, *const c_char) -> Code,
    pub(super) nvram_store: unsafe extern "C" fn(*const c_uchar, u32, u32, *const c_char) -> Code,
    pub(super) nvram_delete: unsafe extern "C" fn(u32, *const c_char, c_uchar) -> Code,
    pub(super) io_init: extern "C" fn() -> Code,
    pub(super) io_locality: unsafe extern "C" fn(*mut u32, u32) -> Code,
    pub(super) io_physical_presence: unsafe extern "C" fn(*mut c_uchar, u32) -> Code,
}

const _: () = assert!(size_of::<Callbacks>() == 64);

/// `BN_GENCB`, which only OpenSSL looks into.
#[repr(C)]
pub(super) struct Progress {
    _opaque: [u8; 0],
}

#[link(name = "tpms", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {
    pub(super) fn TPMLIB_ChooseTPMVersion(version: c_int) -> Code;
    pub(super) fn TPMLIB_RegisterCallbacks(callbacks: *mut Callbacks) -> Code;
    pub(super) fn TPMLIB_SetBufferSize(wanted: u32, least: *mut u32, most: *mut u32) -> u32;
    pub(super) fn TPMLIB_MainInit() -> Code;
    pub(super) fn TPMLIB_Terminate();
    pub(super) fn TPMLIB_Process(
        response: *mut *mut c_uchar,
        response_len: *mut u32,
        response_room: *mut u32,
        command: *mut c_uchar,
        command_len: u32,
    ) -> Code;
    pub(super) fn TPMLIB_GetState(kind: c_int, state: *mut *mut c_uchar, len: *mut u32) -> Code;
    pub(super) fn TPM_IO_Hash_Start() -> Code;
    pub(super) fn TPM_IO_Hash_Data(data: *const c_uchar, len: u32) -> Code;
    pub(super) fn TPM_IO_Hash_End() -> Code;
    pub(super) fn TPM_IO_TpmEstablished_Get(is_established: *mut c_uchar) -> Code;
    pub(super) fn TPM_IO_TpmEstablished_Reset() -> Code;
    pub(super) fn TPM_Malloc(memory: *mut *mut c_uchar, len: u32) -> Code;
    pub(super) fn TPM_Free(memory: *mut c_uchar);
    /// The library's own function behind the one of ours (`--wrap`).
    pub(super) fn __real__plat__IsCanceled() -> c_int;
}

#[link(name = "crypto", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {
    pub(super) fn OPENSSL_init_crypto(options: u64, settings: *const c_void) -> c_int;
    pub(super) fn BN_GENCB_new() -> *mut Progress;
    pub(super) fn BN_GENCB_free(progress: *mut Progress);
    pub(super) fn BN_GENCB_set(
        progress: *mut Progress,
        callback: extern "C" fn(c_int, c_int, *mut Progress) -> c_int,
        argument: *mut c_void,
    );
    /// The library's own function behind the one of ours (`--wrap`).
    pub(super) fn __real_RSA_generate_key_ex(
        key: *mut c_void,
        bits: c_int,
        exponent: *mut c_void,
        progress: *mut Progress,
    ) -> c_int;
}
