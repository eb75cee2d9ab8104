//! How a driver can break the rules of its rings.

use stockade_bus::{Gpa, MemoryError};

/// A rule the driver broke. The device then needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A queue has more entries than the device takes, none, or no power of two in a split ring.
    #[error("a queue cannot have {0} entries")]
    QueueSize(u16),
    /// Part of a ring is not aligned as it must be.
    #[error("a ring cannot begin at {0}")]
    Alignment(Gpa),
    /// Part of a ring, or a table of descriptors, is not guest memory.
    #[error("a ring is out of reach: {0}")]
    Memory(#[from] MemoryError),
    /// The index of the available ring is further on than there are entries.
    #[error("the available index jumps to {0}")]
    IndexJump(u16),
    /// A descriptor has an index past the end of its table.
    #[error("there is no descriptor {0}")]
    NoDescriptor(u16),
    /// More is available than the ring can hold.
    #[error("more buffers are available than the ring holds")]
    TooManyInFlight,
    /// A chain has a loop or more descriptors than the device takes.
    #[error("a chain does not end")]
    ChainTooLong,
    /// A chain goes on with a descriptor that is not available.
    #[error("a chain goes on with descriptor {0}, which is not available")]
    NotAvailable(u16),
    /// A buffer has no bytes.
    #[error("the buffer at {0} has no bytes")]
    ZeroLength(Gpa),
    /// A buffer is not wholly guest RAM.
    #[error("the buffer at {0} is not guest memory")]
    NotMemory(Gpa),
    /// The buffers of a chain have more than 4 GiB together.
    #[error("a chain has more than 4 GiB")]
    ChainTooLarge,
    /// A buffer to be read follows one to be written.
    #[error("a buffer to be read follows one to be written")]
    ReadableAfterWritable,
    /// A table of descriptors, though the driver did not negotiate them, within another, or in the middle of a chain.
    #[error("a table of descriptors where none may be")]
    Indirect,
    /// A table of descriptors is empty or ends within one.
    #[error("a table of descriptors has {0} bytes")]
    TableLength(u32),
    /// A request lacks what every request of the device has.
    #[error("a request is too short")]
    ShortRequest,
}
