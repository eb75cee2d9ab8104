//! What a sealed store reports, each with a code for the log. The codes are listed in `docs/sealed-store.md`.

/// What is known of the newest state of a store, from somewhere its host cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTrust {
    /// Nothing: any authentic store is accepted, and an empty one is begun.
    Nothing,
    /// It reached this sequence number.
    AtLeast(u64),
}

/// How sure it is that an opened store is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFreshness {
    /// It was empty; whether it should have been is not known.
    Created,
    /// It is as new as the anchor, or newer.
    Verified,
    /// There was no anchor: it may be an older copy.
    Unknown,
}

/// Why a store cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// The host could not read.
    #[error("S01: the host failed to read the store")]
    Unreadable,
    /// No store.
    #[error("S02: this is no sealed store")]
    NotAStore,
    /// A version this program does not know.
    #[error("S03: the store has a format of version {0}")]
    Version(u32),
    /// A header that contradicts itself.
    #[error("S04: the header of the store is damaged")]
    Header,
    /// A file shorter than the header says.
    #[error("S05: the store's file has {found} blocks of 4 KiB, not {expected}: it was truncated")]
    Truncated {
        /// As the host says.
        found: u64,
        /// As the header says.
        expected: u64,
    },
    /// No area begins with an authentic snapshot.
    #[error("S06: nothing in the store is authentic: wrong key, another store, or damaged")]
    NothingAuthentic,
    /// An entry is missing or changed before others that are authentic: no power cut does that.
    #[error("S07: entry {0} of the store is missing or was changed")]
    Damaged(u64),
    /// Older than the anchor.
    #[error(
        "S08: the store reached entry {anchored}, this one ends at {found}: it was rolled back"
    )]
    RolledBack {
        /// In the file.
        found: u64,
        /// Known.
        anchored: u64,
    },
    /// Larger than there is memory for.
    #[error("S09: the store has areas of {found} blocks, there is memory for {most}")]
    TooLarge {
        /// As the header says.
        found: u32,
        /// As configured.
        most: u32,
    },
}

/// Why a record was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store is not open, or no longer: a write failed.
    #[error("S20: the store is not open")]
    Closed,
    /// No room for the record.
    #[error("S21: the store is full")]
    Full,
    /// A name that is empty or longer than 255 bytes.
    #[error("S22: a name has 1 to 255 bytes")]
    Name,
}
