//! The descriptors a module is started with: 3 is the channel, 4 the record store, 5 has reports.

use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{MsgFlags, recv};
use stockade_devices::tpm::message::CANCEL;

const CHANNEL: RawFd = 3;
const RECORDS: RawFd = 4;
const REPORTS: RawFd = 5;

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// What a module is started with.
#[derive(Debug)]
pub struct Descriptors {
    /// Requests come in and responses go out.
    pub channel: File,
    /// The record store.
    pub records: File,
    /// The secure processor's reports.
    pub reports: File,
}

impl Descriptors {
    /// Returns them, once.
    #[must_use]
    pub fn take() -> Option<Self> {
        if IS_TAKEN.swap(true, Ordering::SeqCst) {
            return None;
        }
        // SAFETY: by the module interface descriptor 3 is ours, and it was not taken before.
        let channel = unsafe { File::from_raw_fd(CHANNEL) };
        // SAFETY: the same for descriptor 4.
        let records = unsafe { File::from_raw_fd(RECORDS) };
        // SAFETY: the same for descriptor 5.
        let reports = unsafe { File::from_raw_fd(REPORTS) };
        Some(Self {
            channel,
            records,
            reports,
        })
    }
}

/// Returns whether the request under way was cancelled since the last call.
#[must_use]
pub fn is_cancelled() -> bool {
    let mut byte = [0; 1];
    recv(CHANNEL, &mut byte, MsgFlags::MSG_DONTWAIT) == Ok(1) && byte == CANCEL
}
