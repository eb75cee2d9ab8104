//! libtpms as an [`Engine`].

use std::marker::PhantomData;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use stockade_devices::tpm::command::{self, Locality, MAX_BYTES, ResponseCode};

use super::bindings::{
    Code, NO_LOAD_CONFIG, OPENSSL_init_crypto, STATE_VOLATILE, SUCCESS, TPM_Free, TPM_IO_Hash_Data,
    TPM_IO_Hash_End, TPM_IO_Hash_Start, TPM_IO_TpmEstablished_Get, TPM_IO_TpmEstablished_Reset,
    TPMLIB_ChooseTPMVersion, TPMLIB_GetState, TPMLIB_MainInit, TPMLIB_Process,
    TPMLIB_RegisterCallbacks, TPMLIB_SetBufferSize, TPMLIB_Terminate, VERSION_2,
};
use super::callbacks;
use crate::{Engine, EngineError, Records};

/// The library has one state a process.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The library's one instance. It stays on the thread it was taken on.
#[derive(Debug)]
pub struct Libtpms {
    is_on: bool,
    response: Buffer,
    _on_this_thread: PhantomData<*const ()>,
}

impl Libtpms {
    /// Returns the engine, or `None` if somebody has it: it keeps what must last by `records` and asks `cancel` now and then whether the
    /// command under way was cancelled.
    #[must_use]
    pub fn take(records: Box<dyn Records>, cancel: Box<dyn FnMut() -> bool>) -> Option<Self> {
        if IS_TAKEN.swap(true, Ordering::SeqCst) {
            return None;
        }
        callbacks::install(records, cancel);
        Some(Self {
            is_on: false,
            response: Buffer::default(),
            _on_this_thread: PhantomData,
        })
    }

    fn check_on(&self) -> Result<(), EngineError> {
        if self.is_on {
            Ok(())
        } else {
            Err(EngineError::Off)
        }
    }
}

impl Drop for Libtpms {
    fn drop(&mut self) {
        self.power_off();
        IS_TAKEN.store(false, Ordering::SeqCst);
    }
}

impl Engine for Libtpms {
    fn power_on(&mut self, resumed: Option<&[u8]>) -> Result<(), EngineError> {
        self.power_off();
        let is_resumed = resumed.is_some();
        callbacks::with(|context| {
            context.resumed = resumed.map(<[u8]>::to_vec);
            context.locality = 0;
        });
        // SAFETY: no settings are given.
        unsafe { OPENSSL_init_crypto(NO_LOAD_CONFIG, ptr::null()) };
        // SAFETY: a number.
        let code = unsafe { TPMLIB_ChooseTPMVersion(VERSION_2) };
        check(code, "choosing its version")?;
        let mut table = callbacks::table();
        // SAFETY: the library copies the table.
        let code = unsafe { TPMLIB_RegisterCallbacks(&raw mut table) };
        check(code, "its registration")?;
        let wanted = u32::try_from(MAX_BYTES).unwrap_or(0);
        // SAFETY: nobody wants to know the limits.
        unsafe { TPMLIB_SetBufferSize(wanted, ptr::null_mut(), ptr::null_mut()) };
        // SAFETY: version and callbacks are chosen.
        let outcome = check(unsafe { TPMLIB_MainInit() }, "its start");
        let is_untaken = callbacks::with(|context| context.resumed.take().is_some());
        match outcome {
            Ok(()) if is_untaken == Some(true) => Err(EngineError::State),
            Err(_) if is_resumed => Err(EngineError::State),
            outcome => {
                self.is_on = outcome.is_ok();
                outcome
            }
        }
    }

    fn power_off(&mut self) {
        if std::mem::take(&mut self.is_on) {
            // SAFETY: it was started.
            unsafe { TPMLIB_Terminate() };
        }
    }

    fn execute(&mut self, locality: Locality, command: &[u8]) -> Result<Vec<u8>, EngineError> {
        self.check_on()?;
        let Ok(len) = u32::try_from(command.len()) else {
            return Ok(command::failed(ResponseCode::COMMAND_SIZE).to_vec());
        };
        callbacks::with(|context| context.locality = locality.number());
        callbacks::take_cancelled();
        let mut command = command.to_vec();
        let Buffer {
            memory,
            len_bytes,
            room,
        } = &mut self.response;
        // SAFETY: the library is on, the response is a buffer of its own making or none, the command has so many bytes.
        let code = unsafe { TPMLIB_Process(memory, len_bytes, room, command.as_mut_ptr(), len) };
        check(code, "a command")?;
        let response = self.response.bytes();
        let was_cancelled = callbacks::take_cancelled();
        let code = command::response_code(response);
        if was_cancelled && [ResponseCode::FAILURE, ResponseCode::NO_RESULT].contains(&code) {
            // OpenSSL made no key, and libtpms cannot tell why.
            return Ok(command::failed(ResponseCode::CANCELED).to_vec());
        }
        Ok(response.to_vec())
    }

    fn hash_start(&mut self) -> Result<(), EngineError> {
        self.check_on()?;
        callbacks::with(|context| context.locality = Locality::FOUR.number());
        // SAFETY: the library is on.
        check(unsafe { TPM_IO_Hash_Start() }, "the start of a hash")
    }

    fn hash_data(&mut self, data: &[u8]) -> Result<(), EngineError> {
        self.check_on()?;
        let len = u32::try_from(data.len()).map_err(|_| EngineError::Failed(0, "a hash"))?;
        // SAFETY: the library is on, `data` has so many bytes.
        check(unsafe { TPM_IO_Hash_Data(data.as_ptr(), len) }, "a hash")
    }

    fn hash_end(&mut self) -> Result<(), EngineError> {
        self.check_on()?;
        // SAFETY: the library is on.
        check(unsafe { TPM_IO_Hash_End() }, "the end of a hash")
    }

    fn is_established(&mut self) -> Result<bool, EngineError> {
        self.check_on()?;
        let mut is_established = 0;
        // SAFETY: the library is on, and writes a byte.
        let code = unsafe { TPM_IO_TpmEstablished_Get(&raw mut is_established) };
        check(code, "the question for a dynamic launch")?;
        Ok(is_established != 0)
    }

    fn reset_established(&mut self, locality: Locality) -> Result<(), EngineError> {
        self.check_on()?;
        callbacks::with(|context| context.locality = locality.number());
        // SAFETY: the library is on; it looks at the locality itself.
        let code = unsafe { TPM_IO_TpmEstablished_Reset() };
        check(code, "forgetting a dynamic launch")
    }

    fn save(&mut self) -> Result<Vec<u8>, EngineError> {
        self.check_on()?;
        let mut state = Buffer::default();
        // SAFETY: the library is on, and allocates what it returns.
        let code =
            unsafe { TPMLIB_GetState(STATE_VOLATILE, &mut state.memory, &mut state.len_bytes) };
        check(code, "saving its state")?;
        Ok(state.bytes().to_vec())
    }
}

fn check(code: Code, doing: &'static str) -> Result<(), EngineError> {
    if code == SUCCESS {
        Ok(())
    } else {
        Err(EngineError::Failed(code, doing))
    }
}

/// Memory of the library's.
#[derive(Debug)]
struct Buffer {
    memory: *mut u8,
    len_bytes: u32,
    room: u32,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            memory: ptr::null_mut(),
            len_bytes: 0,
            room: 0,
        }
    }
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        let len = usize::try_from(self.len_bytes).unwrap_or(0);
        if self.memory.is_null() || len == 0 {
            return &[];
        }
        // SAFETY: the library says that it wrote so many bytes to memory it allocated, and will not touch it before the next call,
        // for which `self` is borrowed anew.
        unsafe { slice::from_raw_parts(self.memory, len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the library's memory or null; nobody has it any more.
        unsafe { TPM_Free(self.memory) };
    }
}
