//! Patience with a host's device that has requests and gives none back.
//!
//! A guest's driver of virtio waits for ever; a host's device that has vanished answers never. So whoever has requests with a device
//! looks at it every [`INTERVAL_NS`]. Time is counted in looks, not in seconds: a host that stood still for an hour has not been
//! looked at in that time, and what it answers when it goes on still counts.

/// Nanoseconds between two looks.
pub const INTERVAL_NS: u64 = 5_000_000_000;
/// So many looks a request may see go by with its device in good order.
pub const LOOKS: u32 = 12;

/// When a device is looked at next, and how often it was.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Looks so far. What is posted notes it.
    looks: u32,
    /// When the next is due, while the device has something.
    due_ns: Option<u64>,
}

impl Watch {
    /// Returns the moment for requests to note.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.looks)
    }

    /// Returns how many looks were since then.
    pub(crate) fn since(&self, Moment(then): Moment) -> u32 {
        self.looks.wrapping_sub(then)
    }

    /// Returns when the next look is due.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// Forgets the next look: the device has nothing.
    pub(crate) fn rest(&mut self) {
        self.due_ns = None;
    }

    /// Returns whether it is time for a look, and notes that there was one. The first call after a rest only starts the wait.
    pub(crate) fn is_time(&mut self, now_ns: u64) -> bool {
        let is_time = self.due_ns.is_some_and(|due| due <= now_ns);
        if is_time {
            self.looks = self.looks.wrapping_add(1);
        }
        if is_time || self.due_ns.is_none() {
            self.due_ns = Some(now_ns.saturating_add(INTERVAL_NS));
        }
        is_time
    }
}

/// A point between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u32);

impl Moment {
    /// Before the first look.
    pub(crate) const START: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::{INTERVAL_NS, Watch};

    #[test]
    fn looks_are_an_interval_apart_however_late_they_come() {
        let mut watch = Watch::default();
        let posted = watch.moment();
        assert!(!watch.is_time(100));
        assert_eq!(watch.due_ns(), Some(100 + INTERVAL_NS));
        assert!(!watch.is_time(99 + INTERVAL_NS));
        assert_eq!(watch.since(posted), 0);
        let later = 1000 * INTERVAL_NS;
        assert!(watch.is_time(later));
        assert!(!watch.is_time(later));
        assert_eq!(watch.since(posted), 1);
        watch.rest();
        assert!(!watch.is_time(u64::MAX));
    }
}
