//! Time as devices see it.

/// Nanoseconds of guest time since power-on.
pub type Nanoseconds = u64;

/// When a device next wants to be looked at; `None` while nothing is due.
pub type Deadline = Option<Nanoseconds>;

/// The source of guest time. Never runs backwards, on any vCPU.
pub trait Clock {
    /// Returns the time now.
    fn now_ns(&self) -> Nanoseconds;
}

impl<T: Clock + ?Sized> Clock for &T {
    fn now_ns(&self) -> Nanoseconds {
        (**self).now_ns()
    }
}
