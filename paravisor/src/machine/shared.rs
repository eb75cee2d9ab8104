//! What all vCPUs share behind a lock.
//!
//! In tests `taken` says how often this thread has taken one, so that a path can be shown to take none.

use spin::{Mutex, MutexGuard};

/// A value behind a lock that any vCPU may take.
#[derive(Debug)]
pub(super) struct Shared<T>(Mutex<T>);

impl<T> Shared<T> {
    /// Returns the value behind a lock.
    pub(super) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Takes the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(test)]
        TAKEN.with(|taken| taken.set(taken.get() + 1));
        self.0.lock()
    }
}

#[cfg(test)]
std::thread_local! {
    static TAKEN: core::cell::Cell<u32> = const { core::cell::Cell::new(0) };
}

/// Returns how many locks this thread has taken.
#[cfg(test)]
pub(crate) fn taken() -> u32 {
    TAKEN.with(core::cell::Cell::get)
}
